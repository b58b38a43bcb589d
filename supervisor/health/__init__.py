"""Whether everything is well: checks that read the machine, and what is made of what they read."""
