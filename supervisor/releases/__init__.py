"""Releases: making, installing, changing and taking back one. Standard library only: it runs before there is any."""
