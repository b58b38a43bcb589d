"""Lines of a screen: as wide as there is room, and without anything that a terminal would do instead of showing it."""

import re
from collections.abc import Mapping
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

#: How a state looks, beside its name.
STATES: Final[Mapping[str, str]] = {
    "running": "bold green",
    "starting": "green",
    "stopping": "yellow",
    "failed": "red",
    "succeeded": "dim",
    "cancelled": "dim",
}
#: What colours a terminal, names its window, or makes a link.
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


def clean(given: str) -> str:
    """One line without control characters."""
    return "".join(character if character.isprintable() else "?" for character in _ESCAPES.sub("", given))


def fit(given: str, width: int) -> str:
    """Exactly ``width`` cells of one line. Some characters take two cells."""
    line = clean(given)
    return set_cell_size(line if cell_len(line) <= width else set_cell_size(line, max(0, width - 1)) + "…", width)


def cut(line: Text, width: int) -> Text:
    """At most ``width`` cells of it."""
    line.truncate(width, overflow="ellipsis")
    line.no_wrap = True
    return line
