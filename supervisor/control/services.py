"""What the control socket says of services, and what can be asked of them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from azaion.declarations.services import CONSUMER
from azaion.layout import Layout
from supervisor.consumer import ConsumerRoom
from supervisor.control.protocol import stamp
from supervisor.jobs.events import Actor
from supervisor.services import ServiceState
from supervisor.units.model import UnitError, UnitState
from supervisor.units.room import UnitRoom
from supervisor.units.unit import Unit

#: How often a log that somebody follows is looked at.
_FOLLOW_S: Final = 0.2

_CONSUMER_STATES: Final = {
    ServiceState.RUNNING: UnitState.READY,
    ServiceState.WAITING: UnitState.WAITING,
    ServiceState.STOPPING: UnitState.STOPPING,
    ServiceState.STOPPED: UnitState.STOPPED,
    ServiceState.REFUSED: UnitState.FAILED,
}

Streaming = Callable[[web.Request, str], AbstractAsyncContextManager[web.StreamResponse]]
Reading = Callable[[Path, int], tuple[bytes, int]]


class ServiceRoutes:
    """The part of the control socket below ``/v1/services``.

    Args:
        layout: where the logs lie.
        units: the services that are declared.
        consumer: the one that is not.
        who: the caller of a request.
        streaming: opens an answer that comes piece by piece.
        reading: what a file holds from a position on, and the position after it.
    """

    def __init__(
        self,
        layout: Layout,
        units: UnitRoom,
        consumer: ConsumerRoom,
        *,
        who: Callable[[web.Request], Actor],
        streaming: Streaming,
        reading: Reading,
    ) -> None:
        self._layout = layout
        self._units = units
        self._consumer = consumer
        self._who = who
        self._streaming = streaming
        self._reading = reading

    def routes(self) -> list[web.RouteDef]:
        """What there is to ask for."""
        return [
            web.get("/v1/services", self._list),
            web.get("/v1/services/{name}/log", self._log),
            web.post("/v1/services/{name}/start", self._start),
            web.post("/v1/services/{name}/stop", self._stop),
            web.post("/v1/services/{name}/restart", self._restart),
            web.post("/v1/services/start", self._start),
            web.post("/v1/services/stop", self._stop),
        ]

    def records(self) -> list[dict[str, Any]]:
        """Every service that is declared, as ``services --json`` prints it."""
        return [_record(unit) for unit in self._units.units]

    def alerts(self) -> list[dict[str, Any]]:
        """Those that have failed, as alerts of the status."""
        return [
            {"job": None, "service": unit.name, "since": stamp(unit.since), "text": unit.why}
            for unit in self._units.units
            if unit.state is UnitState.FAILED
        ]

    async def _list(self, _request: web.Request) -> web.Response:
        ours = [] if self._consumer.elsewhere else [self._consumer_record()]
        return web.json_response([*ours, *self.records()])

    async def _start(self, request: web.Request) -> web.Response:
        return await self._do(request, self._units.start)

    async def _stop(self, request: web.Request) -> web.Response:
        return await self._do(request, self._units.stop)

    async def _restart(self, request: web.Request) -> web.Response:
        return await self._do(request, self._units.restart)

    async def _do(
        self, request: web.Request, change: Callable[[Sequence[str], Actor], Awaitable[None]]
    ) -> web.Response:
        name = request.match_info.get("name")
        if name == CONSUMER:
            raise UnitError("the consumer is a part of azaiond and runs for as long as that does; stop azaiond")
        names = [name] if name is not None else [unit.name for unit in self._units.units if _enabled(unit)]
        await change(names, self._who(request))
        return web.json_response([record for record in self.records() if record["name"] in names])

    async def _log(self, request: web.Request) -> web.StreamResponse:
        path = self._log_of(request.match_info["name"])
        position = 0
        async with self._streaming(request, "application/octet-stream") as response:
            while True:
                while (piece := await asyncio.to_thread(self._reading, path, position))[0]:
                    data, position = piece
                    await response.write(data)
                if "follow" not in request.query:
                    return response
                await asyncio.sleep(_FOLLOW_S)
                if _size(path) < position:
                    # It has made way for a new one.
                    position = 0

    def _log_of(self, name: str) -> Path:
        if name == CONSUMER:
            return self._layout.consumer_log
        if name not in {unit.name for unit in self._units.units}:
            raise UnitError(f"there is no service {name!r}; `azaionctl services` lists them")
        return self._layout.service(name).log

    def _consumer_record(self) -> dict[str, Any]:
        service = self._consumer.service
        return {
            "name": CONSUMER,
            "kind": "consumer",
            "state": str(_CONSUMER_STATES[service.state]),
            "pid": service.pid,
            "since": stamp(service.since),
            "restarts": service.restarts,
            "last_exit": None,
            "why": "",
            "enabled": True,
            "holds_gpu": False,
            "after": [],
        }


def _record(unit: Unit) -> dict[str, Any]:
    last, declared = unit.last, unit.declared
    return {
        "name": unit.name,
        "kind": "service",
        "state": str(unit.state),
        "pid": unit.pid,
        "since": stamp(unit.since),
        "restarts": unit.restarts,
        "last_exit": None
        if last is None
        else {
            "code": last.code,
            "signal": last.signal,
            "time": stamp(last.time),
            "asked": last.asked,
            "text": str(last),
        },
        "why": unit.why,
        "enabled": _enabled(unit),
        "holds_gpu": declared is not None and declared.holds_gpu,
        "after": list(declared.after) if declared is not None else [],
    }


def _enabled(unit: Unit) -> bool:
    return unit.declared is not None and unit.declared.enabled


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
