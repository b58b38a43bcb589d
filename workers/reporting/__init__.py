"""What the report worker reads and finds out; what the page looks like, `azaion.report` knows."""
