"""How a report writes figures and times."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def duration(span: timedelta | None) -> str:
    """``2 d 4 h``, ``12 min 3 s``, ``0.4 s``; a question mark if nobody knows."""
    if span is None:
        return "?"
    left = span.total_seconds()
    if left < 10:  # noqa: PLR2004 - below it, tenths say more
        return f"{left:.1f} s"
    left = round(left)
    parts = []
    for unit, size in _UNITS:
        if left >= size:
            parts.append(f"{int(left // size)} {unit}")
            left %= size
    return " ".join(parts[:2])


def moment(time: datetime | None) -> str:
    """``2026-12-24 20:00:00 UTC``; a question mark if nobody knows."""
    return "?" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def share(value: float) -> str:
    """A part of one with three digits, as scores are written."""
    return f"{value:.3f}"


def count(value: int) -> str:
    """``12,345``."""
    return f"{value:,}"


def cut(text: str, width: int) -> str:
    """At most so many characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def value(given: Any) -> str:
    """A setting or a fact of the surroundings in words."""
    match given:
        case None | [] | {} | "":
            return "none"
        case bool():
            return "yes" if given else "no"
        case float():
            return f"{given:.6g}"
        case dict():
            return ", ".join(f"{name} {value(each)}" for name, each in given.items())
        case list() | tuple():
            return "; ".join(value(each) for each in given)
        case _:
            return cut(str(given), 300)


def plural(number: int, noun: str) -> str:
    """``1 epoch``, ``12 epochs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
