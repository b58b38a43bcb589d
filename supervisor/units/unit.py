"""One unit: starts it, finds it again, stays with it, stops it. What is to be done decides `supervisor.units.model`."""

import asyncio
import hashlib
import json
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM
from typing import Any, Final

import structlog

from azaion import failpoints, files
from azaion.declarations.services import Declaration
from azaion.errors import AzaionError
from azaion.layout import AttemptFolder, ServiceFolder
from azaion.settings import ConfigError, SecretReference
from supervisor import processes
from supervisor.errors import ProcessError
from supervisor.jobs import evidence as looks
from supervisor.jobs.evidence import Evidence, ShimState, Verdict
from supervisor.jobs.launchers import Launcher, LaunchError
from supervisor.jobs.spec import ENVIRONMENT, PROTOCOL
from supervisor.units import readiness
from supervisor.units.model import (
    HEALTHY_S,
    Act,
    End,
    Step,
    UnitState,
    Wish,
    decide,
    environment_of,
    pause_after,
)

#: How long a launched shim may take until it has recorded its start, before the start is looked at more closely.
START_S: Final = 10.0
#: How long the shim is given beyond the grace to do the killing itself.
SHIM_MARGIN_S: Final = 5.0
#: How long to wait before trying again what a full disk, or too many open files, have refused.
AGAIN_S: Final = 5.0
#: How often it is looked whether a unit is ready, until it is and from then on.
SOON_S: Final = 0.2
EVERY_S: Final = 10.0
#: So many looks in a row must find one that was ready not to be so any more.
LOOKS: Final = 3
#: So many folders of starts are kept, the newest one included.
KEPT: Final = 3
#: A log that is larger makes way for a new one, and its beginning goes while it is written.
LOG_BYTES: Final = 64 << 20
#: A service is started anew in seconds, a run has days to lose: when memory is short, it goes before any run.
OOM_SCORE: Final = 300

_log = structlog.get_logger("azaion.services")


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all units share.

    Attributes:
        launcher: how shims are started.
        boot_id: this boot of the machine.
        gpus: the numbers of the GPUs that those see who hold the GPU.
        note: records an event: its type and its text.
        holder: who has the GPUs, or is about to get them, in words; empty if nobody.
        blockers: what keeps a unit from starting that comes after these.
        changed: called when a unit is in another state.
        resolve: looks up a secret.
        clock: the wall clock.
    """

    launcher: Launcher
    boot_id: str
    gpus: Sequence[str]
    note: Callable[[str, str], None]
    holder: Callable[[], str]
    blockers: Callable[[Sequence[str]], list[str]]
    changed: Callable[[], None]
    resolve: Callable[[SecretReference], str]
    clock: Callable[[], float] = time.time


@dataclass(kw_only=True)
class _Start:
    """A start whose end has not been recorded here.

    Attributes:
        deaths: how many ends in a row had come unasked before it.
        error: why it could not be launched; empty if nobody knows of anything.
        asked: whether this daemon has asked it to end.
    """

    number: int
    folder: AttemptFolder
    nonce: str
    digest: str
    deaths: int
    restarts: int
    holds_gpu: bool
    error: str = ""
    asked: bool = False


class Unit:
    """A service that outlives the daemon.

    Args:
        name: its name.
        declared: what is declared of it; None if it is declared no more, so that it only ends.
        folder: where its starts are.
        wish: what people want of it.
        surroundings: what it shares with the others.
    """

    def __init__(
        self, name: str, declared: Declaration | None, *, folder: ServiceFolder, wish: Wish, surroundings: Surroundings
    ) -> None:
        self.name = name
        self.declared = declared
        self.wish = wish
        self.state = UnitState.WAITING
        self.why = "azaiond has not looked yet"
        self.since = surroundings.clock()
        self.pid: int | None = None
        self.restarts = 0
        self.last: End | None = None
        #: Set while nothing of it runs and nothing is being started.
        self.rested = asyncio.Event()
        self._folder = folder
        self._around = surroundings
        self._environment = _inherited()
        self._digest = _digest(declared, surroundings.gpus) if declared is not None else ""
        self._number = 0
        self._adopted = False
        self._start: _Start | None = None
        self._heeded: Wish | None = None
        self._again = ""
        self._trouble = ""
        self._death = ""
        self._ready: bool | None = None
        self._lack = ""
        self._changed = asyncio.Event()
        self._jitter = random.Random()  # noqa: S311 - spreads restarts, guards nothing

    @property
    def nonce(self) -> str:
        """What its processes carry; empty if there are none."""
        return self._start.nonce if self._start is not None else ""

    @property
    def number(self) -> int:
        """The number of its last start."""
        return self._number

    @property
    def holds_gpu(self) -> bool:
        """Whether it uses the GPUs, or what runs of it does; as long as nobody has looked, it may."""
        if not self._adopted:
            return True
        running = self._start is not None and self._start.holds_gpu
        return running or (self.declared is not None and self.declared.holds_gpu)

    @property
    def heeded(self) -> bool:
        """Whether its state is what follows from the wish."""
        return self._heeded is self.wish

    @property
    def ready(self) -> bool:
        """Whether those that come after it may start."""
        return self.state is UnitState.READY

    def poke(self) -> None:
        """Say that there may be something to do."""
        self._changed.set()

    def again(self, why: str) -> None:
        """Have what runs ended, for this reason, and started anew."""
        self._trouble = ""
        if self._start is not None:
            self._again = why
        self.poke()

    def forgive(self) -> None:
        """Forget what has kept it from being started."""
        self._trouble = ""
        self.poke()

    async def run(self) -> None:
        """Keep it as it is wanted, for ever; one that is declared no more until it has ended."""
        while not (self.declared is None and self.rested.is_set()):
            try:
                if not self._adopted:
                    await self._adopt()
                await self._turn()
            except (OSError, ProcessError, files.FileError) as error:
                # The disk is full, or there are too many open files: what runs goes on all the same.
                _log.error("cannot look after", service=self.name, error=str(error))
                await asyncio.sleep(AGAIN_S)

    async def _adopt(self) -> None:
        """Find what daemons before this one have started."""
        numbers = sorted(int(path.name) for path in self._folder.path.glob("[0-9]*") if path.name.isdecimal())
        for number in numbers[:-1]:
            folder = self._folder.start(number)
            found = _read(number, folder)
            if looks.held(folder) and found is not None:
                _log.error("an old start still lives; ending it", service=self.name, folder=str(folder.path))
                await processes.clear(found.nonce)
            if found is not None and number == numbers[-2]:
                self.last = self._end_of(found, looks.gather(folder, found.nonce, self._around.boot_id))
        self._number = max(numbers, default=0)
        # Without a readable spec no shim has ever been started there.
        self._start = _read(self._number, self._folder.start(self._number)) if numbers else None
        if self._start is not None:
            self.restarts = self._start.restarts
        self._adopted = True
        self._around.changed()

    async def _turn(self) -> None:
        """Look where it is, and do the next thing."""
        if self._start is not None:
            await self._follow(self._start)
            return
        self._changed.clear()
        step = self._decide(None)
        if step.act is Act.START:
            self.rested.clear()
            await self._launch(step)
            return
        if not self.rested.is_set():
            self.rested.set()
            self._around.changed()
        self._tell_death()
        self._become(step)
        with suppress(TimeoutError):
            async with asyncio.timeout(step.wait_s):
                await self._changed.wait()

    def _decide(self, running: _Start | None, asked: str = "") -> Step:
        after = self.declared.after if self.declared is not None else ()
        step = decide(
            self.declared,
            wish=self.wish,
            digest=self._digest,
            running=running.digest if running is not None else None,
            asked=asked or self._again,
            last=self.last,
            holder=self._around.holder(),
            blockers=self._around.blockers(after),
            now=self._around.clock(),
        )
        if step.act is Act.START and self._trouble:
            return Step(act=Act.REST, state=UnitState.FAILED, why=self._trouble)
        return step

    # A start.

    async def _launch(self, step: Step) -> None:
        if (declared := self.declared) is None:
            return
        try:
            environment = self._resolved(declared)
        except ConfigError as error:
            self._trouble = "; ".join(error.problems)
            return
        last = self.last
        fresh = last is None or last.rebooted or last.number <= self.wish.forgiven or last.digest != self._digest
        died = last is not None and not (last.asked or last.rebooted)
        self._number += 1
        self.restarts += died
        start = self._start = _Start(
            number=self._number,
            folder=self._folder.start(self._number),
            nonce=secrets.token_hex(16),
            digest=self._digest,
            deaths=0 if fresh or last is None else last.deaths,
            restarts=self.restarts,
            holds_gpu=declared.holds_gpu,
        )
        self._ready, self._lack = None, ""
        spec = _spec(self.name, declared, start, environment)
        try:
            files.make_folder(start.folder.path)
            self._link_log(start.folder)
            failpoints.hit("units.folder.made")
            files.write_json(start.folder.spec, spec, mode=0o600)
            failpoints.hit("units.spec.written")
            await self._around.launcher.launch(start.folder)
            failpoints.hit("units.launched")
            self._tell_death()
            if declared.ready is not None:
                self._become(step)
            await self._recorded(start.folder)
            failpoints.hit("units.recorded")
        except (OSError, LaunchError) as error:
            _log.error("cannot start", service=self.name, error=str(error))
            self._around.note("service-start-failed", f"{self.name}: {error}")
            start.error = str(error)

    def _link_log(self, folder: AttemptFolder) -> None:
        """Have all starts write into one file."""
        log = self._folder.log
        if log.exists() and log.stat().st_size > LOG_BYTES:
            files.rename(log, self._folder.previous_log)
        log.touch(mode=0o640)
        folder.log.hardlink_to(log)

    async def _recorded(self, folder: AttemptFolder) -> None:
        """Wait until the shim has recorded its start or its end, without touching the lock that it is about to take."""
        pause = 0.002
        deadline = time.monotonic() + START_S
        while not (folder.state.exists() or folder.exit.exists()) and time.monotonic() < deadline:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def _tidy(self, start: _Start) -> None:
        """Remove what is not needed any more: secrets that the shim has read, and the folders of old starts."""
        try:
            spec = files.read_json(start.folder.spec)
            if hidden := spec.pop("secrets", None):
                shown = {name: value for name, value in spec["env"].items() if name not in hidden}
                files.write_json(start.folder.spec, {**spec, "env": shown}, mode=0o600)
            for path in self._folder.path.glob("[0-9]*"):
                if path.name.isdecimal() and int(path.name) <= start.number - KEPT:
                    files.remove_tree(path)
        except (OSError, files.FileError, KeyError, TypeError, AttributeError) as error:
            # The service is to be looked after all the same, also where it has spoilt its own spec.
            _log.error("cannot tidy up", service=self.name, error=str(error))

    def _resolved(self, declared: Declaration) -> dict[str, str]:
        """The whole environment; raises ConfigError if a secret is not to be found."""
        wanted = environment_of(declared, self._environment, self._around.gpus)
        return {
            name: self._around.resolve(value) if isinstance(value, SecretReference) else value
            for name, value in wanted.items()
        }

    # From its start to its end.

    async def _follow(self, start: _Start) -> None:
        """Look at a start and do what follows."""
        evidence = looks.gather(start.folder, start.nonce, self._around.boot_id)
        verdict = looks.judge(evidence)
        match verdict:
            case Verdict.WATCH_SHIM | Verdict.WATCH_CHILD:
                await self._watch(start, evidence)
            case Verdict.WAIT_FOR_LOCK:
                await asyncio.sleep(0.05)
            case Verdict.FENCE:
                if not looks.fence(start.folder, start.nonce):
                    await asyncio.sleep(0.05)
            case _:
                shim = looks.shim_of(evidence.state) if evidence.state is not None and evidence.shim_alive else None
                await looks.clear(start.folder, start.nonce, shim)
                failpoints.hit("units.cleared")
                self._close(start, evidence)

    async def _watch(self, start: _Start, evidence: Evidence) -> None:
        """Wait until the shim (or the leader, if the shim is gone) ends; ask for its end when it is time."""
        if evidence.state is None:
            return
        self.rested.clear()
        child = looks.child_of(evidence.state)
        watched = looks.shim_of(evidence.state) if evidence.shim_alive else child
        margin = SHIM_MARGIN_S if evidence.shim_alive else 0.0
        asked = _asked(evidence)
        deadline: float | None = None
        delivered = False
        self.pid = child.pid
        if self.declared is None or self.declared.ready is None:
            self._ready = True
        self._tidy(start)
        async with _beside(processes.gone(watched)) as ended, _beside(self._probe()):
            while not ended.done():
                self._changed.clear()
                step = self._decide(start, asked)
                self._become(step, started=evidence.state.started)
                if step.act is Act.STOP and not delivered:
                    asked, delivered = step.why, True
                    deadline = time.monotonic() + self._ask(start, evidence.state, watched, step.why) + margin
                woken = asyncio.ensure_future(self._changed.wait())
                pause = None if deadline is None else max(0.0, deadline - time.monotonic())
                try:
                    await asyncio.wait({ended, woken}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    woken.cancel()
                if deadline is not None and time.monotonic() >= deadline:
                    _log.warning("grace is over", service=self.name, pid=child.pid)
                    processes.send(child, SIGKILL)
                    deadline = None

    def _ask(self, start: _Start, state: ShimState, watched: processes.Identity, why: str) -> float:
        """Have it end: written where its shim reads it, then signalled. Returns the seconds that it is given."""
        grace = self.declared.grace_s if self.declared is not None else _grace(start.folder)
        _log.info("ending it", service=self.name, pid=state.child.pid, why=why)
        start.asked = True
        try:
            if not start.folder.request.exists():
                files.write_json(start.folder.request, {"intent": "cancel", "grace_s": grace, "reason": why})
        except OSError as error:
            # It is asked all the same, and the daemon keeps the time itself.
            _log.error("cannot write the request", service=self.name, error=str(error))
        failpoints.hit("units.request.written")
        processes.send(watched, SIGTERM)
        failpoints.hit("units.signalled")
        return grace

    def _close(self, start: _Start, evidence: Evidence) -> None:
        """Take note of how a start ended."""
        # It may have ended before anybody looked.
        self._tidy(start)
        self.last = self._end_of(start, evidence)
        _log.info("ended", service=self.name, number=start.number, how=str(self.last), asked=self.last.asked)
        self._death = "" if self.last.asked else f"{self.name}: {self.last}"
        self._start, self.pid, self._again = None, None, ""
        self._ready, self._lack = None, ""

    def _tell_death(self) -> None:
        """Tell of an end that nobody had asked for; the next start comes first."""
        death, self._death = self._death, ""
        if death:
            self._around.note("service-ended", death)

    def _end_of(self, start: _Start, evidence: Evidence) -> End:
        told = evidence.exit
        rebooted = evidence.state is not None and not evidence.same_boot
        # What never began because a daemon died has done nothing wrong.
        never = told is not None and told.never_started and not start.error
        asked = start.asked or evidence.request is not None or never
        well = told is not None and told.ran_s is not None and told.ran_s > HEALTHY_S
        deaths = start.deaths + (not asked) if not well else int(not asked)
        return End(
            number=start.number,
            code=told.rc if told is not None else None,
            signal=told.signal if told is not None else None,
            error=start.error or (told.error if told is not None else ""),
            asked=asked,
            rebooted=rebooted,
            deaths=deaths,
            digest=start.digest,
            time=_modified(start.folder, self._around.clock()),
            pause=pause_after(deaths, self._jitter.random()),
        )

    # Whether it is ready.

    async def _probe(self) -> None:
        """Look again and again whether it is ready."""
        declared = self.declared
        if declared is None or declared.ready is None:
            return
        try:
            environment = self._resolved(declared)
        except ConfigError:
            environment = dict(self._environment)
        failed = 0
        while True:
            lack = await readiness.look(declared.ready, environment, declared.cwd)
            failed = failed + 1 if lack else 0
            self._found(lack, failed=failed)
            await asyncio.sleep(EVERY_S if self._ready and not lack else SOON_S if self._ready is None else 1.0)

    def _found(self, lack: str, *, failed: int) -> None:
        before = self._ready, self._lack
        if not lack:
            self._ready, self._lack = True, ""
        elif self._ready is None or failed >= LOOKS:
            self._ready, self._lack = (None if self._ready is None else False), lack
        if (self._ready, self._lack) != before:
            self.poke()

    def _become(self, step: Step, started: float | None = None) -> None:
        """Be in another state, and say so."""
        state, why = step.state, step.why
        if step.act is Act.KEEP:
            state = {None: UnitState.STARTING, True: UnitState.READY, False: UnitState.NOT_READY}[self._ready]
            why = self._lack
        before, self.state, self.why = self.state, state, why
        heeded, self._heeded = self.heeded, self.wish
        if started is not None:
            self.since = started
        if before is state:
            if not heeded:
                self._around.changed()
            return
        if started is None:
            self.since = self._around.clock()
        failed = state is UnitState.FAILED
        (_log.error if failed else _log.info)(str(state), service=self.name, pid=self.pid, why=why)
        text = why or (f"pid {self.pid}" if self.pid is not None else "")
        self._around.note(f"service-{state}", f"{self.name}: {text}" if text else self.name)
        self._around.changed()

    def trim(self) -> None:
        """Give the disk back the beginning of a log that has grown large."""
        with suppress(FileNotFoundError):
            told = self._folder.log.stat()
            if told.st_blocks * 512 > LOG_BYTES:
                files.give_back(self._folder.log, told.st_size - LOG_BYTES // 4)


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Have something done meanwhile; it has ended when the block has."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        (trouble,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(trouble, Exception):
            _log.error("failed", error=repr(trouble))


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}


def _digest(declared: Declaration, gpus: Sequence[str]) -> str:
    """Of all that makes another process of it; the daemon's own PATH and the like are not its declaration."""
    environment = {
        name: [value.variable] if isinstance(value, SecretReference) else value
        for name, value in environment_of(declared, {}, gpus).items()
    }
    told = json.dumps([declared.argv, environment, declared.cwd], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _spec(name: str, declared: Declaration, start: _Start, environment: Mapping[str, str]) -> dict[str, Any]:
    """The ``spec.json`` of a start: what its shim is told, and what the next daemon must know."""
    return {
        "protocol": PROTOCOL,
        "service": name,
        "number": start.number,
        "nonce": start.nonce,
        "digest": start.digest,
        "deaths": start.deaths,
        "restarts": start.restarts,
        "holds_gpu": start.holds_gpu,
        "grace_s": declared.grace_s,
        "oom_score_adj": OOM_SCORE,
        "argv": declared.argv,
        "cwd": declared.cwd,
        "env": dict(environment),
        # Removed from the environment here as soon as the shim has read it.
        "secrets": [name for name, value in declared.env.items() if isinstance(value, SecretReference)],
    }


def _read(number: int, folder: AttemptFolder) -> _Start | None:
    """What an earlier daemon has written of a start; None if it had not come to that."""
    try:
        told = files.read_json(folder.spec)
        return _Start(
            number=number,
            folder=folder,
            nonce=str(told["nonce"]),
            digest=str(told["digest"]),
            deaths=int(told["deaths"]),
            restarts=int(told["restarts"]),
            holds_gpu=bool(told["holds_gpu"]),
        )
    except FileNotFoundError:
        return None
    except (files.FileError, KeyError, TypeError, ValueError) as error:
        _log.error("unreadable", folder=str(folder.path), error=str(error))
        return None


def _asked(evidence: Evidence) -> str:
    """Why a start has been asked to end by a daemon before this one; empty if it has not."""
    return "" if evidence.request is None else evidence.request.reason or "it has been asked to end"


def _grace(folder: AttemptFolder) -> float:
    """The grace that stood in a declaration which is gone."""
    try:
        return float(files.read_json(folder.spec)["grace_s"])
    except (OSError, AzaionError, KeyError, TypeError, ValueError):
        return 30.0


def _modified(folder: AttemptFolder, otherwise: float) -> float:
    try:
        return folder.exit.stat().st_mtime
    except OSError:
        return otherwise
