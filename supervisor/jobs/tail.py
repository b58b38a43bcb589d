"""The last lines of a log, for those who read the daemon's."""

import re
from typing import Final

from azaion import files
from azaion.layout import AttemptFolder

#: So many lines are enough to see why something has failed.
LINES: Final = 20
#: So many characters of each.
WIDTH: Final = 400
_BYTES: Final = 64 << 10
#: Colours, and what else is meant for a terminal.
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def last_lines(data: bytes, count: int = LINES, width: int = WIDTH) -> list[str]:
    """The last lines that are not empty, as a terminal would show them in the end: of a progress bar its last state."""
    lines = []
    for line in reversed(data.decode(errors="replace").split("\n")):
        shown = next((part for part in reversed(_ESCAPES.sub("", line).split("\r")) if part.strip()), "")
        shown = _CONTROLS.sub("", shown.replace("\t", "    ")).rstrip()
        if shown:
            lines.append(shown if len(shown) <= width else f"{shown[: width - 3]}...")
        if len(lines) == count:
            break
    return lines[::-1]


def tail(folder: AttemptFolder, count: int = LINES) -> list[str]:
    """The last lines that an attempt has printed; none if they cannot be read."""
    try:
        with files.opened(folder.log) as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _BYTES))
            data = stream.read(_BYTES)
    except (OSError, files.FileError):
        return []
    # Of the first one we may have a piece only.
    return last_lines(data.partition(b"\n")[2] if size > _BYTES and b"\n" in data else data, count)
