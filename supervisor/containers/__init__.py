"""Deploying where azaiond runs in containers."""
