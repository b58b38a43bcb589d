"""Series as blocks of characters, which any terminal and any colour can show."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from supervisor.top.lines import fit

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
#: Of a plot: its name, and its newest value.
_LABEL: Final = 11
_VALUE: Final = 8


@dataclass(frozen=True, kw_only=True)
class Series:
    """Figures over time.

    Attributes:
        values: the oldest first; None where nobody knew.
        low: the value that is drawn as nothing; None for a little less than the smallest.
        high: the value that fills the height, if there is no larger one; None for the largest.
        unit: stands behind a value.
        digits: after the point.
    """

    name: str
    values: Sequence[float | None]
    low: float | None = None
    high: float | None = None
    unit: str = ""
    digits: int = 0

    @property
    def newest(self) -> str:
        """The last value, in words."""
        last = self.values[-1] if self.values else None
        return "?" if last is None else self.word(last)

    def word(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:.{self.digits}f}{self.unit}"

    def bounds(self, low: float, high: float) -> str:
        """Between what values it is drawn."""
        return f"{low:.{self.digits}f}..{self.word(high)}"


def plot_room(width: int) -> int:
    """How many columns of a plot are left for values."""
    return max(1, width - _LABEL - _VALUE - 1)


def plot(series: Series, width: int, height: int) -> list[str]:
    """The series as ``height`` lines of at most ``width`` cells, with its name, its newest value and its bounds."""
    found = squeezed(series.values, plot_room(width))
    known = [value for value in found if value is not None]
    if not known:
        return [f"{fit(series.name, _LABEL)}{'?':>{_VALUE}}", *[""] * (height - 1)]
    high = max(known) if series.high is None else max(series.high, *known)
    low = _floor(min(known), high) if series.low is None else min(series.low, *known)
    drawn = columns(found, low, high, height)
    lefts = [f"{fit(series.name, _LABEL)}{series.newest:>{_VALUE}}", f"{series.bounds(low, high):>{_LABEL + _VALUE}}"]
    lefts += [" " * (_LABEL + _VALUE)] * height
    return [f"{left} {line}" for left, line in zip(lefts, drawn, strict=False)]


def columns(values: Iterable[float | None], low: float, high: float, height: int) -> list[str]:
    """A column for each value, ``height`` lines high, the topmost line first; what is known is always seen."""
    steps = len(_BLOCKS) - 1
    full = height * steps
    levels = [None if value is None else max(1, round(full * _share(value, low, high))) for value in values]
    return [
        "".join(" " if level is None else _BLOCKS[min(steps, max(0, level - line * steps))] for level in levels)
        for line in reversed(range(height))
    ]


def squeezed(values: Sequence[float | None], room: int) -> list[float | None]:
    """At most ``room`` values: the mean of what falls together."""
    if len(values) <= room:
        return list(values)
    edges = [round(place * len(values) / room) for place in range(room + 1)]
    return [mean(values[first:last]) for first, last in itertools.pairwise(edges)]


def over_time(
    moments: Sequence[float], values: Sequence[float | None], *, start: float, end: float, room: int
) -> list[float | None]:
    """``room`` values from ``start`` to ``end``: the mean of what falls into each part of it, None for nothing."""
    parts: list[list[float | None]] = [[] for _ in range(room)]
    for moment, value in zip(moments, values, strict=True):
        place = math.floor((moment - start) / (end - start) * room)
        if 0 <= place < room:
            parts[place].append(value)
    return [mean(part) for part in parts]


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.0


def _floor(smallest: float, largest: float) -> float:
    """So that the smallest value can still be seen."""
    return smallest - (largest - smallest) / 8
