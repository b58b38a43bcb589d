"""The audit: every change that a client asks for leaves an event with uid, name and outcome."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp import web

from supervisor.jobs.events import Actor
from supervisor.jobs.store import Store

#: So many events a minute of each user are recorded that tell of no change; of further ones only the number is.
EACH_MINUTE: Final = 10
_MINUTE_S: Final = 60.0
#: So many users are kept in mind.
_USERS: Final = 1000
_MAX_TEXT: Final = 300
#: SQLite's integers have 64 bits.
_MAX_DIGITS: Final = 18


@dataclass(kw_only=True)
class _Minute:
    began: float
    recorded: int = 0
    left_out: int = 0


class Limiter:
    """How many events a user may cause that tell of no change: anyone may ask, and asking must not fill a disk.

    Args:
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._minutes: dict[int, _Minute] = {}

    def admit(self, uid: int) -> int | None:
        """None if this one is not to be recorded; else how many have not been since the last one that was."""
        now = self._clock()
        minute = self._minutes.get(uid)
        left_out = 0
        if minute is None or now - minute.began >= _MINUTE_S:
            left_out = minute.left_out if minute is not None else 0
            # The longest known goes; whoever asks goes to the end.
            self._minutes.pop(uid, None)
            while len(self._minutes) >= _USERS:
                del self._minutes[next(iter(self._minutes))]
            minute = self._minutes[uid] = _Minute(began=now)
        if minute.recorded >= EACH_MINUTE:
            minute.left_out += 1
            return None
        minute.recorded += 1
        return left_out


class Audit:
    """Records what the handlers of requests do not record themselves: refusals, failures, and what changed nothing.

    Args:
        store: where it is recorded.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._limiter = Limiter()

    def answered(self, request: web.Request, actor: Actor) -> None:
        """A change has been answered; unless an event tells of it already, it has changed nothing."""
        if not actor.recorded:
            self._record(request, actor, "asked", "nothing was to be changed")

    def cut_off(self, request: web.Request, actor: Actor) -> None:
        """A change was not brought to its end: whoever asked for it has hung up too early, or we end."""
        if not actor.recorded:
            self._record(request, actor, "request-failed", "cut off before it was done")

    def refused(self, request: web.Request, actor: Actor, status: int, reason: str) -> None:
        """A change has been refused, or has failed."""
        self._record(
            request, actor, "request-failed" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused", reason
        )

    def _record(self, request: web.Request, actor: Actor, kind: str, outcome: str) -> None:
        left_out = self._limiter.admit(actor.uid)
        if left_out is None:
            return
        text = f"{request.method} {request.path[:_MAX_TEXT]}: {outcome}"
        text = "".join(character if character.isprintable() else "?" for character in text)[:_MAX_TEXT]
        if left_out:
            text += f" ({left_out} more requests of this user have not been recorded before)"
        self._store.note(kind, text, _job(request), actor)


def _job(request: web.Request) -> int | None:
    number = request.match_info.get("id", "")
    known = request.path.startswith("/v1/jobs/") and number.isascii() and number.isdecimal()
    return int(number) if known and len(number) <= _MAX_DIGITS else None
