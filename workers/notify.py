"""Sends one message through Apprise: ``python -P -m workers.notify``, started by the daemon for each message.

The order comes as JSON on standard input (``url``, ``title``, ``body``, ``level``), because an address holds
secrets; what came of it goes as one line of JSON to standard output (``ok``, ``error``), without the address or any
part of it.
"""

import json
import logging
import re
import sys
from typing import Any, Final
from urllib.parse import unquote

from azaion.redaction import Redaction

_TYPES: Final = {"ok": "success", "info": "info", "warning": "warning", "critical": "failure"}
_MAX_ERROR: Final = 300
#: What everybody knows is no secret; without it nobody could tell where a message has not arrived.
_SHORTEST: Final = 6
#: What matters of an exception's long text.
_REASON: Final = re.compile(r"\[Errno -?\d+\] [\w ,-]+|[\w ]*timed out|Failed to resolve '[^']*'|certificate [\w ]+")


def main() -> int:
    """Send what standard input says; returns 0 whatever came of it, because that is told on standard output."""
    order = json.load(sys.stdin)
    error = send(order)
    sys.stdout.write("\n" + json.dumps({"ok": not error, "error": error}) + "\n")
    return 0


def send(order: dict[str, Any]) -> str:
    """Send a message; returns why it was not taken, empty if it was."""
    import apprise  # noqa: PLC0415 - half a second, and the tests of `parts` need none of it

    hidden = Redaction(parts(order["url"]))
    heard = _Ear()
    for name in ("apprise", "urllib3", "requests"):
        logging.getLogger(name).addHandler(heard)
    logging.getLogger("apprise").setLevel(logging.DEBUG)
    try:
        sender = apprise.Apprise()
        if not sender.add(order["url"]):
            return hidden.text("Apprise does not understand the address; its documentation lists every form")
        taken = sender.notify(
            title=order["title"],
            body=order["body"],
            notify_type=apprise.NotifyType(_TYPES.get(order["level"], "info")),
            body_format=apprise.NotifyFormat.TEXT,
            # A text of ours is not to be taken for a path or an escape.
            interpret_escapes=False,
        )
    except Exception as error:  # noqa: BLE001 - whatever a plugin does, the daemon hears of it, without the address
        return hidden.text(f"{type(error).__name__}: {error}")[:_MAX_ERROR]
    return "" if taken else hidden.text(heard.words() or "it was not taken, for no reason given")[:_MAX_ERROR]


def parts(url: str) -> set[str]:
    """What of an address must not be shown: all of it, and each piece but the name of its host."""
    rest = url.partition("://")[2]
    authority, *others = re.split(r"[/?#&=,;]", rest)
    user, _, place = authority.rpartition("@")
    host, _, port = place.partition(":")
    pieces = [piece for piece in (port, *others, *re.split("[@:]", " ".join(others))) if len(piece) >= _SHORTEST]
    pieces += filter(None, re.split("[:@]", user))
    # Many forms have a token where others have their host.
    named = not host or "." in host or host == "localhost"
    secret = {*pieces, *map(unquote, pieces)} - {host} | (set() if named else {host})
    return {url, rest} | secret


class _Ear(logging.Handler):
    """Remembers why a message was not taken."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if record.levelno >= logging.WARNING:
            self._heard.append(text.rstrip("."))
        elif "Exception" in text:
            # At its lowest level Apprise tells the reason of what it has complained about before, and much else.
            found = _REASON.search(text)
            self._heard.append(found[0] if found is not None else text)

    def words(self) -> str:
        return "; ".join(dict.fromkeys(self._heard))


if __name__ == "__main__":
    sys.exit(main())
