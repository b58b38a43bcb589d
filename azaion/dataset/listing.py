"""The list of a snapshot's files while it is being formed: on the disk, since it may have a million lines."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from azaion import files


class Listing:
    """Lines in the order in which they come, folder by folder.

    Args:
        path: a folder of its own.
        stack: closes what it opens.
    """

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._stack = stack
        self._parts: dict[str, BinaryIO] = {}
        self.count = 0

    def add(self, path: str, sha256: str, size: int) -> None:
        """Take up a file; ``path`` is below the snapshot."""
        folder = path.rpartition("/")[0]
        if folder not in self._parts:
            part = self._path / f"{len(self._parts)}"
            self._parts[folder] = self._stack.enter_context(part.open("w+b"))
        self._parts[folder].write(f"{sha256}\t{size}\t{path}\n".encode())
        self.count += 1

    def write(self, target: Path) -> str:
        """Write the whole list; returns its SHA-256."""
        digest = hashlib.sha256()
        with target.open("xb") as stream:
            for folder in sorted(self._parts):
                part = self._parts[folder]
                part.seek(0)
                while block := part.read(1 << 20):
                    digest.update(block)
                    stream.write(block)
        target.chmod(0o444)
        return digest.hexdigest()


@contextmanager
def listing(path: Path) -> Iterator[Listing]:
    """A list that is being made in the folder ``path``, which is gone afterwards."""
    files.make_folder(path)
    try:
        with ExitStack() as stack:
            yield Listing(path, stack)
    finally:
        files.remove_tree(path)
