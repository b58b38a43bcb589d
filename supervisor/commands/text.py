"""How commands write for people: short, aligned, without colour."""

import argparse
import datetime as dt
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from azaion import words

_BAR = 20
_SECONDS_IN = (("d", 86400), ("h", 3600), ("m", 60))


def duration(seconds: float | None) -> str:
    """``2d 4h``, ``4h 12m``, ``12m 3s``, ``3s``; ``?`` if nobody knows."""
    if seconds is None:
        return "?"
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in _SECONDS_IN:
        if left >= size or parts:
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join([*parts, f"{left}s"][:2])


def since(stamp: str | None) -> str:
    """How long ago a time of the daemon's was; empty if there is none."""
    if stamp is None:
        return ""
    return duration((dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(stamp)).total_seconds())


def ago(moment: float) -> str:
    """How long ago a time in seconds since 1970 was."""
    return duration(dt.datetime.now(dt.UTC).timestamp() - moment)


def amount(given: str) -> int:
    """An amount of memory that somebody has typed, in bytes."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([KMGT]?)(?:i?B)?", given)
    if found is None:
        raise argparse.ArgumentTypeError(f"{given!r} is no amount of memory such as 800M, 12G or 1.5G")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))


def bar(done: float, whole: float) -> str:
    """A bar of fixed width."""
    filled = round(_BAR * min(1.0, done / whole)) if whole else 0
    return "[" + "#" * filled + "." * (_BAR - filled) + "]"


def progress(record: dict[str, Any]) -> str:
    """How far a job is, in one line; empty if it has not told."""
    told = record["progress"]
    if not told:
        return ""
    epochs, epoch = told["epochs"] or 0, told["epoch"] or 0
    batches, batch = told["batches"] or 0, told["batch"] or 0
    if record.get("kind") == "publish" and batches:
        return f"{told['phase']}  {bar(batch, batches)}  {words.size(batch)} of {words.size(batches)}"
    if not epochs:
        return f"{told['phase'] or ''}" + (f"  {bar(batch, batches)}  {batch} of {batches}" if batches else "")
    done = max(0, epoch - 1) + (batch / batches if batches else 0)
    map50 = told["metrics"].get("mAP50")
    parts = [bar(done, epochs), f"epoch {epoch}/{epochs}", f"ETA {duration(told['eta_s'])}"]
    if map50 is not None:
        parts.append(f"mAP50 {map50:.3f}")
    return "  ".join(parts)


def table(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Rows in aligned columns; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(indent + line for line in lines)


def cut(text: str, width: int) -> str:
    """One line of at most ``width`` characters, without control characters."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= width else clean[: width - 1] + "…"


def confirmed(question: str) -> bool:
    """Ask at the terminal; only yes is yes."""
    try:
        return input(question).strip().lower() in {"y", "yes"}
    except EOFError:
        # Ctrl-D is no answer, and leaves the cursor behind the question.
        print()
        return False


def put_json(value: Any) -> None:
    """Print for scripts."""
    json.dump(value, sys.stdout, ensure_ascii=False)
    sys.stdout.write("\n")
