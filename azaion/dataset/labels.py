"""Labels: YOLO text, a line ``class x y w h`` for each box, in parts of the image's width and height."""

from collections.abc import Container
from typing import Final

from azaion.dataset.errors import CorruptedError, Reason

MAX_BYTES: Final = 8 << 20

_FIELDS: Final = 5

#: More digits than any class number has.
_MAX_DIGITS: Final = 6


def check(text: bytes, classes: Container[int]) -> list[int]:
    """The class of each box; no box at all is fine, for the image may show none.

    Raises:
        CorruptedError: it is not such text, a class is not among ``classes``, or a box is not inside the image.
    """
    found = []
    # As bytes, for float() takes digits of every script in text, and the trainer does not.
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != _FIELDS or not fields[0].isdigit() or len(fields[0]) > _MAX_DIGITS or b"_" in line:
            raise CorruptedError(Reason.LABEL, f"line {number} is not: class x y w h")
        try:
            x, y, width, height = map(float, fields[1:])
        except ValueError:
            raise CorruptedError(Reason.LABEL, f"line {number} is not: class x y w h") from None
        # So written that NaN fails too.
        if not (0 <= x <= 1 and 0 <= y <= 1 and 0 < width <= 1 and 0 < height <= 1):
            raise CorruptedError(Reason.BOX, f"line {number}: {x:g} {y:g} {width:g} {height:g}")
        class_number = int(fields[0])
        if class_number not in classes:
            raise CorruptedError(Reason.CLASS, f"line {number}: class {class_number}")
        found.append(class_number)
    return found
