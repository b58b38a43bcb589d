"""The daemon ``azaiond`` and the command ``azaionctl``."""
