"""One child process per module: each runs as ``python -m workers.NAME``, the shim as a bare script."""
