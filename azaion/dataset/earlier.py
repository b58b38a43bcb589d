"""What the newest snapshot knows of images, so that those without a record are not read again for each dataset."""

import os
from collections.abc import Mapping
from types import MappingProxyType

from azaion.dataset.errors import DatasetError
from azaion.dataset.images import Vouched
from azaion.dataset.snapshot import load, names, rows
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
        self._formed_ns = 0
        self._known: Mapping[str, tuple[str, Vouched]] | None = None

    def vouch(self, path: str, file: str) -> Vouched | None:
        """What is known of the image at ``path``, which has the name ``file`` in snapshots; None if nothing is.

        Raises:
            OSError: it cannot be looked at.
        """
        if self._known is None:
            self._known = self._read()
        if (found := self._known.get(file)) is None:
            return None
        there, vouched = found
        status = os.lstat(path)
        try:
            before = os.lstat(there)
        except FileNotFoundError:
            return None
        same = (status.st_ino, status.st_dev) == (before.st_ino, before.st_dev)
        untouched = status.st_size == vouched.size and status.st_mtime_ns < self._formed_ns - _COARSE_NS
        return vouched if same and untouched else None

    def _read(self) -> Mapping[str, tuple[str, Vouched]]:
        for name in reversed(names(self._layout)):
            try:
                snapshot = load(self._layout, name)
                found = {
                    os.path.basename(row.path): (f"{snapshot.path}/{row.path}", Vouched(row.sha256, row.size))  # noqa: PTH119 a hundred thousand times
                    for row in rows(snapshot)
                    if "/images/" in row.path
                }
            except DatasetError:
                continue
            self._formed_ns = os.lstat(snapshot.folder.manifest).st_mtime_ns
            return found
        return MappingProxyType({})
