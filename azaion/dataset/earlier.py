"""What the newest snapshot knows of images, so that those without a record are not read again for each dataset."""

import heapq
import os
from collections.abc import Iterator

from azaion.dataset.errors import DatasetError
from azaion.dataset.images import Image
from azaion.dataset.snapshot import Row, Snapshot, load, names, rows
from azaion.dataset.split import Split
from azaion.layout import Layout

#: Clocks of filesystems are coarse: what was written so shortly before a snapshot may have been written after it.
_COARSE_NS = 2_000_000_000


class Earlier:
    """The images of the newest snapshot.

    An image is the same as there if it is the same file still (the snapshot links it, so its inode cannot be another's)
    with the same size, and was not written since.

    Args:
        layout: where the snapshots lie.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._snapshot: Snapshot | None = None
        self._formed_ns = 0
        self._rows: Iterator[Row] | None = None
        self._row: Row | None = None

    def know(self, path: str, file: str) -> Image | None:
        """What is known of the image at ``path``, which has the name ``file`` in snapshots; None if nothing is.

        To be asked in the order of the names without extension: both lists are read side by side, so that neither is
        ever held whole.

        Raises:
            OSError: it cannot be looked at.
        """
        if self._rows is None:
            self._rows = self._begin()
        while self._row is not None and _name(self._row.path) < _name(file):
            self._row = next(self._rows, None)
        if self._row is None or self._snapshot is None or os.path.basename(self._row.path) != file:  # noqa: PTH119 a hundred thousand times
            return None
        status = os.lstat(path)
        try:
            before = os.lstat(f"{self._snapshot.path}/{self._row.path}")
        except FileNotFoundError:
            return None
        same = (status.st_ino, status.st_dev) == (before.st_ino, before.st_dev)
        untouched = status.st_size == self._row.size and status.st_mtime_ns < self._formed_ns - _COARSE_NS
        return Image(self._row.sha256, self._row.size) if same and untouched else None

    def _begin(self) -> Iterator[Row]:
        """The images of the newest snapshot that is whole, in the order of their names."""
        for name in reversed(names(self._layout)):
            try:
                snapshot = load(self._layout, name)
                found = heapq.merge(*(_images(snapshot, split) for split in Split), key=lambda row: _name(row.path))
                self._row = next(found, None)
            except DatasetError:
                continue
            self._snapshot = snapshot
            self._formed_ns = os.lstat(snapshot.folder.manifest).st_mtime_ns
            return found
        return iter(())


def _images(snapshot: Snapshot, split: Split) -> Iterator[Row]:
    # A list that another version wrote may stand in another order: then less is vouched for, and nothing wrongly.
    beginning = f"{split}/images/"
    return (row for row in rows(snapshot) if row.path.startswith(beginning))


def _name(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]  # noqa: PTH119, PTH122 a hundred thousand times
