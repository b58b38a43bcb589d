"""The room where decisions meet the machine: makes the plan, starts what is due, passes on what is asked."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from azaion import files
from azaion.layout import AttemptFolder, Layout
from supervisor.jobs import evidence as looks
from supervisor.jobs import scheduler
from supervisor.jobs.attempts import AGAIN_S, GRACE_S, Keeper
from supervisor.jobs.gate import AGAIN_S as LOOK_AGAIN_S
from supervisor.jobs.gate import SETTLE_S, Alert, Gate
from supervisor.jobs.launchers import Launcher
from supervisor.jobs.model import ACTIVE, Attempt, Intent, Job
from supervisor.jobs.preflight import Preflight
from supervisor.jobs.scheduler import Machine
from supervisor.jobs.schema import StoreError
from supervisor.jobs.stillness import Patience, Standstill
from supervisor.jobs.store import Store
from supervisor.units.way import SOON_S, Clear, Way, holder_of

#: How often the clock is looked at while a job waits for a time.
LOOK_S: Final = 60.0

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
        patience: for how long a training may stand still.
        gate: looks at the machine before each start; without it, everything is there that anybody needs.
        way: those who use the GPUs while no job does, and make way before one starts.
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
        patience: Patience = Patience(),  # noqa: B008 - it is frozen
        gate: Gate | None = None,
        way: Way | None = None,
    ) -> None:
        self._store = store
        self._layout = layout
        self._machine = machine
        self._gate = gate
        self._way = Clear() if way is None else way
        self._preflight: Preflight | None = None
        self._looks = 0
        self._leases: dict[str, int] = {}
        self._question: asyncio.Task[None] | None = None
        self._clock = clock
        self._changed = asyncio.Event()
        self._keeper = Keeper(
            store=store,
            layout=layout,
            launcher=launcher,
            boot_id=boot_id,
            clock=clock,
            freed=self.poke,
            patience=patience,
            way=self._way,
        )
        self._orphans: list[Orphan] = []
        self._planned: tuple[tuple[int, int, int], scheduler.Plan] | None = None
        self._planned_at = 0.0

    @property
    def machine(self) -> Machine:
        """What there is to hand out."""
        return self._machine

    async def run(self) -> None:
        """Adopt what runs, then start what waits, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for job in self._store.jobs(ACTIVE):
                tasks.create_task(self._keeper.keep(job.id), name=f"keep {job.id}")
            for orphan in self._find_orphans():
                self._orphans.append(orphan)
                tasks.create_task(self._outlast(orphan), name=f"orphan {orphan.folder.path}")
            while True:
                self._changed.clear()
                try:
                    if self._gate is not None:
                        await self._gate.count()
                    plan = self._checked()
                    asking = self._act(plan, tasks)
                    self._tell_way(plan, asking)
                except (StoreError, OSError) as error:
                    # The disk is full, or there are too many open files: what runs goes on all the same.
                    _log.error("cannot start anything", error=str(error))
                    await asyncio.sleep(AGAIN_S)
                    continue
                if self._gate is not None:
                    self._mind(self._gate, plan, asking, tasks)
                try:
                    async with asyncio.timeout(self._pause(plan)):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    def _act(self, plan: scheduler.Plan, tasks: asyncio.TaskGroup) -> list[int]:
        """Do what the plan says; returns the jobs that do not start before NVML has been asked."""
        asking: list[int] = []
        for number in plan.asides:
            self.request(number, Intent.PAUSE, "azaiond")
        for job, devices in plan.starts:
            if self._gate is not None and not self._gate.knows(devices):
                asking.append(job.id)
                continue
            self._store.reserve(job.id, devices, self._used(job))
            if devices:
                # At once: whoever is in the way must not start between here and the end of this round.
                self._way.told(f"job {job.id}")
            tasks.create_task(self._keeper.start(job.id, devices), name=f"start {job.id}")
        return asking

    def _tell_way(self, plan: scheduler.Plan, asking: Sequence[int]) -> None:
        """Say who has the GPUs now, or is about to get them."""
        now = self._clock()
        soon = plan.wake is not None and plan.wake - now <= SOON_S
        holder = holder_of(
            self._store.leases(),
            plan,
            asking=asking,
            queued=self._store.queue() if soon else (),
            strangers=bool(self._orphans),
            now=now,
        )
        self._way.told(holder)

    def _pause(self, plan: scheduler.Plan) -> float | None:
        """For how many seconds nothing is to be done unless something changes; None for ever."""
        # The clock may be set while we sleep, and a job may begin in a month.
        pauses = [LOOK_S] if plan.waits else []
        if plan.wake is not None:
            pauses.append(max(0.0, plan.wake - self._clock()))
        if plan.lacking or plan.unfit or (self._gate is not None and self._gate.paused):
            pauses.append(LOOK_AGAIN_S)
        return min(pauses, default=None)

    def _checked(self) -> scheduler.Plan:
        """A plan of which every start has been held against the machine as it is now."""
        gate = self._gate
        if gate is not None and (leases := self._store.leases()) != self._leases:
            self._leases = leases
            gate.moved()
        plan = self.plan()
        if gate is None or not (plan.starts or plan.lacking or plan.unfit or gate.paused):
            return plan
        owners, promised = self.owners(), self._promised()
        starting = [job for job, _ in plan.starts]
        clear = not (plan.lacking or plan.unfit or gate.paused)
        if clear and gate.look(starting, owners=owners, promised=promised).admits(plan.starts):
            return plan
        queued = self._store.queue()
        self._preflight = gate.look(queued, owners=owners, promised=promised, busy=bool(owners))
        self._looks += 1
        return self.plan(queued)

    def _promised(self) -> int:
        """Bytes of memory that were promised to runs which have just started, and do not have them yet."""
        return sum(
            job.needs.ram
            for job in self._store.jobs(ACTIVE)
            if job.needs.ram and 0 <= self._clock() - self._store.open_attempt(job.id).reserved < SETTLE_S
        )

    def _mind(self, gate: Gate, plan: scheduler.Plan, asking: Sequence[int], tasks: asyncio.TaskGroup) -> None:
        """Raise the alerts that are due, and have NVML asked where somebody waits for its answer."""
        gate.mind(plan, asking, self._preflight.pause() if self._preflight is not None else "", self._clock())
        if (asking or gate.outdated(plan)) and (self._question is None or self._question.done()):
            self._question = tasks.create_task(self._ask(gate), name="ask NVML")

    async def _ask(self, gate: Gate) -> None:
        await gate.ask()
        self.poke()

    def alerts(self) -> list[Alert]:
        """What has kept jobs from starting for long."""
        return [] if self._gate is None else self._gate.alerts(self.plan(), self._clock())

    def owners(self) -> dict[str, int]:
        """Nonce to the job whose attempt it is, of every run."""
        return {self._store.open_attempt(job.id).nonce: job.id for job in self._store.jobs(ACTIVE)}

    def poke(self) -> None:
        """Say that there may be something to start."""
        self._changed.set()

    def plan(self, queued: Sequence[Job] | None = None) -> scheduler.Plan:
        """What would start now, and why everything else waits; whoever has read the queue just now may pass it."""
        # Many ask for it and ten thousand may wait, so it is made anew only when something has changed or is to come.
        seen = (self._store.changes, len(self._orphans), self._looks)
        now = self._clock()
        # Where nobody waits for time it can only go back: what has begun then has not begun yet.
        back = now < self._planned_at
        if self._planned is None or self._planned[0] != seen or self._planned[1].wake is not None or back:
            self._planned, self._planned_at = (seen, self._plan(queued)), now
        return self._planned[1]

    def _plan(self, queued: Sequence[Job] | None) -> scheduler.Plan:
        owners = {device: f"job {number}" for device, number in self._store.leases().items()}
        for orphan in self._orphans:
            owners |= dict.fromkeys(orphan.devices, f"an unknown run in {orphan.folder.path}")
        active = self._store.jobs(ACTIVE)
        held = Counter(self._store.leases().values())
        # Two attempts of one job would write into one run.
        haunted = {orphan.folder.path.parent for orphan in self._orphans}
        if queued is None:
            queued = self._store.queue()
        behind = [job for job in queued if haunted and self._layout.job(job.id, job.uid).path in haunted]
        ready = [job for job in queued if job not in behind] if behind else queued
        running = [scheduler.Run(job=job, devices=held[job.id]) for job in active]
        if (maintenance := self._store.maintenance()) is not None:
            plan = scheduler.drain(ready, running, maintenance)
        elif self._preflight is not None and (reason := self._preflight.pause()):
            plan = scheduler.pause(ready, reason)
        else:
            plan = scheduler.plan(
                ready,
                machine=self._machine,
                leases=owners,
                light_running=sum(job.devices == 0 for job in active),
                now=self._clock(),
                awaited=self._store.awaited(),
                running=running,
                preflight=self._preflight,
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
            self._keeper.pass_on(job)
        self.poke()
        return job

    def standstills(self) -> dict[int, Standstill]:
        """For how long each training that runs has been seen to stand still."""
        return self._keeper.standstills()

    def folder(self, job: Job) -> AttemptFolder | None:
        """The folder of the newest attempt of a job; None before the first."""
        attempts = self._store.attempts(job.id)
        return self._folder(job, attempts[-1]) if attempts else None

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
        while _may_live(orphan):  # noqa: ASYNC110 - no event tells of a lock given back
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


def _may_live(orphan: Orphan) -> bool:
    try:
        return looks.held(orphan.folder)
    except OSError as error:
        _log.error("cannot look after", folder=str(orphan.folder.path), error=str(error))
        return True


def machine_of(gpu_ids: Sequence[int] | None, proc: Path = Path("/proc/driver/nvidia/gpus")) -> Machine:
    """What this machine has: these GPUs, or (None) all that the NVIDIA driver shows; without any, the CPU slot."""
    if gpu_ids is None:
        gpu_ids = range(len(list(proc.iterdir())) if proc.is_dir() else 0)
    devices = tuple(f"gpu{number}" for number in gpu_ids) or (scheduler.CPU,)
    return Machine(devices=devices, light=max(2, os.cpu_count() or 1))
