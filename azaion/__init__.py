"""What the product knows: no daemon, no child processes."""

__version__ = "0.1.0"
