"""One module per group of ``azaionctl`` commands, imported only when it is called."""
