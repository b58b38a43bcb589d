"""What the control socket says of health, and what can be muted."""

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from azaion.declarations.health import CHECKS
from supervisor.control.protocol import stamp
from supervisor.health.model import Finding, Mute, overall
from supervisor.health.room import HealthRoom
from supervisor.jobs.events import Actor
from supervisor.jobs.model import JobError
from supervisor.jobs.store import Store

#: Nothing is forgotten for longer than this.
MAX_MUTE_S: Final = 30 * 86400
_MAX_REASON: Final = 200


class _Muting(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    seconds: float
    reason: str = ""


class _Unmuting(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class HealthRoutes:
    """The part of the control socket below ``/v1/health``.

    Args:
        health: what is known.
        store: where it is kept what is muted.
        who: the caller of a request.
    """

    def __init__(self, health: HealthRoom, store: Store, *, who: Callable[[web.Request], Actor]) -> None:
        self._health = health
        self._store = store
        self._who = who

    def routes(self) -> list[web.RouteDef]:
        """What there is to ask for."""
        return [
            web.get("/v1/health", self._show),
            web.post("/v1/health/mute", self._mute),
            web.post("/v1/health/unmute", self._unmute),
        ]

    def record(self) -> dict[str, Any]:
        """What is known, as ``health --json`` prints it."""
        findings = self._health.findings()
        return {"verdict": str(overall(findings)), "findings": [finding_record(each) for each in findings]}

    async def _show(self, _request: web.Request) -> web.Response:
        return web.json_response(self.record())

    async def _mute(self, request: web.Request) -> web.Response:
        asked, actor = _muting(await request.read()), self._who(request)
        name = self._name(asked.name)
        mute = Mute(until=time.time() + asked.seconds, reason=asked.reason, by=str(actor))
        self._store.mute(name, mute, actor)
        return web.json_response(self.record())

    async def _unmute(self, request: web.Request) -> web.Response:
        try:
            name = self._name(msgspec.json.decode(await request.read(), type=_Unmuting).name)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise JobError(f"the request cannot be read: {error}") from None
        if name not in self._store.mutes():
            raise JobError(f"{name} is not muted")
        self._store.mute(name, None, self._who(request))
        return web.json_response(self.record())

    def _name(self, name: str) -> str:
        """The name of a check, or of a check with what it is about."""
        known = {*CHECKS, *(finding.name for finding in self._health.findings()), *self._store.mutes()}
        if name not in known:
            raise JobError(f"there is no check {name!r}; there is: {', '.join(CHECKS)}")
        return name


def finding_record(finding: Finding) -> dict[str, Any]:
    """A finding as ``health --json`` prints it."""
    return {
        "check": finding.check,
        "subject": finding.subject,
        "verdict": str(finding.verdict),
        "text": finding.text,
        "advice": finding.advice,
        "since": stamp(finding.since),
        "value": finding.value,
        "mute": {"until": stamp(finding.mute.until), "reason": finding.mute.reason, "by": finding.mute.by}
        if finding.mute is not None
        else None,
    }


def _muting(body: bytes) -> _Muting:
    try:
        asked = msgspec.json.decode(body, type=_Muting)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise JobError(f"the request cannot be read: {error}") from None
    if not 0 < asked.seconds <= MAX_MUTE_S:
        raise JobError(f"a check can be muted for up to {MAX_MUTE_S // 86400} days")
    if len(asked.reason) > _MAX_REASON:
        raise JobError(f"the reason may have {_MAX_REASON} characters")
    return asked
