"""The control socket: HTTP and JSON over AF_UNIX."""
