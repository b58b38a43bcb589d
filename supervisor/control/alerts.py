"""What the control socket says of alerts, and how a channel is tried."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from azaion.declarations.alerts import Channel
from supervisor.alerts.model import Known
from supervisor.alerts.outbox import Outbox
from supervisor.alerts.room import AlertRoom
from supervisor.control.protocol import stamp
from supervisor.errors import SupervisorError
from supervisor.jobs.events import Actor

#: So long a caller hears of what came of a test; longer than any channel may take.
_TEST_S: Final = 45.0


class _Test(msgspec.Struct, forbid_unknown_fields=True):
    channel: str | None = None


class AlertRoutes:
    """The part of the control socket below ``/v1/alerts``.

    Args:
        alerts: what is known.
        note: records an event.
        who: the caller of a request.
    """

    def __init__(self, alerts: AlertRoom, note: Callable[..., None], *, who: Callable[[web.Request], Actor]) -> None:
        self._alerts = alerts
        self._note = note
        self._who = who

    def routes(self) -> list[web.RouteDef]:
        """What there is to ask for."""
        return [web.get("/v1/alerts", self._list), web.post("/v1/alerts/test", self._test)]

    def dead(self) -> list[dict[str, Any]]:
        """The channels that take no messages, as alerts of the status."""
        outboxes = ((name, self._alerts.outbox(name)) for name in self._alerts.channels)
        return [
            {
                "job": None,
                "channel": name,
                "since": stamp(outbox.last_success or outbox.last_failure or time.time()),
                "text": f"alert channel {name} takes no messages: {outbox.error}",
            }
            for name, outbox in outboxes
            if outbox.dead
        ]

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "open": [_open(name, known) for name, known in self._alerts.open().items()],
                "channels": [
                    _channel(channel, self._alerts.outbox(name)) for name, channel in self._alerts.channels.items()
                ],
            }
        )

    async def _test(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read() or b"{}", type=_Test)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise SupervisorError(f"a test takes a channel: {error}") from None
        known = self._alerts.channels
        if not known:
            raise SupervisorError("no channel is declared: docs/alerts.md shows how, in azaion.yaml")
        if asked.channel is not None and asked.channel not in known:
            raise SupervisorError(f"there is no channel {asked.channel!r}; there is: {', '.join(known)}")
        channels = list(known.values()) if asked.channel is None else [known[asked.channel]]
        self._note("alert-tested", ", ".join(channel.name for channel in channels), actor=self._who(request))
        return web.json_response(await asyncio.gather(*map(self._try, channels)))

    async def _try(self, channel: Channel) -> dict[str, Any]:
        began = time.monotonic()
        try:
            async with asyncio.timeout(_TEST_S):
                error = await self._alerts.test(channel)
        except TimeoutError:
            error = "other messages are still being sent; try again later"
        took = round(time.monotonic() - began, 3)
        return {"channel": channel.name, "ok": not error, "error": error, "took_s": took}


def _open(name: str, known: Known) -> dict[str, Any]:
    return {
        "name": name,
        "kind": known.kind,
        "level": str(known.level),
        "since": stamp(known.since),
        "text": known.text,
        "advice": known.advice,
        "told": str(known.told),
        "told_at": stamp(known.told_at or None),
        "flapping": known.flapping,
        "muted": known.quiet,
    }


def _channel(channel: Channel, outbox: Outbox) -> dict[str, Any]:
    return {
        "name": channel.name,
        "levels": [str(level) for level in channel.levels],
        "kinds": list(channel.kinds),
        "dead": outbox.dead,
        "failures": outbox.failures,
        "error": outbox.error,
        "last_success": stamp(outbox.last_success),
        "last_failure": stamp(outbox.last_failure),
        "waiting": len(outbox.parcels),
        "dropped": outbox.dropped,
    }
