"""How many boxes the images of a dataset have, and how large these are; of many images, of some drawn by chance."""

import math
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from azaion import files
from azaion.dataset import Snapshot, Split
from azaion.dataset.labels import MAX_BYTES
from azaion.report.facts import Box

#: A second's worth on a slow disk.
_LABELS: Final = 5_000
_STEPS: Final = 20


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What the labels tell; see `azaion.report.facts.Balance`."""

    number: int
    per_image: dict[int, int]
    sizes: tuple[int, ...]


def look(snapshot: Snapshot) -> Looked:
    """Read labels of all sides. One that cannot be read is left out."""
    paths = [path for split in Split for path in _files(snapshot.folder.annotations(split).labels)]
    if len(paths) > _LABELS:
        paths = random.Random(snapshot.name).sample(paths, _LABELS)  # noqa: S311 - the same ones each time
    per_image: Counter[int] = Counter()
    sizes = [0] * _STEPS
    for path in paths:
        boxes = read(path)
        if boxes is None:
            continue
        per_image[len(boxes)] += 1
        for box in boxes:
            edge = math.sqrt(max(0.0, (box.right - box.left) * (box.bottom - box.top)))
            sizes[min(int(edge * _STEPS), _STEPS - 1)] += 1
    return Looked(number=per_image.total(), per_image=dict(per_image), sizes=tuple(sizes))


def read(path: Path) -> list[Box] | None:
    """The boxes of a label; None if it cannot be read."""
    try:
        text = files.read_small(path, limit=MAX_BYTES)
        return [_box(*line.split()) for line in text.splitlines() if line.strip()]
    except (OSError, files.FileError, ValueError, TypeError):
        return None


def _box(number: bytes, x: bytes, y: bytes, width: bytes, height: bytes) -> Box:
    across, down, half_width, half_height = float(x), float(y), float(width) / 2, float(height) / 2
    return Box(
        number=int(number),
        left=max(0.0, across - half_width),
        top=max(0.0, down - half_height),
        right=min(1.0, across + half_width),
        bottom=min(1.0, down + half_height),
    )


def _files(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError:
        return
    yield from (folder / name for name in names)
