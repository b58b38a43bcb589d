"""The user's classes. The product knows nothing about what they mean."""

import json
import re
from pathlib import Path
from typing import Any, Final

from azaion import files
from azaion.dataset.errors import DatasetError

_MAX_BYTES: Final = 4 << 20

#: A larger number is a slip of the pen, and the network would get an output for every number below it.
_MAX_ID: Final = 9_999

#: No control characters, and no halves of characters, which no file can hold.
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,200}")

_ADVICE: Final = 'Write a list of names, as in ["tree crown"], or an object, as in {"0": "tree crown"}.'


def read(path: Path) -> dict[int, str]:
    """Read ``classes.json``: number to name, in the order of the numbers.

    Three forms are understood: a list of names; an object of numbers to names; a list of objects with the keys ``Id``
    and ``Name`` in any case, whose other keys do not matter.

    Raises:
        DatasetError: there is none, or it says no such thing.
    """
    try:
        value = json.loads(files.read_small(path, limit=_MAX_BYTES, follow_links=True), object_pairs_hook=_unique)
    except FileNotFoundError:
        raise DatasetError(
            f"{path} does not exist: the classes of the annotations must be named there. {_ADVICE}"
        ) from None
    except (OSError, ValueError, RecursionError, files.FileError) as error:
        raise DatasetError(f"{path} cannot be read: {error}. {_ADVICE}") from None
    try:
        classes = _parse(value)
    except ValueError as error:
        raise DatasetError(f"{path}: {error}. {_ADVICE}") from None
    return dict(sorted(classes.items()))


def names(classes: dict[int, str]) -> list[str]:
    """A name for every number from 0 to the largest, as a network needs them; gaps get a placeholder."""
    return [classes.get(number, f"class-{number}") for number in range(max(classes) + 1)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _parse(value: Any) -> dict[int, str]:
    match value:
        case list() | dict() if not value:
            raise ValueError("it names no class")
        case dict():
            entries = list(value.items())
        case list() if all(isinstance(item, str) for item in value):
            entries = list(enumerate(value))
        case list():
            entries = [_entry(place, item) for place, item in enumerate(value)]
        case _:
            raise ValueError(f"it holds {type(value).__name__}")
    classes: dict[int, str] = {}
    for key, name in entries:
        number = _number(key)
        if number in classes:
            raise ValueError(f"class {number} stands twice")
        if not isinstance(name, str) or not name.strip() or not _NAME.fullmatch(name):
            raise ValueError(f"the name of class {number} is not a line of text")
        classes[number] = name
    return classes


def _entry(place: int, item: Any) -> tuple[Any, Any]:
    keys = {str(key).casefold(): value for key, value in item.items()} if isinstance(item, dict) else {}
    if not {"id", "name"} <= keys.keys():
        raise ValueError(f"entry {place} of the list has no Id and Name")
    return keys["id"], keys["name"]


def _number(key: Any) -> int:
    text = key if isinstance(key, str) else None
    if text is not None and text.isascii() and text.isdigit() and len(text) < len(str(_MAX_ID)) + 1:
        key = int(text)
    if isinstance(key, bool) or not isinstance(key, int) or not 0 <= key <= _MAX_ID:
        raise ValueError(f"{str(key)[:40]!r} is not a class number from 0 to {_MAX_ID}")
    return key
