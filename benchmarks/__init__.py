"""What it costs. See docs/performance.md for the figures, and for the commands that make them."""

import os

# An installed program has its bytecode; to compile it anew would be measured with every command.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
