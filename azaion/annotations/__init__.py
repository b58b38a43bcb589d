"""Annotations: from messages of a stream to files on disk, each exactly once."""
