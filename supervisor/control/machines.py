"""What machines ask for: metrics, health, the queue in figures; on the unix socket, and on a port of this host."""

import asyncio
import platform
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from azaion import COMMIT, __version__
from azaion.config import Config
from supervisor.consumer import ConsumerRoom
from supervisor.control import protocol
from supervisor.control.health import finding_record
from supervisor.figures import Facts, Running, ServiceFacts, Space
from supervisor.gpus import Probe, Reading
from supervisor.health.apart import Apart
from supervisor.health.looks import UnreadableError
from supervisor.health.machine import Loop
from supervisor.health.model import Finding, Verdict, overall
from supervisor.health.room import HealthRoom
from supervisor.jobs.metrics import progress
from supervisor.jobs.model import ACTIVE
from supervisor.jobs.runner import Runner
from supervisor.jobs.scheduler import CPU
from supervisor.jobs.store import Store
from supervisor.jobs.tally import Tally, tally
from supervisor.units.room import UnitRoom

#: Asking NVML costs a process each time, and Prometheus may ask every few seconds.
_GPU_S: Final = 60.0
#: A filesystem whose server is gone is not waited for.
_DISK_S: Final = 2.0
#: How often it is tried to have the port, if somebody else has it.
_AGAIN_S: Final = 30.0
_LOOPBACK: Final = "127.0.0.1"
#: Any other name in a request is that of a page in a browser which has made its name lead here.
_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_log = structlog.get_logger("azaion.control")


class MachineRoutes:
    """Answers machines. Nothing here changes anything, or tells a secret, a user or the name of a job.

    Args:
        config: the configuration.
        store: the jobs.
        runner: what runs, and what the devices are.
        consumer: the annotations.
        units: the services.
        health: what is known by the checks.
        loop: how late the daemon's loop was.
        probe: asks NVML.
        alerts: what needs somebody, as ``status --json`` prints it.
    """

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        runner: Runner,
        consumer: ConsumerRoom,
        units: UnitRoom,
        health: HealthRoom,
        loop: Loop,
        probe: Probe,
        alerts: Callable[[], Sequence[Any]],
    ) -> None:
        self._config = config
        self._store = store
        self._runner = runner
        self._consumer = consumer
        self._units = units
        self._health = health
        self._loop = loop
        self._probe = probe
        self._alerts = alerts
        self._disks = Apart(self._look_at_disks, "disks for machines")
        self._began = time.time()

    def routes(self) -> list[web.RouteDef]:
        """What there is to ask for."""
        return [
            web.get("/metrics", self._metrics),
            web.get("/health", self._show_health),
            web.get("/health/detailed", self._show_findings),
            web.get("/queue/stats", self._show_queue),
            web.get("/info", self._show_info),
        ]

    async def run(self) -> None:
        """Serve on the port of this host if the configuration names one, until cancelled."""
        port = self._config.daemon.http_port
        if port is None:
            await asyncio.Event().wait()
            return
        application = web.Application(middlewares=[_guard])
        application.add_routes(self.routes())
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await self._have(runner, port)
            _log.info("listening", address=f"http://{_LOOPBACK}:{port}")
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _have(self, runner: web.AppRunner, port: int) -> None:
        """Listen on the port. Nothing else waits for that: whoever has it may give it back."""
        told = ""
        while True:
            site = web.TCPSite(runner, _LOOPBACK, port)
            try:
                await site.start()
            except OSError as error:
                if str(error) != told:
                    told = str(error)
                    _log.error("cannot listen", port=port, error=told, advice="free it, or set AZAION_HTTP_PORT")
                    self._store.note("http-failed", f"{told}; free the port, or set AZAION_HTTP_PORT to another one")
                await site.stop()
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    # Answers.

    async def _metrics(self, _request: web.Request) -> web.Response:
        # A megabyte that only those need who are asked.
        from supervisor import metrics  # noqa: PLC0415

        counted, reading, spaces = await asyncio.gather(self._tally(), self._reading(), self._spaces())
        leases = self._store.leases()
        facts = Facts(
            version=__version__,
            tally=counted,
            running=self._running(leases),
            leases={device: leases.get(device) for device in self._runner.machine.devices},
            reading=reading,
            spaces=spaces,
            consumer=self._consumer.status(),
            services=[
                ServiceFacts(name=unit.name, state=unit.state, restarts=unit.restarts) for unit in self._units.units
            ],
            findings=self._health.findings(),
            alerts=len(self._alerts()),
            events=self._store.last_event(),
            maintenance=self._store.maintenance() is not None,
            loop_late_s=self._loop.worst(asyncio.get_running_loop().time() - 60.0),
        )
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=metrics.exposition(facts), headers={"Content-Type": kind, **_HEADERS})

    async def _show_health(self, _request: web.Request) -> web.Response:
        findings = self._health.findings()
        counts = {str(verdict): sum(each.verdict is verdict for each in findings) for verdict in Verdict}
        return _answer({"status": str(overall(findings)), "checks": counts}, _status(findings))

    async def _show_findings(self, _request: web.Request) -> web.Response:
        findings = self._health.findings()
        told = {
            "status": str(overall(findings)),
            "findings": [finding_record(each) for each in findings],
            "alerts": len(self._alerts()),
        }
        return _answer(told, _status(findings))

    async def _show_queue(self, _request: web.Request) -> web.Response:
        counted = await self._tally()
        consumer = self._consumer.status()
        running = self._running(self._store.leases())
        kept = ("epoch", "epochs", "eta_s")
        return _answer(
            {
                "jobs": {str(state): count for state, count in self._store.counts().items()},
                "failed": {cause: count for cause, count in counted.failed.items() if count},
                "waiting_s": counted.waiting_s,
                "maintenance": self._store.maintenance() is not None,
                "running": [
                    {"id": each.job, "kind": each.kind, "device": each.device}
                    | {name: each.progress.get(name) for name in kept}
                    for each in running
                ],
                "annotations": {
                    name: consumer.get(name)
                    for name in ("service", "state", "offset", "lag", "lag_s", "rate", "quarantined")
                },
            }
        )

    async def _show_info(self, _request: web.Request) -> web.Response:
        daemon = self._config.daemon
        return _answer(
            {
                "name": "azaion",
                "version": __version__,
                "commit": COMMIT or None,
                "protocol": protocol.VERSION,
                "python": platform.python_version(),
                "started": protocol.stamp(self._began),
                "uptime_s": time.time() - self._began,
                "launcher": str(daemon.launcher),
                "source": str(daemon.source),
                "publish_target": str(daemon.publish_target),
                "devices": list(self._runner.machine.devices),
                "model": _current(self._config.layout.current_model),
            }
        )

    # What the answers are made of.

    async def _tally(self) -> Tally:
        return await asyncio.to_thread(tally, self._config.layout.database, time.time())

    async def _reading(self) -> Reading | None:
        if self._runner.machine.devices == (CPU,):
            return None
        return await self._probe.ask(max_age_s=_GPU_S)

    async def _spaces(self) -> Sequence[Space]:
        try:
            async with asyncio.timeout(_DISK_S):
                return await self._disks()
        except (TimeoutError, UnreadableError):
            return ()

    def _look_at_disks(self) -> Sequence[Space]:
        layout, found = self._config.layout, []
        for name, path in (("root", layout.root), ("state", layout.state)):
            try:
                usage = shutil.disk_usage(path)
            except OSError:
                continue
            found.append(Space(path=name, size=usage.total, free=usage.free))
        return found

    def _running(self, leases: dict[str, int]) -> list[Running]:
        standstills = self._runner.standstills()
        found = []
        for job in self._store.jobs(ACTIVE):
            devices = sorted(device for device, number in leases.items() if number == job.id)
            folder = self._runner.folder(job)
            if devices:
                still = standstills.get(job.id)
                found.append(
                    Running(
                        device=devices[0],
                        job=job.id,
                        kind=str(job.kind),
                        progress=progress(folder) if folder is not None else {},
                        still_s=still.still_s if still is not None else None,
                    )
                )
        return found


@web.middleware
async def _guard(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Let only those in who have called this host by a name of its own, and want to look."""
    if _hostname(request.headers.get("Host", "")) not in _HOSTS:
        error = "this port answers only to localhost; for others put a proxy before it"
        return _answer({"error": error}, HTTPStatus.FORBIDDEN)
    if request.method not in {"GET", "HEAD"}:
        return _answer({"error": "this port only tells; use azaionctl"}, HTTPStatus.METHOD_NOT_ALLOWED)
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _answer({"error": error.reason}, HTTPStatus(error.status))
    except Exception:  # noqa: BLE001 - one bad request must not end the daemon, and must not pass in silence
        _log.exception("request failed", path=request.path)
        return _answer({"error": "azaiond failed at this request"}, HTTPStatus.INTERNAL_SERVER_ERROR)


def _hostname(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _answer(told: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return web.json_response(told, status=status, headers=_HEADERS)


def _status(findings: Sequence[Finding]) -> HTTPStatus:
    critical = overall(findings) is Verdict.CRITICAL
    return HTTPStatus.SERVICE_UNAVAILABLE if critical else HTTPStatus.OK


def _current(link: Path) -> str | None:
    try:
        return link.readlink().parent.name
    except OSError:
        return None
