"""The room where decisions meet the machine: starts attempts, watches them, adopts those that it finds, ends them."""

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any, Final

import structlog

from azaion import files
from azaion.layout import AttemptFolder, Layout
from supervisor import processes
from supervisor.errors import ProcessError
from supervisor.jobs import evidence as looks
from supervisor.jobs import scheduler
from supervisor.jobs.evidence import Evidence, Verdict
from supervisor.jobs.launchers import Launcher, LaunchError
from supervisor.jobs.metrics import epochs_done
from supervisor.jobs.model import ACTIVE, Attempt, Intent, Job, Kind
from supervisor.jobs.outcome import decide
from supervisor.jobs.scheduler import Machine
from supervisor.jobs.schema import StoreError
from supervisor.jobs.store import Store

#: The version of what the daemon and the shim tell each other.
PROTOCOL: Final = 1
#: How long a cancelled run may take to end.
GRACE_S: Final = 30.0
#: How long a launched shim may take until it has recorded its start, before the attempt is looked at more closely.
START_S: Final = 10.0
#: How long the shim is given beyond the grace to do the killing itself.
SHIM_MARGIN_S: Final = 5.0
#: How long to wait before trying again what a full disk, or too many open files, have refused.
AGAIN_S: Final = 5.0
#: How often the clock is looked at while a job waits for a time.
LOOK_S: Final = 60.0
#: What of the daemon's environment a run may see. No secret is among it.
_ENVIRONMENT: Final = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "AZAION_FAILPOINTS")

_log = structlog.get_logger("azaion.jobs")


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """A run that the database does not know (it was restored, say) and that holds devices all the same."""

    folder: AttemptFolder
    devices: tuple[str, ...]


class Runner:
    """Keeps the jobs going for as long as `run` does; what it starts goes on without it.

    Args:
        store: the jobs.
        layout: where everything lies.
        launcher: how shims are started.
        machine: what there is to hand out.
        boot_id: this boot of the machine.
        clock: the wall clock.
    """

    def __init__(
        self,
        *,
        store: Store,
        layout: Layout,
        launcher: Launcher,
        machine: Machine,
        boot_id: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._layout = layout
        self._launcher = launcher
        self._machine = machine
        self._boot_id = boot_id
        self._clock = clock
        self._changed = asyncio.Event()
        self._asked: dict[int, asyncio.Event] = {}
        self._troubles: dict[int, str] = {}
        self._orphans: list[Orphan] = []
        self._planned: tuple[tuple[int, int], scheduler.Plan] | None = None
        self._jitter = random.Random()  # noqa: S311 - spreads retries, guards nothing

    @property
    def machine(self) -> Machine:
        """What there is to hand out."""
        return self._machine

    async def run(self) -> None:
        """Adopt what runs, then start what waits, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for job in self._store.jobs(ACTIVE):
                tasks.create_task(self._keep(job.id), name=f"keep {job.id}")
            for orphan in self._find_orphans():
                self._orphans.append(orphan)
                tasks.create_task(self._outlast(orphan), name=f"orphan {orphan.folder.path}")
            while True:
                self._changed.clear()
                plan = self.plan()
                try:
                    for number in plan.asides:
                        self.request(number, Intent.PAUSE, "azaiond")
                    for job, devices in plan.starts:
                        self._store.reserve(job.id, devices, self._used(job))
                        tasks.create_task(self._start(job.id, devices), name=f"start {job.id}")
                except StoreError as error:
                    _log.error("cannot start anything", error=str(error))
                    await asyncio.sleep(AGAIN_S)
                    continue
                # The clock may be set while we sleep, and a job may begin in a month.
                pause = None if plan.wake is None else min(max(0.0, plan.wake - self._clock()), LOOK_S)
                try:
                    async with asyncio.timeout(pause):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    def poke(self) -> None:
        """Say that there may be something to start."""
        self._changed.set()

    def plan(self) -> scheduler.Plan:
        """What would start now, and why everything else waits."""
        # Many ask for it and ten thousand may wait, so it is made anew only when something has changed or is to come.
        seen = (self._store.changes, len(self._orphans))
        if self._planned is None or self._planned[0] != seen or self._planned[1].wake is not None:
            self._planned = (seen, self._plan())
        return self._planned[1]

    def _plan(self) -> scheduler.Plan:
        owners = {device: f"job {number}" for device, number in self._store.leases().items()}
        for orphan in self._orphans:
            owners |= dict.fromkeys(orphan.devices, f"an unknown run in {orphan.folder.path}")
        active = self._store.jobs(ACTIVE)
        held = Counter(self._store.leases().values())
        # Two attempts of one job would write into one run.
        haunted = {orphan.folder.path.parent for orphan in self._orphans}
        queued = self._store.queue()
        behind = [job for job in queued if haunted and self._layout.job(job.id, job.uid).path in haunted]
        ready = [job for job in queued if job not in behind] if behind else queued
        running = [scheduler.Run(job=job, devices=held[job.id]) for job in active]
        if (maintenance := self._store.maintenance()) is not None:
            plan = scheduler.drain(ready, running, maintenance)
        else:
            plan = scheduler.plan(
                ready,
                machine=self._machine,
                leases=owners,
                light_running=sum(job.devices == 0 for job in active),
                now=self._clock(),
                awaited=self._store.awaited(),
                running=running,
            )
        waits = {job.id: "an unknown run still works in its folder" for job in behind}
        return replace(plan, waits={**plan.waits, **waits})

    def request(self, number: int, intent: Intent, actor: str, grace_s: float | None = None) -> Job:
        """Ask a job to stop or to end: committed first, then written where the shim reads it, then signalled.

        Raises:
            IllegalTransitionError: the job has ended.
        """
        if intent is Intent.CANCEL and grace_s is None:
            grace_s = GRACE_S
        job = self._store.request(number, intent, actor, grace_s)
        if job.state in ACTIVE:
            self._write_request(job, self._folder(job, self._store.open_attempt(number)))
            self._event(number).set()
        self.poke()
        return job

    def folder(self, job: Job) -> AttemptFolder | None:
        """The folder of the newest attempt of a job; None before the first."""
        attempts = self._store.attempts(job.id)
        return self._folder(job, attempts[-1]) if attempts else None

    # One attempt.

    async def _start(self, number: int, devices: tuple[str, ...]) -> None:
        job = self._store.get(number)
        attempt = self._store.open_attempt(number)
        folder = self._folder(job, attempt)
        try:
            files.make_folder(folder.path)
            files.write_json(folder.spec, self._spec(job, attempt, folder, devices), mode=0o600)
            await self._launcher.launch(folder)
            await self._recorded(folder)
        except (OSError, LaunchError) as error:
            _log.error("cannot start", job=number, attempt=attempt.number, error=str(error))
            self._store.note("start-failed", str(error), number)
            self._troubles[number] = str(error)
        await self._keep(number)

    async def _recorded(self, folder: AttemptFolder) -> None:
        """Wait until the shim has recorded its start or its end, without touching the lock that it is about to take.

        A request may have come before the shim, which then leaves without a word.
        """
        pause = 0.002
        deadline = time.monotonic() + START_S
        words = (folder.state, folder.exit, folder.request)
        while not any(word.exists() for word in words) and time.monotonic() < deadline:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    async def _keep(self, number: int) -> None:
        """Stay with the open attempt of a job until it has ended, then decide what follows."""
        attempt = self._store.open_attempt(number)
        folder = self._folder(self._store.get(number), attempt)
        while True:
            try:
                if await self._ended(number, attempt, folder):
                    return
            except (OSError, ProcessError, StoreError) as error:
                # The disk is full, or there are too many open files: the run goes on all the same.
                _log.error("cannot look after", job=number, error=str(error))
                await asyncio.sleep(AGAIN_S)

    async def _ended(self, number: int, attempt: Attempt, folder: AttemptFolder) -> bool:
        """Look at an attempt and do what follows; returns whether it has ended and that is recorded."""
        evidence = looks.gather(folder, attempt.nonce, self._boot_id)
        verdict = looks.judge(evidence)
        match verdict:
            case Verdict.WATCH_SHIM | Verdict.WATCH_CHILD:
                await self._watch(number, folder, evidence)
            case Verdict.WAIT_FOR_LOCK:
                await self._wait_for_lock(number, folder)
            case Verdict.FENCE:
                await self._fence(folder, attempt)
            case _:
                await processes.clear(attempt.nonce)
                self._end(number, attempt, folder, evidence, verdict)
                return True
        return False

    async def _watch(self, number: int, folder: AttemptFolder, evidence: Evidence) -> None:
        """Wait until the shim (or the leader, if the shim is gone) ends; deliver what is asked of the run meanwhile."""
        if evidence.state is None:
            return
        child = looks.child_of(evidence.state)
        watched = looks.shim_of(evidence.state) if evidence.shim_alive else child
        margin = SHIM_MARGIN_S if evidence.shim_alive else 0.0
        if self._store.open_attempt(number).started is None:
            self._store.started(number, child, evidence.state.started)
            _log.info("started", job=number, pid=child.pid)
        with self._listening(number) as asked:
            ended = asyncio.ensure_future(processes.gone(watched))
            try:
                deadline = self._deliver(number, folder, watched, margin)
                while not ended.done():
                    woken = asyncio.ensure_future(asked.wait())
                    pause = None if deadline is None else max(0.0, deadline - time.monotonic())
                    try:
                        await asyncio.wait({ended, woken}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        woken.cancel()
                    if asked.is_set():
                        asked.clear()
                        deadline = self._deliver(number, folder, watched, margin)
                    elif deadline is not None and time.monotonic() >= deadline:
                        _log.warning("grace is over", job=number, pid=child.pid)
                        processes.send(child, SIGKILL)
                        deadline = None
            finally:
                ended.cancel()

    def _deliver(
        self,
        number: int,
        folder: AttemptFolder,
        watched: processes.Identity,
        margin: float,
    ) -> float | None:
        """Pass on what has been asked of a job, if anything; returns the (monotonic) time at which patience ends."""
        job = self._store.get(number)
        if job.intent is None:
            return None
        self._write_request(job, folder)
        processes.send(watched, SIGTERM)
        if job.intent is not Intent.CANCEL:
            return None
        return time.monotonic() + (GRACE_S if job.grace_s is None else job.grace_s) + margin

    async def _wait_for_lock(self, number: int, folder: AttemptFolder) -> None:
        """Somebody holds the lock and has not recorded a start: it keeps its lease for as long as that lasts."""
        _log.warning("start under way", job=number, holder=processes.lock_holder(folder.lock))
        while True:
            # Slept at least once: what is recorded may be unreadable, and be found so again and again.
            await asyncio.sleep(0.2)
            if folder.state.exists() or not looks.held(folder):
                return

    async def _fence(self, folder: AttemptFolder, attempt: Attempt) -> None:
        try:
            files.make_folder(folder.path)
            if not looks.fence(folder, attempt.nonce):
                await asyncio.sleep(0.05)
        except OSError as error:
            # Without the fence a late shim might still start it, so the attempt stays open until there is room.
            _log.error("cannot fence", folder=str(folder.path), error=str(error))
            await asyncio.sleep(AGAIN_S)

    def _end(self, number: int, attempt: Attempt, folder: AttemptFolder, evidence: Evidence, verdict: Verdict) -> None:
        job = self._store.get(number)
        ending = looks.ending(evidence, verdict, epochs_done(folder))
        if trouble := self._troubles.get(number):
            ending = replace(ending, message=ending.message or trouble)
        decision = decide(job, ending, self._clock(), self._jitter.random())
        if evidence.state is not None and self._store.open_attempt(number).started is None:
            self._store.started(number, looks.child_of(evidence.state), evidence.state.started)
        self._store.finish(number, attempt, ending, decision)
        self._asked.pop(number, None)
        self._troubles.pop(number, None)
        _log.info(
            "ended",
            job=number,
            attempt=attempt.number,
            code=ending.code,
            signal=ending.signal,
            state=str(decision.state),
            cause=decision.cause,
            reason=decision.reason,
        )
        self.poke()

    # Runs that nobody knows.

    def _find_orphans(self) -> Iterator[Orphan]:
        known = {self._folder(job, self._store.open_attempt(job.id)).path for job in self._store.jobs(ACTIVE)}
        for lock in sorted(self._layout.jobs.glob("*/*/lock")):
            folder = AttemptFolder(path=lock.parent)
            if folder.path not in known and looks.held(folder):
                try:
                    devices = tuple(map(str, files.read_json(folder.spec).get("devices", self._machine.devices)))
                except (OSError, files.FileError):
                    devices = self._machine.devices
                yield Orphan(folder=folder, devices=devices)

    async def _outlast(self, orphan: Orphan) -> None:
        where = str(orphan.folder.path)
        _log.error("a run that the database does not know", folder=where, devices=orphan.devices)
        self._store.note("orphan", f"a run that the database does not know holds its devices: {where}")
        while looks.held(orphan.folder):  # noqa: ASYNC110 - no event tells of a lock given back
            await asyncio.sleep(1.0)
        self._orphans.remove(orphan)
        self._store.note("orphan-ended", where)
        self.poke()

    # Small things.

    def _used(self, job: Job) -> int:
        """The highest attempt of which there is a folder: one folder serves one start, whatever the database knows."""
        names = (path.name for path in self._layout.job(job.id, job.uid).path.glob("[0-9]*"))
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def _folder(self, job: Job, attempt: Attempt) -> AttemptFolder:
        return self._layout.job(job.id, job.uid).attempt(attempt.number)

    def _event(self, number: int) -> asyncio.Event:
        return self._asked.setdefault(number, asyncio.Event())

    @contextmanager
    def _listening(self, number: int) -> Iterator[asyncio.Event]:
        event = self._event(number)
        event.clear()
        yield event

    def _write_request(self, job: Job, folder: AttemptFolder) -> None:
        request = {"intent": job.intent, "grace_s": job.grace_s}
        try:
            if not folder.request.exists() or files.read_json(folder.request) != request:
                files.make_folder(folder.path)
                files.write_json(folder.request, request)
        except (OSError, files.FileError) as error:
            # The intent is in the database all the same, and the daemon keeps the time itself.
            _log.error("cannot write the request", job=job.id, error=str(error))

    def _spec(self, job: Job, attempt: Attempt, folder: AttemptFolder, devices: tuple[str, ...]) -> dict[str, Any]:
        run = self._layout.job(job.id, job.uid).run
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        gpus = [device.removeprefix("gpu") for device in devices if device != scheduler.CPU]
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        common: dict[str, Any] = {
            "protocol": PROTOCOL,
            "job": job.id,
            "uid": job.uid,
            "attempt": attempt.number,
            "nonce": attempt.nonce,
            "kind": job.kind,
            "devices": devices,
            "config": str(self._layout.config),
            "run": str(run),
        }
        if job.kind is Kind.TRAIN:
            argv = [sys.executable, "-P", "-m", "workers.train", str(folder.path)]
            return common | {"argv": argv, "cwd": str(folder.path), "env": environment, "train": job.parameters}
        given: Mapping[str, str] = job.parameters["env"]
        return common | {
            "argv": job.parameters["argv"],
            "cwd": job.parameters["cwd"],
            "env": environment | dict(given),
        }


def machine_of(gpu_ids: Sequence[int] | None, proc: Path = Path("/proc/driver/nvidia/gpus")) -> Machine:
    """What this machine has: these GPUs, or (None) all that the NVIDIA driver shows; without any, the CPU slot."""
    if gpu_ids is None:
        gpu_ids = range(len(list(proc.iterdir())) if proc.is_dir() else 0)
    devices = tuple(f"gpu{number}" for number in gpu_ids) or (scheduler.CPU,)
    return Machine(devices=devices, light=max(2, os.cpu_count() or 1))
