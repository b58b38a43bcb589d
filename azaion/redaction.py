"""Takes secrets out of what is about to be written where people read."""

import json
import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

#: What stands in a secret's place.
REDACTED: Final = "[redacted]"

#: A shorter value is a part of ordinary words, and no secret.
_SHORTEST: Final = 4
#: A secret of several lines, such as a private key, is known by each line of at least this length, too.
_LINE: Final = 16
#: What is nested deeper is shown as text.
_DEPTH: Final = 6

_WORDS: Final = (
    r"(?:pass(?:word|wd|phrase|code)|pwd|secret|token|credential|authorization"
    r"|(?:api|access|private|encryption|signing)key|[-_]key)"
)
#: The shell's words for folders, in which half of all paths begin.
_FOLDERS: Final = frozenset({"PWD", "OLDPWD"})
_NAME: Final = re.compile(rf"(?i){_WORDS}s?(?![a-z])|^key$")
#: ``password=x``, ``"token": "x"``, ``Authorization: Bearer x``; also where the quotes themselves are quoted.
_ASSIGNED: Final = re.compile(
    rf"(?i)({_WORDS}(?![a-z])[\w.-]{{0,40}}\\*[\"']?\s*[:=]\s*(?:\\*[\"'])?(?:(?:bearer|basic|digest)\s+)?)"
    rf"(?!(?:(?:bearer|basic|digest)\s+)?{re.escape(REDACTED)})"
    r"(?:(?<=\")[^\"\n]+(?=\")|(?<=')[^'\n]+(?=')|[^\s\"'\\,;&)}\]]+)"
)
_OPTION: Final = re.compile(rf"(?i)((?<![\w-])--[\w-]{{0,40}}{_WORDS}[\w-]{{0,40}}\s+)\S+")
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[\w+/.~-]{8,}=*")
#: With limits: a line may be long, and whoever is watched may choose what stands in it.
_IN_URL: Final = re.compile(r"(?<=://)([^\s/@:\"'<>]{0,200}):[^\s\"'<>]{1,500}(?=@)")


def secret_name(name: str) -> bool:
    """Whether what is called so is a secret: ``RABBITMQ_PASSWORD``, ``api_key``, ``Authorization``."""
    return name not in _FOLDERS and _NAME.search(name) is not None


class Redaction:
    """Knows secrets by their values, by the names that they go by, and by where they stand in an address.

    Args:
        values: the secrets that are known.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        forms = {form for value in values for form in _forms(value) if len(form) >= _SHORTEST}
        # The longest first: one may begin like another.
        ordered = sorted(forms, key=lambda form: (-len(form), form))
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def text(self, text: str) -> str:
        """The text without its secrets."""
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        text = _IN_URL.sub(rf"\1:{REDACTED}", text)
        text = _ASSIGNED.sub(rf"\1{REDACTED}", text)
        text = _OPTION.sub(rf"\1{REDACTED}", text)
        return _BEARER.sub(rf"\1 {REDACTED}", text)

    def value(self, value: object, depth: int = 0) -> Any:
        """The value without its secrets, made of what JSON knows; anything else becomes text."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping) and depth < _DEPTH:
            return {
                self.text(str(name)): REDACTED if _hides(str(name), inner) else self.value(inner, depth + 1)
                for name, inner in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset) and depth < _DEPTH:
            return [self.value(inner, depth + 1) for inner in value]
        return self.text(repr(value) if isinstance(value, bytes | Mapping | list | tuple) else str(value))

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """One line of a log without its secrets, as structlog wants it."""
        redacted: MutableMapping[str, Any] = self.value(event)
        return redacted


def _hides(name: str, value: object) -> bool:
    """Whether a value is hidden for its name. Numbers are not: tokens are counted, too."""
    return isinstance(value, str | bytes | list | tuple | Mapping) and bool(value) and secret_name(name)


def _forms(value: str) -> Iterable[str]:
    """How a secret may look in a text: as it is, quoted by Python, by JSON, for an address; and line by line."""
    yield value
    yield value.strip()
    yield repr(value)[1:-1]
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield quote(value, safe="")
    yield quote_plus(value)
    lines = value.splitlines()
    if len(lines) > 1:
        yield from (line.strip() for line in lines if len(line.strip()) >= _LINE)
