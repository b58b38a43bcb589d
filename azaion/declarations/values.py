"""Values of ``azaion.yaml``, converted to the types of a dataclass; whatever is wrong is collected, not raised."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final, get_args, get_type_hints

import msgspec
from msgspec import Meta

_SHOWN_CHARACTERS: Final = 60


def values(
    kind: type, given: Mapping[Any, Any], where: str, problems: list[str], leave_out: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The values of the known keys that are good, ready for the dataclass ``kind``; what is wrong joins the problems.

    Args:
        kind: a dataclass; each field's `msgspec.Meta` description says what is expected. ``name`` is no key.
        given: what stands in the file.
        where: the keys that lead there, for the problems.
        problems: one line each.
        leave_out: fields that the caller converts.
    """
    known = [item for item in fields(kind) if item.name != "name"]
    problems += unknown(given, tuple(item.name for item in known), f"{where}.")
    hints = get_type_hints(kind, include_extras=True)
    found: dict[str, Any] = {}
    for item in known:
        if item.name in leave_out:
            continue
        if given.get(item.name) is None:
            if item.default is MISSING and item.default_factory is MISSING:
                problems.append(f"{where}.{item.name}: missing")
            continue
        value = given[item.name]
        try:
            found[item.name] = msgspec.convert(value, hints[item.name])
        except msgspec.ValidationError:
            got = "" if _private(hints[item.name]) else f", got {brief(value)}"
            problems.append(f"{where}.{item.name}: expected {_expected(hints[item.name])}{got}")
    return found


def unknown(given: Mapping[Any, Any], known: tuple[str, ...], prefix: str) -> Iterator[str]:
    """A problem for each key that nobody knows, with the nearest that somebody does."""
    for key in given:
        if key not in known:
            close = get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(known)}"
            yield f"{prefix}{brief(key)}: unknown; {hint}"


def brief(value: object) -> str:
    """A value for a problem: short, and of what has structure only its type."""
    text = value if isinstance(value, str) else repr(value) if isinstance(value, int | float) else type(value).__name__
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _metas(kind: Any) -> Iterator[Meta]:
    for option in (kind, *get_args(kind)):
        yield from (part for part in get_args(option) if isinstance(part, Meta))


def _private(kind: Any) -> bool:
    """Whether what stands there may be a secret."""
    return any((meta.extra or {}).get("private") for meta in _metas(kind))


def _expected(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "one of " + ", ".join(kind)
    return next((str(meta.description) for meta in _metas(kind) if meta.description), "another")
