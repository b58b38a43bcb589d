"""What no model has seen yet: counted from the names of files, none of which is opened or looked at."""

import os
from contextlib import suppress
from pathlib import Path

from azaion import models
from azaion.dataset.snapshot import NAME
from azaion.layout import Layout, SnapshotFolder


def basis(layout: Layout) -> str:
    """The dataset of the newest model, whether that is in use or not; empty if there is no model."""
    for name in reversed(models.names(layout)):
        with suppress(models.ModelError):
            found = (models.load(layout, name).card.get("dataset") or {}).get("name", "")
            return found if NAME.fullmatch(str(found)) else ""
    return ""


def count(layout: Layout, dataset: str) -> int:
    """How many validated images are not in a dataset; all of them if it is empty, or gone.

    Raises:
        OSError: the disk refuses.
    """
    known = _names(SnapshotFolder(path=layout.datasets / dataset).files) if dataset else set()
    with os.scandir(os.fsencode(layout.data.images)) as entries:
        return sum(entry.name not in known for entry in entries)


def _names(listed: Path) -> set[bytes]:
    try:
        # As bytes: a damaged list must not end who counts.
        with listed.open("rb") as lines:
            return {line.rstrip(b"\n").rpartition(b"/")[2] for line in lines}
    except FileNotFoundError:
        return set()
