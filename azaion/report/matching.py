"""Which boxes that were found are right: the surest first, each true box once, as the scores count it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from azaion.report.facts import Box

#: Boxes that overlap by so much (intersection over union) are the same.
OVERLAP: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Matching:
    """For each box, in the order given, whether the other side has it too."""

    truth: tuple[bool, ...]
    found: tuple[bool, ...]


def match(truth: Sequence[Box], found: Sequence[Box]) -> Matching:
    """Hold what was found against what is true."""
    taken: set[int] = set()
    right: set[int] = set()
    for place, box in sorted(enumerate(found), key=lambda each: -(each[1].confidence or 0.0)):
        candidates = [
            (overlap(box, other), -number)
            for number, other in enumerate(truth)
            if other.number == box.number and number not in taken
        ]
        if candidates and max(candidates)[0] >= OVERLAP:
            taken.add(-max(candidates)[1])
            right.add(place)
    return Matching(
        truth=tuple(number in taken for number in range(len(truth))),
        found=tuple(place in right for place in range(len(found))),
    )


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    shared = max(0.0, width) * max(0.0, height)
    whole = _area(one) + _area(other) - shared
    return shared / whole if whole > 0 else 0.0


def _area(box: Box) -> float:
    return max(0.0, box.right - box.left) * max(0.0, box.bottom - box.top)
