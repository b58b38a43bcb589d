"""The control socket: HTTP and JSON by aiohttp on AF_UNIX."""

import asyncio
import json
import logging
import os
import shutil
import socket
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from azaion import __version__
from azaion.config import Config
from azaion.errors import AzaionError
from supervisor import resources
from supervisor.alerts.room import AlertRoom
from supervisor.consumer import ConsumerRoom
from supervisor.control import protocol, requests
from supervisor.control.alerts import AlertRoutes
from supervisor.control.audit import Audit
from supervisor.control.datasets import DatasetRoutes
from supervisor.control.health import HealthRoutes
from supervisor.control.history import HistoryRoutes
from supervisor.control.logs import LogRoutes, read_at
from supervisor.control.machines import MachineRoutes
from supervisor.control.models import ModelRoutes
from supervisor.control.peers import Peer, may_change, peer_of
from supervisor.control.quarantine import QuarantineRoutes
from supervisor.control.retention import RetentionRoutes
from supervisor.control.services import ServiceRoutes
from supervisor.gpus import Probe, Reading
from supervisor.health.machine import Loop
from supervisor.health.room import HealthRoom
from supervisor.history import HistoryRoom
from supervisor.jobs import preflight
from supervisor.jobs.events import Actor
from supervisor.jobs.evidence import enforced
from supervisor.jobs.metrics import progress
from supervisor.jobs.model import ACTIVE, TERMINAL, Attempt, Intent, Job, JobError, State
from supervisor.jobs.runner import Runner
from supervisor.jobs.scheduler import CPU
from supervisor.jobs.schema import StoreError
from supervisor.jobs.store import IllegalTransitionError, Store
from supervisor.releases import pinned
from supervisor.retention import RetentionRoom
from supervisor.retraining.room import RetrainRoom
from supervisor.units.room import UnitRoom

#: A waiting client hears at least this often that nothing has happened.
LONG_POLL_S: Final = 30.0
_BACKLOG: Final = 128
#: So long an end of the daemon waits for changes that are under way.
_FINISH_S: Final = 5.0
#: A change of a job is one step of the event loop: nobody can hang up in the middle of it.
_AT_ONCE: Final = "/v1/jobs"
#: So many of those that wait are in the status; `list` has all.
_SHOWN: Final = 100
#: SQLite's integers have 64 bits.
_MAX_DIGITS: Final = 18

_log = structlog.get_logger("azaion.control")
_peer_key: web.RequestKey[Peer] = web.RequestKey("peer", Peer)
_actor_key: web.RequestKey[Actor] = web.RequestKey("actor", Actor)


class Server:
    """Answers ``azaionctl``. Reading is for whoever can open the socket, changing for administrators.

    Beside the rooms that it asks it takes ``listening``, a socket that others have opened for it, and calls
    ``serving`` once it answers.
    """

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        runner: Runner,
        consumer: ConsumerRoom,
        retention: RetentionRoom,
        probe: Probe,
        units: UnitRoom,
        health: HealthRoom,
        history: HistoryRoom,
        alerts: AlertRoom,
        retraining: RetrainRoom,
        loop: Loop,
        listening: socket.socket | None = None,
        serving: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._listening = listening
        self._serving = serving
        self._store = store
        self._retraining = retraining
        self._runner = runner
        self._consumer = consumer
        self._retention = retention
        self._probe = probe
        self._services = ServiceRoutes(
            config.layout, units, consumer, who=_actor, streaming=_streaming, reading=read_at
        )
        self._health = HealthRoutes(health, store, who=_actor)
        self._history = HistoryRoutes(config.layout, store, history, job=self._job)
        self._alert_routes = AlertRoutes(alerts, store.note, who=_actor)
        self._machines = MachineRoutes(
            config=config,
            store=store,
            runner=runner,
            consumer=consumer,
            units=units,
            health=health,
            loop=loop,
            probe=probe,
            alerts=self._alerts,
        )
        self._audit = Audit(store)
        self._under_way: set[asyncio.Task[web.StreamResponse]] = set()
        self._began = time.time()
        self._change = asyncio.Event()
        store.listen(self._announce)

    async def run(self) -> None:
        """Serve until cancelled."""
        application = web.Application(middlewares=[self._identify, self._explain, self._permit])
        quarantine = QuarantineRoutes(
            self._config.layout,
            self._store,
            who=_actor,
            consumer=lambda: str(self._consumer.status()["service"]),
        )
        application.add_routes(quarantine.routes())
        application.add_routes(self._services.routes())
        application.add_routes(self._health.routes())
        application.add_routes(self._history.routes())
        application.add_routes(self._alert_routes.routes())
        application.add_routes(self._machines.routes())
        application.add_routes(
            LogRoutes(self._config.layout, self._store, job=self._job, streaming=_streaming).routes()
        )
        trained = ModelRoutes(self._config, self._store, who=_actor, filed=self._filed)
        application.add_routes(trained.routes())
        application.add_routes(DatasetRoutes(self._config.layout).routes())
        application.add_routes(RetentionRoutes(self._config, self._store, self._retention, who=_actor).routes())
        application.add_routes(
            [
                web.get("/v1/status", self._status),
                web.get("/v1/preflight", self._preflight),
                web.get("/v1/jobs", self._list),
                web.post("/v1/jobs", self._submit),
                web.get("/v1/jobs/{id}", self._show),
                web.get("/v1/jobs/{id}/wait", self._wait),
                web.post("/v1/jobs/{id}/cancel", self._cancel),
                web.post("/v1/jobs/{id}/stop", self._stop),
                web.post("/v1/jobs/{id}/hold", self._hold),
                web.post("/v1/jobs/{id}/release", self._release),
                web.post("/v1/jobs/{id}/priority", self._prioritise),
                web.post("/v1/jobs/{id}/retry", self._retry),
                web.get("/v1/events", self._events),
                web.post("/v1/maintenance", self._maintain),
                web.get("/v1/consumer", self._show_consumer),
                web.post("/v1/consumer/resume", self._resume_consumer),
            ],
        )
        logging.getLogger("aiohttp.server").addFilter(_our_fault)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        path = self._config.daemon.socket
        try:
            # A socket that systemd keeps holds the calls that come while we are not there.
            await web.SockSite(runner, self._listening or bind(path)).start()
            _log.info("listening", socket=str(path))
            self._serving()
            await self._machines.run()
        finally:
            await runner.cleanup()
            await self._finish()

    def _announce(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def _changed(self, change: asyncio.Event, limit: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await change.wait()

    # What comes before every answer.

    @web.middleware
    async def _identify(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        connection = request.get_extra_info("socket")
        peer = peer_of(connection)
        actor = Actor(peer.name, peer.uid)
        request[_peer_key], request[_actor_key] = peer, actor
        if request.method == "GET":
            return await handler(request)
        if request.path.startswith(_AT_ONCE):
            return await self._carry_out(request, handler, actor)
        # A change that has begun is brought to its end and recorded, also if whoever asked for it hangs up.
        change = asyncio.ensure_future(self._carry_out(request, handler, actor))
        self._under_way.add(change)
        change.add_done_callback(self._done)
        return await asyncio.shield(change)

    async def _carry_out(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        actor: Actor,
    ) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            self._audit.refused(request, actor, error.status, _reason(error))
            raise
        except asyncio.CancelledError:
            self._audit.cut_off(request, actor)
            raise
        self._audit.answered(request, actor)
        return response

    def _done(self, change: "asyncio.Task[web.StreamResponse]") -> None:
        self._under_way.discard(change)
        if not change.cancelled():
            # Nobody may be there any more to hear of it.
            change.exception()

    async def _finish(self) -> None:
        """Wait for the changes that are under way, but not for long: what is cut off is recorded as such."""
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=_FINISH_S)
            for change in late:
                change.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    @web.middleware
    async def _permit(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        peer = request[_peer_key]
        if request.method != "GET" and not may_change(peer, os.geteuid(), self._config.daemon.admin_group):
            group = self._config.daemon.admin_group
            _fail(
                HTTPStatus.FORBIDDEN,
                f"{peer.name} may look but not change anything: ask to be put into the group "
                f"{group or 'that AZAION_ADMIN_GROUP names (none is set)'}",
            )
        return await handler(request)

    @web.middleware
    async def _explain(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except IllegalTransitionError as error:
            _fail(HTTPStatus.CONFLICT, str(error))
        except StoreError as error:
            _fail(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        except AzaionError as error:
            _fail(HTTPStatus.BAD_REQUEST, str(error))
        except web.RequestPayloadError as error:
            told = " ".join(str(error).split())
            _fail(HTTPStatus.BAD_REQUEST, f"the request's body cannot be read ({told}); send it whole and as JSON")
        except (web.HTTPException, ConnectionResetError):
            raise
        except Exception:  # noqa: BLE001 - one bad request must not end the daemon, and must not pass in silence
            _log.exception("request failed", path=request.path)
            _fail(HTTPStatus.INTERNAL_SERVER_ERROR, "azaiond failed at this request; its log says where")

    # Looking.

    async def _status(self, _request: web.Request) -> web.Response:
        reading = await self._glance()
        waits = self._runner.plan().waits
        leases = self._store.leases()
        counts = self._store.counts()
        layout = self._config.layout
        return web.json_response(
            {
                "daemon": {
                    "version": __version__,
                    "release": pinned.release(),
                    "protocol": protocol.VERSION,
                    "pid": os.getpid(),
                    "started": protocol.stamp(self._began),
                    "uptime_s": time.time() - self._began,
                    "launcher": str(self._config.daemon.launcher),
                },
                "consumer": self._consumer.status(),
                "health": self._health.record(),
                "jobs": {
                    "counts": {str(state): count for state, count in counts.items()},
                    "active": self._records(self._store.jobs(ACTIVE), waits),
                    "waiting": self._records(self._next_jobs(), waits),
                },
                "maintenance": protocol.maintenance_record(self._store.maintenance()),
                "gpus": [
                    protocol.device_record(device, leases.get(device), reading)
                    for device in self._runner.machine.devices
                ],
                "alerts": self._alerts(),
                "services": self._services.records(),
                "disk": [_disk(path) for path in _filesystems(layout.root, layout.state)],
                "models": {"current": _current(layout.current_model)},
                "retraining": self._retraining.record(),
            },
        )

    async def _preflight(self, request: web.Request) -> web.Response:
        needs, disk = requests.preflight(request.query)
        facts = await asyncio.to_thread(resources.facts, self._config.layout, await self._glance())
        given = await asyncio.to_thread(resources.first_inputs, self._config)
        checks = preflight.by_hand(
            needs,
            disk,
            facts=facts,
            floors=preflight.floors_of(self._config),
            given=given,
            devices=self._runner.machine.devices,
            owners=self._runner.owners(),
        )
        return web.json_response(protocol.preflight_record(checks))

    async def _glance(self) -> Reading | None:
        """What NVML has told in the last seconds; None on a machine without a GPU, where nobody is asked."""
        return None if self._runner.machine.devices == (CPU,) else await self._probe.glance()

    async def _show_consumer(self, _request: web.Request) -> web.Response:
        return web.json_response(self._consumer.status())

    async def _list(self, request: web.Request) -> web.Response:
        given = requests.Listing.read(request.query)
        jobs = self._store.jobs(given.states, given.limit)
        waits = self._runner.plan().waits
        return web.json_response(self._records(jobs, waits))

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response(self._whole(self._job(request)))

    async def _wait(self, request: web.Request) -> web.Response:
        limit = requests.number(request.query, "timeout", LONG_POLL_S)
        deadline = time.monotonic() + min(limit, LONG_POLL_S)
        while True:
            change = self._change
            job = self._job(request)
            left = deadline - time.monotonic()
            if job.state in TERMINAL or left <= 0:
                return web.json_response(self._whole(job))
            await self._changed(change, left)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        after = int(requests.number(request.query, "after", 0))
        which = requests.event_filter(request.query)
        if "follow" not in request.query:
            if "last" in request.query:
                after = self._store.event_before(int(requests.number(request.query, "last", 0)), which)
            events = self._store.events(after, which=which)
            return web.json_response([protocol.event_record(event) for event in events])
        if "after" not in request.query:
            after = self._store.last_event()
        async with _streaming(request, "text/event-stream") as response:
            while True:
                change = self._change
                events = self._store.events(after, which=which)
                for event in events:
                    after = event.id
                    await response.write(f"id: {after}\ndata: {json.dumps(protocol.event_record(event))}\n\n".encode())
                if not events:
                    await self._changed(change, LONG_POLL_S)
                if not (events or change.is_set()):
                    await response.write(b": still here\n\n")

    # Changing.

    async def _submit(self, request: web.Request) -> web.Response:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            _fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large; pass large inputs as files")
        first, *later = requests.submissions(body, self._config, _actor(request))
        return self._changed_job(self._store.submit(first, *later), HTTPStatus.CREATED)

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._job(request)
        grace = 0.0 if "now" in request.query else None
        wanted = [job]
        if job.id == job.chain:
            # The first stands for all. From the end: the success of one must not start the next.
            wanted = [each for each in reversed(self._store.chain(job)) if each.state not in TERMINAL] or wanted
        for each in wanted:
            self._runner.request(each.id, Intent.CANCEL, _actor(request), grace)
        return web.json_response(self._whole(self._store.get(job.id)))

    async def _stop(self, request: web.Request) -> web.Response:
        return self._ask(request, self._job(request), Intent.STOP, None)

    async def _hold(self, request: web.Request) -> web.Response:
        return self._changed_job(self._store.hold(self._job(request).id, _actor(request)))

    async def _release(self, request: web.Request) -> web.Response:
        return self._changed_job(self._store.release(self._job(request).id, _actor(request)))

    async def _prioritise(self, request: web.Request) -> web.Response:
        priority = requests.priority(await request.read())
        return self._changed_job(self._store.prioritise(self._job(request).id, priority, _actor(request)))

    async def _retry(self, request: web.Request) -> web.Response:
        job = self._job(request)
        later = [each for each in self._store.chain(job) if each.id > job.id]
        again, *others = requests.again(job, later, _actor(request))
        # Retention may have taken since what the first try had.
        requests.check_inputs(again, self._config)
        return self._changed_job(self._store.submit(again, *others), HTTPStatus.CREATED)

    async def _maintain(self, request: web.Request) -> web.Response:
        actor = _actor(request)
        wanted = requests.maintenance(await request.read(), actor, time.time())
        self._store.set_maintenance(wanted, actor)
        self._runner.poke()
        return web.json_response({"maintenance": protocol.maintenance_record(self._store.maintenance())})

    def _changed_job(self, job: Job, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
        self._runner.poke()
        return web.json_response(self._whole(job), status=status)

    def _filed(self, job: Job) -> web.Response:
        return self._changed_job(job, HTTPStatus.CREATED)

    async def _resume_consumer(self, request: web.Request) -> web.Response:
        asked = requests.resume(await request.read())
        return web.json_response(await self._consumer.resume(asked, _actor(request)))

    def _ask(self, request: web.Request, job: Job, intent: Intent, grace: float | None) -> web.Response:
        asked = self._runner.request(job.id, intent, _actor(request), grace)
        return web.json_response(self._whole(asked))

    # Small things.

    def _alerts(self) -> list[dict[str, Any]]:
        waiting = [protocol.alert_record(alert) for alert in self._runner.alerts()]
        return waiting + self._services.alerts() + self._alert_routes.dead()

    def _job(self, request: web.Request) -> Job:
        text = request.match_info["id"]
        if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
            raise JobError(f"{text!r} is not the number of a job")
        return self._store.get(int(text))

    def _next_jobs(self) -> list[Job]:
        """The first of those that wait, in the order in which their turn comes, and then those that are held."""
        awaited = self._store.awaited()
        # What follows in a chain is seen with the one that it has come to.
        turn = [job for job in self._store.queue(_SHOWN) if job.chain is None or job.after not in awaited]
        return turn + self._store.jobs([State.HELD], _SHOWN - len(turn))

    def _records(self, jobs: Sequence[Job], waits: Mapping[int, str]) -> list[dict[str, Any]]:
        chains = self._store.chains(jobs)
        return [
            protocol.job_record(
                job,
                chain=chains[job.chain] if job.chain is not None else (),
                waits=waits.get(job.id),
                progress=self._progress(job),
            )
            for job in jobs
        ]

    def _whole(self, job: Job) -> dict[str, Any]:
        attempts: list[Attempt] = self._store.attempts(job.id)
        (record,) = self._records([job], self._runner.plan().waits)
        maintenance = self._store.maintenance()
        folder = self._runner.folder(job)
        shown = protocol.attempt_records(job, attempts, time.time())
        return record | {
            "attempts": shown,
            "stood_aside_s": sum(attempt["stood_aside_s"] or 0.0 for attempt in shown),
            "enforced": enforced(folder, attempts[-1].nonce) if folder is not None else {},
            "removed": {
                part: {"time": protocol.stamp(gone.time), "rule": gone.rule}
                for part, gone in self._store.removals(job.id).items()
            },
            "maintenance": str(maintenance) if maintenance is not None else None,
            "folder": str(self._config.layout.job(job.id, job.uid).path),
            "config": str(self._config.layout.config),
        }

    def _progress(self, job: Job) -> dict[str, Any]:
        if job.state not in ACTIVE:
            return {}
        folder = self._runner.folder(job)
        return progress(folder) if folder else {}


def _our_fault(record: logging.LogRecord) -> bool:
    """Whether the log is to tell of it: whoever calls in no HTTP, or hangs up, must not fill it with tracebacks."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError)


def bind(path: Path) -> socket.socket:
    """Listen on a unix socket that the daemon's user and group may open; one left by a dead daemon is replaced.

    Raises:
        JobError: something else is there, or the path cannot be used.
    """
    with suppress(FileNotFoundError):
        # Whoever gets here holds the daemon's lock, so no living daemon listens there.
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise JobError(f"{path} is there and is no socket; remove it or set AZAION_SOCKET elsewhere")
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    previous = os.umask(0o117)
    try:
        listening.bind(str(path))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise JobError(
            f"cannot listen on {path}: {error}; set AZAION_SOCKET to a short path that can be written"
        ) from None
    finally:
        os.umask(previous)
    return listening


@asynccontextmanager
async def _streaming(request: web.Request, kind: str) -> AsyncIterator[web.StreamResponse]:
    response = web.StreamResponse(headers={"Content-Type": kind, "Cache-Control": "no-store"})
    await response.prepare(request)
    yield response


def _actor(request: web.Request) -> Actor:
    """Who asks; the event that is recorded in his name is the audit's."""
    return request[_actor_key]


def _reason(error: web.HTTPException) -> str:
    """What a refused client is told."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(error.text or "")["error"])
    return error.reason


def _filesystems(*paths: Path) -> list[Path]:
    """One path for each filesystem."""
    return list({_device(path): path for path in reversed(paths)}.values())[::-1]


def _device(path: Path) -> int | Path:
    try:
        return path.stat().st_dev
    except OSError:
        return path


def _disk(path: Path) -> dict[str, Any]:
    try:
        usage = shutil.disk_usage(path)
    except OSError as error:
        # Unmounted, say: just what somebody who asks for the status must see.
        return {"path": str(path), "error": error.strerror}
    # As `df` and the check count: what is kept for root is nobody's.
    percent = 100 * usage.used / max(1, usage.used + usage.free)
    return {"path": str(path), "total": usage.total, "free": usage.free, "used_percent": percent}


def _current(link: Path) -> str | None:
    try:
        return link.readlink().parent.name
    except OSError:
        return None


def _fail(status: HTTPStatus, message: str) -> NoReturn:
    kinds: dict[int, type[web.HTTPError]] = {
        HTTPStatus.BAD_REQUEST: web.HTTPBadRequest,
        HTTPStatus.FORBIDDEN: web.HTTPForbidden,
        HTTPStatus.CONFLICT: web.HTTPConflict,
        HTTPStatus.INTERNAL_SERVER_ERROR: web.HTTPInternalServerError,
    }
    kind = kinds.get(status, web.HTTPBadRequest)
    raise kind(text=json.dumps({"error": message}), content_type="application/json")
