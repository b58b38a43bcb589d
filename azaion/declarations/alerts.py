"""Section ``alerts`` of ``azaion.yaml``: who is told of what, and how often again."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from azaion.declarations.health import CHECKS
from azaion.declarations.values import brief, unknown, values
from azaion.settings import SecretReference

#: What alerts are about, beside the checks of health.
OTHERS: Final = ("waiting", "channel", "finished", "failed", "interrupted", "resumed")
KINDS: Final = (*CHECKS, *OTHERS)

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


class Level(StrEnum):
    """How much something matters."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


_Address = Annotated[
    Annotated[str, Meta(pattern=r"^[A-Za-z0-9]+://[^\x00\s]+\Z")] | SecretReference,
    Meta(description="`{variable: NAME}`, or an address that Apprise knows", extra={"private": True}),
]
_Levels = Annotated[tuple[Level, ...], Meta(min_length=1, max_length=3, description=f"a list of: {', '.join(Level)}")]
_Kinds = Annotated[tuple[str, ...], Meta(min_length=1, max_length=100, description="a list of kinds")]
_Again = Annotated[float, Meta(ge=600, le=30 * 86400, description="a number of seconds, 600 to 2592000")]
_Pause = Annotated[float, Meta(ge=0, le=600, description="a number of seconds up to 600")]


@dataclass(frozen=True, kw_only=True)
class Channel:
    """Somebody who is told.

    Attributes:
        url: where, as Apprise writes it; a secret, because most hold a password or a token.
        levels: of what matters so much.
        kinds: about what: names of checks, or of `OTHERS`.
    """

    name: str
    url: _Address = field(repr=False)
    levels: _Levels = tuple(Level)
    kinds: _Kinds = KINDS


@dataclass(frozen=True, kw_only=True)
class AlertsDeclaration:
    """What the user has declared of alerts.

    Attributes:
        channels: who is told, beside the log and the events.
        remind_critical_s: after so many seconds what is still critical is told again.
        remind_warning_s: the same of what is a warning.
        gather_s: so long it is waited for more before a message is sent.
        gap_s: so long at least lies between the first message and the second; each further one within an hour waits
            twice as long, up to ten minutes (five for what is critical).
    """

    channels: tuple[Channel, ...] = ()
    remind_critical_s: _Again = 4 * 3600.0
    remind_warning_s: _Again = 24 * 3600.0
    gather_s: _Pause = 10.0
    gap_s: _Pause = 30.0


def section(given: object, problems: list[str]) -> AlertsDeclaration:
    """What stands below ``alerts``; whatever is wrong joins the problems. Addresses are not shown."""
    if not isinstance(given, dict):
        problems.append("alerts: expected `channels:` with names")
        return AlertsDeclaration()
    found = values(AlertsDeclaration, given, "alerts", problems, leave_out=("channels",))
    channels = given.get("channels") or {}
    if not isinstance(channels, dict):
        problems.append("alerts.channels: expected names, each with a `url:`")
        channels = {}
    made = (_channel(name, channels[name], problems) for name in channels)
    return AlertsDeclaration(channels=tuple(each for each in made if each is not None), **found)


def _channel(name: object, given: object, problems: list[str]) -> Channel | None:
    where = f"alerts.channels.{brief(name)}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problems.append(f"{where}: a name has small letters, digits, - and _, 40 at the most")
        return None
    if not isinstance(given, Mapping):
        problems.append(f"{where}: expected keys with values, such as `url: {{variable: NAME}}`")
        return None
    count = len(problems)
    converted = values(Channel, given, where, problems)
    problems += unknown(dict.fromkeys(converted.get("kinds", ())), KINDS, f"{where}.kinds: ")
    return None if len(problems) > count else Channel(name=name, **converted)
