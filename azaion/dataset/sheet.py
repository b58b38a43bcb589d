"""A contact sheet: some images of a snapshot with their boxes, as one picture."""

import math
import random
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from azaion import files, pictures
from azaion.dataset import labels
from azaion.dataset.errors import CorruptedError, DatasetError
from azaion.dataset.snapshot import Snapshot, rows
from azaion.dataset.split import Split

if TYPE_CHECKING:
    from PIL import Image as pillow  # noqa: N813

#: Pixels of the longer side of an image, and of what stands between two.
_EDGE: Final = 320
_GAP: Final = 6
_TEXT: Final = 14
#: In an image with more boxes names would cover what they name.
_NAMED: Final = 20
#: Told apart also by those who confuse red and green (Okabe and Ito).
_COLOURS: Final = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#ffffff")


def sheet(snapshot: Snapshot, *, split: Split | None, count: int, seed: int) -> "pillow.Image":
    """Draw so many images, chosen by chance; the same seed chooses the same.

    Args:
        snapshot: where they are from.
        split: from which side; None from all of them.
        count: how many, or all there are if that is fewer.
        seed: for the choice.

    Raises:
        DatasetError: there is no image, or one cannot be read.
    """
    from PIL import Image as pillow  # noqa: N813, PLC0415 - slow, and what needs no picture needs none of it

    sides = [split] if split is not None else list(Split)
    paths = sorted(row.path for row in rows(snapshot) if any(row.path.startswith(f"{side}/images/") for side in sides))
    if not paths:
        where = f"on the side {split} of {snapshot.name}" if split is not None else f"in {snapshot.name}"
        raise DatasetError(f"There is no image {where}.")
    chosen = sorted(random.Random(seed).sample(paths, min(count, len(paths))))  # noqa: S311 - a choice, no secret
    columns = math.ceil(math.sqrt(len(chosen)))
    lines = math.ceil(len(chosen) / columns)
    size = (_GAP + columns * (_EDGE + _GAP), _GAP + lines * (_EDGE + _TEXT + _GAP))
    whole = pillow.new("RGB", size, "#202020")
    for number, path in enumerate(chosen):
        corner = (
            _GAP + number % columns * (_EDGE + _GAP),
            _GAP + number // columns * (_EDGE + _TEXT + _GAP),
        )
        _draw(whole, corner, snapshot, path)
    return whole


def _draw(whole: "pillow.Image", corner: tuple[int, int], snapshot: Snapshot, path: str) -> None:
    from PIL import Image as pillow  # noqa: N813, PLC0415 - the same
    from PIL import ImageDraw, ImageOps  # noqa: PLC0415 - the same

    try:
        with pillow.open(snapshot.path / path, formats=pictures.FORMATS) as image:
            small = ImageOps.contain(ImageOps.exif_transpose(image).convert("RGB"), (_EDGE, _EDGE))
    except (OSError, ValueError, pillow.DecompressionBombError) as error:
        raise DatasetError(f"{snapshot.path / path} cannot be read: {error}. See: azaionctl datasets verify.") from None
    left, top = corner[0] + (_EDGE - small.width) // 2, corner[1] + _TEXT
    whole.paste(small, (left, top))
    pen = ImageDraw.Draw(whole)
    pen.text(corner, path[: _EDGE // 6], fill="#ffffff")
    boxes = _boxes(snapshot, path)
    names = snapshot.manifest["classes"]
    for number, x, y, width, height in boxes:
        box = (
            left + (x - width / 2) * small.width,
            top + (y - height / 2) * small.height,
            left + (x + width / 2) * small.width,
            top + (y + height / 2) * small.height,
        )
        colour = _COLOURS[number % len(_COLOURS)]
        pen.rectangle(box, outline=colour, width=2)
        if len(boxes) <= _NAMED:
            place = (box[0] + 3, box[1] + 1)
            pen.text(place, str(names[number])[:20], fill=colour, stroke_width=1, stroke_fill="#000000")


def _boxes(snapshot: Snapshot, image: str) -> list[tuple[int, float, float, float, float]]:
    path = PurePosixPath(image)
    label = Path(snapshot.path, path.parent.parent, "labels", f"{path.stem}.txt")
    try:
        lines = files.read_small(label, limit=labels.MAX_BYTES).decode().splitlines()
        found = [line.split() for line in lines if line.strip()]
        return [(int(number), float(x), float(y), float(w), float(h)) for number, x, y, w, h in found]
    except (OSError, files.FileError, ValueError, CorruptedError) as error:
        raise DatasetError(f"{label} cannot be read: {error}. See: azaionctl datasets verify.") from None
