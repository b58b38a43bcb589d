"""Every check, put together: what it reads, how it judges, how often and for how long it may look."""

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGKILL
from typing import Final, TypeVar

import structlog

from azaion.annotations.spool import Spool
from azaion.config import Config, PublishTarget, Source
from azaion.declarations.health import CheckSettings
from azaion.environment import resolve
from supervisor import processes
from supervisor.consumer import ConsumerRoom
from supervisor.gpus import Probe
from supervisor.health import disks, memory, state, words
from supervisor.health.annotations import Course, Observer, Rate, Words, is_stopped, judge_life, judge_offset
from supervisor.health.apart import Apart
from supervisor.health.broker import BrokerLook
from supervisor.health.disks import DiskLook
from supervisor.health.gpus import GpuLook
from supervisor.health.looks import Check, Levels, Seen
from supervisor.health.machine import Jumps, Loop, clocks
from supervisor.health.network import CertificateLook, Place, look_at_api
from supervisor.health.work import judge_services, judge_trainings
from supervisor.jobs.model import ACTIVE, Kind
from supervisor.jobs.runner import Runner
from supervisor.jobs.scheduler import CPU
from supervisor.jobs.store import Store
from supervisor.units.room import UnitRoom

#: What costs more than a system call is not looked at again so soon.
_SPARING_S: Final = 60.0

_log = structlog.get_logger("azaion.health")


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What the checks look at."""

    settings: Config
    store: Store
    runner: Runner
    consumer: ConsumerRoom
    units: UnitRoom
    probe: Probe
    loop: Loop


def checks(watched: Watched, declared: Mapping[str, CheckSettings]) -> list[Check]:
    """The checks that make sense here and are enabled, in the order in which people read them."""
    table = _Table(watched, declared)
    made: dict[str, Callable[[CheckSettings], Check | None]] = {
        "consumer": table.consumer,
        "offset": table.offset,
        "quarantine": table.quarantine,
        "broker": table.broker,
        "publishing": table.publishing,
        "certificate": table.certificate,
        "gpu": table.gpu,
        "training": table.training,
        "services": table.services,
        "disk": table.disk,
        "inodes": table.inodes,
        "database": table.database,
        "memory": table.memory,
        "pressure": table.pressure,
        "oom": table.oom,
        "clock": table.clock,
        "loop": table.loop,
        "secrets": table.secrets,
    }
    if watched.consumer.elsewhere:
        made |= dict.fromkeys(("consumer", "offset", "quarantine"), lambda _: None)
    found = ((settings, made[name]) for name, settings in declared.items())
    return [check for settings, make in found if settings.enabled and (check := make(settings)) is not None]


_Facts = TypeVar("_Facts")
_Look = Callable[[], Awaitable[Sequence[Seen]]]


def _check(
    name: str, settings: CheckSettings, look: _Look, looks: int = 1, again_s: float = 15.0, limit_s: float = 10.0
) -> Check:
    return Check(name=name, look=look, interval_s=settings.interval_s, looks=looks, again_s=again_s, limit_s=limit_s)


def _apart(name: str, read: Callable[[], _Facts], judge: Callable[[_Facts], Sequence[Seen | None]]) -> _Look:
    """A look that reads in a thread of its own, and judges here."""
    reader = Apart(read, f"health {name}")

    async def look() -> Sequence[Seen]:
        return [seen for seen in judge(await reader()) if seen is not None]

    return look


def _here(judge: Callable[[], Sequence[Seen]]) -> _Look:
    """A look at what the daemon knows anyway."""

    async def look() -> Sequence[Seen]:
        return judge()

    return look


class _Table:
    """Makes each check from its settings; None where it makes no sense."""

    def __init__(self, watched: Watched, declared: Mapping[str, CheckSettings]) -> None:
        self._watched = watched
        self._settings = watched.settings
        self._layout = watched.settings.layout
        self._observer = Observer(
            watched.consumer.status, self._committed, watched.consumer.offset, declared["consumer"].interval_s
        )
        self._paths = disks.paths(self._layout, spool=self._settings.daemon.source is Source.SPOOL)

    # The annotations.

    def _committed(self) -> int | None:
        # Of a broker's stream the consumer itself has said how much waits; to find out more would take a reader.
        spool = self._settings.daemon.source is Source.SPOOL
        return Spool(self._layout.spool).end() - 1 if spool else None

    def consumer(self, settings: CheckSettings) -> Check:
        def judge(found: Words) -> list[Seen]:
            course = self._observer.course(found)
            if course.must_be_killed and found.pid is not None:
                self._kill(found.pid, course)
            return [judge_life(course)]

        return _check("consumer", settings, _apart("consumer", self._observer.read, judge), looks=2)

    def _kill(self, pid: int, course: Course) -> None:
        # Our own child: until the service has reaped it, its PID is its own.
        who = processes.identify(pid)
        if who is not None and self._watched.consumer.service.pid == pid and processes.send(who, SIGKILL):
            text = f"pid {pid} has said nothing for {words.duration(course.silent_s)} and messages wait: killed"
            _log.error("consumer killed", pid=pid, silent_s=course.silent_s)
            self._watched.store.note("consumer-killed", text)

    def offset(self, settings: CheckSettings) -> Check:
        levels = Levels.of(settings)
        judge = lambda found: [judge_offset(self._observer.course(found), levels)]  # noqa: E731
        return _check("offset", settings, _apart("offset", self._observer.read, judge))

    def quarantine(self, settings: CheckSettings) -> Check:
        rate, levels = Rate(), Levels.of(settings)
        judge = lambda found: [rate.judge(found, levels)]  # noqa: E731
        return _check("quarantine", settings, _apart("quarantine", self._observer.read, judge), again_s=_SPARING_S)

    def broker(self, settings: CheckSettings) -> Check | None:
        broker = self._settings.rabbitmq
        if self._settings.daemon.source is not Source.RABBITMQ or broker is None:
            return None
        look = BrokerLook(broker, partial(resolve, broker.password, os.environ, _environment_file()))
        return _check("broker", settings, look, looks=2, limit_s=30.0)

    # What is far away.

    def publishing(self, settings: CheckSettings) -> Check | None:
        place = self._api()
        if place is None:
            return None
        return _check("publishing", settings, partial(look_at_api, place), looks=2, again_s=_SPARING_S)

    def certificate(self, settings: CheckSettings) -> Check | None:
        broker = self._settings.rabbitmq if self._settings.daemon.source is Source.RABBITMQ else None
        known = [self._api(), Place.of_broker(broker) if broker is not None else None]
        places = tuple(place for place in known if place is not None and place.tls)
        if not places:
            return None
        look = CertificateLook(places, Levels.of(settings))
        return _check("certificate", settings, look, limit_s=30.0, again_s=600.0)

    def _api(self) -> Place | None:
        api = self._settings.api
        wanted = self._settings.daemon.publish_target is PublishTarget.AZAION
        return Place.of_url(api.url, api.ca) if wanted and api is not None else None

    # What runs.

    def gpu(self, settings: CheckSettings) -> Check | None:
        devices = [device for device in self._watched.runner.machine.devices if device != CPU]
        look = GpuLook(
            [int(device.removeprefix("gpu")) for device in devices],
            automatic=self._settings.daemon.gpu_ids is None,
            probe=self._watched.probe,
            levels=Levels.of(settings),
        )
        return _check("gpu", settings, look, looks=2, again_s=_SPARING_S) if look.needed else None

    def training(self, settings: CheckSettings) -> Check:
        levels = Levels.of(settings)

        def look() -> list[Seen]:
            return judge_trainings(self._watched.runner.standstills(), self._stopped(), levels)

        return _check("training", settings, _here(look))

    def _stopped(self) -> dict[int, int]:
        """The PIDs of the trainings that a signal has stopped."""
        found = {}
        for job in self._watched.store.jobs(ACTIVE):
            child = self._watched.store.open_attempt(job.id).child
            if job.kind is Kind.TRAIN and child is not None and is_stopped(child.pid):
                found[job.id] = child.pid
        return found

    def services(self, settings: CheckSettings) -> Check | None:
        units = self._watched.units.units
        return _check("services", settings, _here(lambda: judge_services(units))) if units else None

    # The disks.

    def disk(self, settings: CheckSettings) -> Check:
        look = _apart("disk", partial(disks.usages, self._paths), DiskLook(Levels.of(settings)))
        return _check("disk", settings, look)

    def inodes(self, settings: CheckSettings) -> Check:
        levels = Levels.of(settings)
        judge = lambda found: [disks.judge_files(usage, levels) for usage in found]  # noqa: E731
        return _check("inodes", settings, _apart("inodes", partial(disks.usages, self._paths), judge))

    def database(self, settings: CheckSettings) -> Check:
        levels = Levels.of(settings)
        look = _apart("database", partial(state.read, self._layout), lambda found: [state.judge(found, levels)])
        return _check("database", settings, look, looks=2, again_s=_SPARING_S, limit_s=60.0)

    # The machine.

    def memory(self, settings: CheckSettings) -> Check:
        levels = Levels.of(settings)
        look = _apart("memory", memory.read, lambda found: [memory.judge(found, levels)])
        return _check("memory", settings, look, looks=2)

    def pressure(self, settings: CheckSettings) -> Check:
        levels = Levels.of(settings)
        look = _apart("pressure", memory.read, lambda found: [memory.judge_pressure(found, levels)])
        return _check("pressure", settings, look, looks=2)

    def oom(self, settings: CheckSettings) -> Check:
        kills, levels = memory.Kills(), Levels.of(settings)
        return _check("oom", settings, _apart("oom", memory.read, lambda found: [kills(found, levels)]))

    def clock(self, settings: CheckSettings) -> Check:
        jumps, levels = Jumps(), Levels.of(settings)
        return _check("clock", settings, _here(lambda: [jumps.judge(clocks(), levels)]))

    def loop(self, settings: CheckSettings) -> Check:
        levels = Levels.of(settings)
        return _check("loop", settings, _here(lambda: [self._watched.loop.judge(levels)]))

    def secrets(self, settings: CheckSettings) -> Check | None:
        levels, path = Levels.of(settings), _environment_file()
        if path is None:
            return None
        judge = lambda found: state.judge_secrets(found, levels, time.time())  # noqa: E731
        return _check("secrets", settings, _apart("secrets", partial(state.secret_files, [path]), judge), again_s=600.0)


def _environment_file() -> Path | None:
    path = Path(".env").absolute()
    return path if path.exists() else None
