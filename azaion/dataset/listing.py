"""The list of a snapshot's files while it is being formed: on the disk, since it may have a million lines."""

import hashlib
from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from azaion import files
from azaion.dataset.snapshot import Row


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
        self._parts[folder].write(Row(path, sha256, size).line())
        self.count += 1

    def rows(self, folder: str) -> Iterator[Row]:
        """What was taken up of a folder, in the same order."""
        if folder in self._parts:
            self._parts[folder].seek(0)
            yield from map(Row.read, self._parts[folder])

    def write(self, target: Path, *, without: Container[str] = ()) -> str:
        """Write the list, but for the files that are gone since; returns its SHA-256."""
        digest = hashlib.sha256()
        with target.open("xb") as stream:
            for folder in sorted(self._parts):
                for row in self.rows(folder):
                    if row.path in without:
                        self.count -= 1
                        continue
                    digest.update(row.line())
                    stream.write(row.line())
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
