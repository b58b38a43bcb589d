"""The queue against a simulated machine: the real store, plan and outcomes, and nothing that takes time.

The world below knows the truth: which process really lives, on which devices. The daemon in it knows only what is
committed, and dies and comes back at random, between any two commits. After every step what it believes is compared
with the truth, and at the end, when nobody breaks anything any more, every job must come to its one end.

``AZAION_SIMULATIONS`` says how many seeds are tried, ``AZAION_SEED`` is the first of them.
"""

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from azaion.layout import AttemptFolder, Layout
from azaion.progress import ExitCode
from supervisor.jobs.line import Line
from supervisor.jobs.model import (
    ACTIVE,
    TERMINAL,
    WAITING,
    Intent,
    Job,
    JobError,
    Kind,
    Limits,
    Maintenance,
    State,
    Submission,
)
from supervisor.jobs.outcome import BACKOFF_CAP_S, MAX_INTERRUPTIONS, Ending, Source, decide
from supervisor.jobs.runner import Runner
from supervisor.jobs.scheduler import Machine
from supervisor.jobs.store import IllegalTransitionError, Store
from supervisor.processes import Identity
from tests.tallies import tally

SEEDS: Final = int(os.environ.get("AZAION_SIMULATIONS", "200"))
FIRST: Final = int(os.environ.get("AZAION_SEED", "0"))
STEPS: Final = 60
EPOCHS: Final = 4


#: What follows a training in its chain, and how many devices it needs.
_STEPS = ((Kind.EVALUATE, 1), (Kind.EXPORT, 0))


class DiedError(Exception):
    """The daemon has been killed, here."""


class Nobody:
    """No shim is ever started: the world does that."""

    async def launch(self, folder: AttemptFolder) -> None:
        raise AssertionError(folder)

    def confine(self, name: str, limits: Limits) -> Mapping[str, str]:
        raise AssertionError(name, limits)

    def release(self, name: str) -> None:
        raise AssertionError(name)

    async def close(self) -> None:
        raise AssertionError


@dataclass
class Process:
    """The truth of one attempt."""

    job: int
    attempt: int
    kind: Kind
    devices: frozenset[str]
    pid: int
    epochs: int
    heard: Intent | None = None
    ending: Ending | None = None


class World:
    """A machine with some GPUs, its users, and a daemon that dies."""

    def __init__(self, path: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.now = 1_000_000.0
        self.gpus = self.dice.randint(1, 3)
        self.machine = Machine(devices=tuple(f"gpu{number}" for number in range(self.gpus)), light=2)
        self.path = path
        self.layout = Layout(root=path / "root", state=path, spool=path / "spool", socket=path / "socket")
        self.fragile = True
        self.stormy = self.dice.random() < 0.1
        self.alive = False
        # What really is.
        self.processes: dict[tuple[int, int], Process] = {}
        self.epochs: dict[int, int] = {}
        self.launched: set[tuple[int, int]] = set()
        self.pids = 100
        # What users were told.
        self.acknowledged: dict[int, Submission] = {}
        self.keys: dict[str, int] = {}
        self.ended: dict[int, State] = {}
        self.asked: dict[int, Intent] = {}
        self.begin()

    # The daemon.

    def begin(self) -> None:
        """The daemon starts, and takes up what it finds."""
        self.store = Store(self.path / "jobs.sqlite", clock=lambda: self.now)
        # No power is lost here, and a commit takes a fiftieth.
        self.store._connection.execute("PRAGMA synchronous = OFF")
        self.runner = Runner(
            store=self.store,
            layout=self.layout,
            launcher=Nobody(),
            machine=self.machine,
            boot_id="b",
            clock=lambda: self.now,
        )
        self.alive = True
        with self.daemon():
            for job in self.store.jobs(ACTIVE):
                self.look(job)
            self.pump()

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """What the daemon does; it may die on the way."""
        try:
            yield
        except DiedError:
            self.alive = False
            self.store.close()

    def maybe_die(self) -> None:
        if self.fragile and self.dice.random() < 0.03:
            raise DiedError

    def pump(self) -> None:
        """What the runner's loop does, until nothing is to be done."""
        for _ in range(1000):
            plan = self.runner.plan()
            self.check_plan(plan.starts)
            waiting = self.store.jobs([State.QUEUED])
            started = {job.id for job, _ in plan.starts}
            assert all(plan.waits.get(job.id) for job in waiting if job.id not in started), "a job waits without a word"
            for number in plan.asides:
                before = self.store.get(number)
                assert before.kind is Kind.TRAIN
                assert before.intent is None
                self.maybe_die()
                self.deliver(self.store.request(number, Intent.PAUSE, "azaiond"))
            for job, devices in plan.starts:
                self.maybe_die()
                attempt = self.store.reserve(job.id, devices)
                self.maybe_die()
                self.launch(job, attempt.number, frozenset(devices))
                self.maybe_die()
            if not plan.starts and not plan.asides:
                return
        raise AssertionError("the plan never comes to rest")

    def look(self, job: Job) -> None:
        """What the keeper does with an active job: adopt it, fence it, or record its end."""
        attempt = self.store.open_attempt(job.id)
        process = self.processes.get((job.id, attempt.number))
        if process is None:
            # Nothing was ever started in its folder, and by the fence nothing will be.
            self.launched.add((job.id, attempt.number))
            self.finish(job, Ending(source=Source.NEVER_STARTED))
            return
        if attempt.started is None:
            self.store.started(job.id, Identity(process.pid, 1), self.now)
            self.maybe_die()
        if process.ending is not None:
            self.finish(self.store.get(job.id), process.ending)
        else:
            self.deliver(self.store.get(job.id))

    def deliver(self, job: Job) -> None:
        """Pass on what is asked of a job to its process."""
        if job.state in ACTIVE and job.intent is not None:
            process = self.processes.get((job.id, self.store.open_attempt(job.id).number))
            if process is not None:
                process.heard = job.intent

    def finish(self, job: Job, ending: Ending) -> None:
        attempt = self.store.open_attempt(job.id)
        process = self.processes.pop((job.id, attempt.number), None)
        try:
            self.maybe_die()
        except DiedError:
            if process is not None:
                self.processes[job.id, attempt.number] = process
            raise
        decision = decide(job, ending, self.now, self.dice.random())
        after = self.store.finish(job.id, attempt, ending, decision)
        if job.intent is Intent.PAUSE and ending.code == ExitCode.INTERRUPTED:
            paid = after.failures > job.failures or after.interruptions > job.interruptions
            assert after.state is State.QUEUED, "it only stepped aside"
            assert not paid, "it paid for stepping aside"
        if ending.source is Source.REBOOT and after.interruptions > MAX_INTERRUPTIONS:
            assert after.state in TERMINAL, "it takes the machine down again and again"
        self.maybe_die()

    # The machine.

    def launch(self, job: Job, attempt: int, devices: frozenset[str]) -> None:
        whole = self.store.get(job.id)
        assert (job.id, attempt) not in self.launched, "an attempt has started twice"
        assert not any(other.job == job.id and other.ending is None for other in self.processes.values()), "two at once"
        for other in self.processes.values():
            assert other.ending is not None or not other.devices & devices, "two runs hold one device"
        assert len(devices) == whole.devices
        assert self.store.maintenance() is None
        if whole.after is not None:
            assert self.store.get(whole.after).state is State.SUCCEEDED
        assert whole.begins <= self.now
        self.launched.add((job.id, attempt))
        self.pids += 1
        self.processes[job.id, attempt] = Process(
            job=job.id,
            attempt=attempt,
            kind=whole.kind,
            devices=devices,
            pid=self.pids,
            epochs=self.epochs.get(job.id, 0),
            heard=whole.intent,
        )

    def end(self, process: Process, **how: object) -> None:
        """A process ends; whoever watches hears of it."""
        trained = process.kind is Kind.TRAIN
        if trained:
            self.epochs[process.job] = process.epochs
        told = {"source": Source.EXIT, "passed_on": process.heard, "verified_epoch": process.epochs if trained else 0}
        process.ending = Ending(**(told | how))  # type: ignore[arg-type]
        if self.alive:
            with self.daemon():
                self.look(self.store.get(process.job))
                self.pump()

    def living(self) -> list[Process]:
        return [process for process in self.processes.values() if process.ending is None]

    # What happens.

    def step(self) -> None:
        happenings = [
            (5, self.submit),
            (1 if self.stormy else 6, self.work),
            (2, self.ask),
            (1, self.break_one),
            (1, self.die),
            (3, self.pass_time),
            (1, self.jump),
            (8 if self.stormy else 0.3, self.reboot),
            (0.5, self.maintain),
            (1, self.hold_or_release),
            (0.5, self.reorder),
        ]
        weights = [weight for weight, _ in happenings]
        (happening,) = self.dice.choices([what for _, what in happenings], weights)
        if not self.alive and self.dice.random() < 0.3:
            self.begin()
        happening()
        self.check()

    def submit(self) -> None:
        dice = self.dice
        if not self.alive:
            return
        known = list(self.acknowledged)
        key = dice.choice(["a", "b", "c"]) if dice.random() < 0.2 else None
        submission = Submission(
            kind=dice.choice([Kind.TRAIN, Kind.COMMAND]),
            name="x",
            parameters={"batch": 8},
            owner="o",
            priority=dice.choice([0, 0, 0, 5, 9]),
            key=key,
            devices=dice.choice([0, 1, 1, 1, 2, 4]),
            after=dice.choice(known) if known and dice.random() < 0.3 else None,
            begins=self.now + dice.choice([-10.0, 30.0, 1e6]) if dice.random() < 0.2 else 0.0,
            preempt=dice.random() < 0.2,
            held=dice.random() < 0.1,
            limit=dice.choice([1, 3]),
        )
        chained = submission.kind is Kind.TRAIN and dice.random() < 0.2
        later = [Submission(kind=kind, name="x", parameters={}, owner="o", devices=devices) for kind, devices in _STEPS]
        try:
            job = self.store.submit(submission, *(later if chained else []))
        except JobError:
            # It was to come after one that will never succeed.
            assert submission.after is not None
            return
        if key is not None:
            assert self.keys.setdefault(key, job.id) == job.id, "one key, two jobs"
        self.acknowledged.setdefault(job.id, submission)
        for each, step in zip(self.store.chain(job)[1:], later, strict=False):
            self.acknowledged.setdefault(each.id, step)
        with self.daemon():
            self.pump()

    def work(self) -> None:
        """A process goes on, obeys what it was asked, or ends."""
        if not (living := self.living()):
            return
        process = self.dice.choice(living)
        if process.heard is Intent.CANCEL:
            self.end(process, signal=self.dice.choice([15, 9]))
        elif process.kind is Kind.TRAIN:
            process.epochs += 1
            if process.epochs >= EPOCHS:
                self.end(process, code=0)
            elif process.heard is not None:
                self.end(process, code=ExitCode.INTERRUPTED)
        elif process.heard is not None:
            self.end(process, signal=15)
        else:
            self.end(process, code=0)

    def break_one(self) -> None:
        """A process fails, is killed, or ends when nobody is there who would have written down how."""
        if not (living := self.living()) or not self.fragile:
            return
        how: dict[str, object] = self.dice.choice(
            [
                {"code": 1},
                {"code": int(ExitCode.DATA)},
                {"code": int(ExitCode.OOM_GPU)},
                {"signal": 11},
                {"signal": 9, "oom": True},
                {"source": Source.LOST},
                {"signal": 15, "passed_on": "shutdown"},
            ]
        )
        self.end(self.dice.choice(living), **how)

    def ask(self) -> None:
        if not self.alive or not self.acknowledged:
            return
        number = self.dice.choice(list(self.acknowledged))
        intent = self.dice.choice([Intent.STOP, Intent.CANCEL])
        with self.daemon():
            try:
                job = self.store.request(number, intent, "o")
            except IllegalTransitionError:
                assert self.store.get(number).state in TERMINAL
                return
            self.asked[number] = intent
            self.maybe_die()
            self.deliver(job)
            self.pump()

    def die(self) -> None:
        if self.alive and self.fragile:
            self.alive = False
            self.store.close()

    def pass_time(self) -> None:
        self.now += self.dice.choice([1.0, 30.0, 600.0])
        self.wake()

    def wake(self) -> None:
        if self.alive:
            with self.daemon():
                self.pump()

    def jump(self) -> None:
        """Somebody sets the clock."""
        if self.fragile:
            self.now += self.dice.choice([-1e7, -3600.0, 3600.0, 1e7])
            self.wake()

    def reboot(self) -> None:
        if not self.fragile:
            return
        self.die()
        for process in self.living():
            if process.kind is Kind.TRAIN:
                self.epochs[process.job] = process.epochs
            process.ending = Ending(
                source=Source.REBOOT, verified_epoch=process.epochs if process.kind is Kind.TRAIN else 0
            )
        if self.stormy:
            # Nothing but starts and power failures: whoever causes them must be noticed.
            self.now += BACKOFF_CAP_S
            self.begin()

    def maintain(self) -> None:
        if not self.alive or not self.fragile:
            return
        wanted = None
        if self.dice.random() < 0.5:
            wanted = Maintenance(reason="r", by="o", since=self.now, stop_running=self.dice.random() < 0.5)
        self.store.set_maintenance(wanted, "o")
        with self.daemon():
            self.pump()

    def hold_or_release(self) -> None:
        if not self.alive or not self.acknowledged:
            return
        number = self.dice.choice(list(self.acknowledged))
        with self.daemon():
            try:
                (self.store.hold if self.dice.random() < 0.5 else self.store.release)(number, "o")
            except IllegalTransitionError:
                assert self.store.get(number).state not in WAITING
            self.pump()

    def reorder(self) -> None:
        if not self.alive or not self.acknowledged:
            return
        number = self.dice.choice(list(self.acknowledged))
        with self.daemon():
            try:
                self.store.prioritise(number, self.dice.choice([-1, 0, 7]), "o")
            except IllegalTransitionError:
                assert self.store.get(number).state not in WAITING
            self.pump()

    # What must hold.

    def check_plan(self, starts: tuple[tuple[Job, tuple[str, ...]], ...]) -> None:
        """Nobody who needs a device overtakes one who could have had it."""
        leases = self.store.leases()
        handed = [device for _, devices in starts for device in devices]
        assert len(handed) == len(set(handed))
        assert not set(handed) & set(leases)
        if self.store.maintenance() is not None:
            assert not starts
            return
        ready = [
            job
            for job in self.store.queue()
            if 0 < job.devices <= self.gpus
            and job.begins <= self.now
            and not self.backs_off(job)
            and (job.after is None or self.store.get(job.after).state is State.SUCCEEDED)
        ]
        order = [job.id for job in sorted(ready, key=lambda job: (-job.priority, job.id))]
        going = [job.id for job, devices in starts if devices]
        assert going == order[: len(going)], "somebody has overtaken"
        if going == order:
            return
        next_one = self.store.get(order[len(going)])
        assert next_one.devices > self.gpus - len(leases) - len(handed), "a device lies idle"

    def backs_off(self, job: Job) -> bool:
        """Whether it waits after a failure. When the clock has jumped, it has waited long enough."""
        return self.now < job.not_before <= self.now + BACKOFF_CAP_S

    def check(self) -> None:
        """What the daemon believes is what is true, as far as it could know."""
        held: list[str] = [device for process in self.living() for device in process.devices]
        assert len(held) == len(set(held)), "two runs hold one device"
        if not self.alive:
            return
        assert self.store.queue() == Line(self.store._connection).jobs(), "the line is not what the database holds"
        leases = self.store.leases()
        for process in self.living():
            assert all(leases.get(device) == process.job for device in process.devices), "a device was given away"
        jobs = {job.id: job for job in self.store.jobs()}
        assert set(self.acknowledged) <= set(jobs), "an acknowledged job is gone"
        for number, job in jobs.items():
            if number in self.ended:
                assert job.state is self.ended[number], "an end was not final"
            elif job.state in TERMINAL:
                self.ended[number] = job.state
                assert not any(process.job == number for process in self.living()), "it has ended, and runs"
            if job.after is not None and jobs[job.after].state in TERMINAL - {State.SUCCEEDED}:
                assert job.state in TERMINAL, "it waits for one that will never succeed"

    def settle(self) -> None:
        """Nobody breaks anything any more, and every job comes to its end."""
        self.fragile = False
        if not self.alive:
            self.begin()
        self.store.set_maintenance(None, "o")
        for number in self.acknowledged:
            if self.store.get(number).state is State.HELD:
                self.store.release(number, "o")
        for _ in range(2000):
            open_jobs = [job for job in self.store.jobs() if job.state not in TERMINAL]
            if all(map(self.hopeless, open_jobs)) and not self.living():
                break
            self.now += 1e5
            self.pump()
            for process in self.living():
                if self.processes.get((process.job, process.attempt)) is process and process.ending is None:
                    if process.kind is Kind.TRAIN and process.heard is None:
                        process.epochs = EPOCHS
                    how: dict[str, object] = {"code": 0} if process.heard is None else {"signal": 15}
                    self.end(process, **how)
            self.check()
        for job in self.store.jobs():
            assert job.state in TERMINAL or self.hopeless(job), f"job {job.id} never ends: {job.state}, {job.reason}"
        assert not self.store.leases()
        self.store.close()

    def hopeless(self, job: Job) -> bool:
        """Whether it waits for devices that this machine has not, or for one that does."""
        return job.devices > self.gpus or (job.after is not None and self.hopeless(self.store.get(job.after)))


@pytest.mark.parametrize("part", range(4))
def test_a_queue_that_anything_may_happen_to(part: int, tmp_path: Path) -> None:
    for seed in range(FIRST + part, FIRST + SEEDS, 4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        world = World(folder, seed)
        try:
            for _ in range(STEPS):
                world.step()
            world.settle()
        except BaseException as error:
            error.add_note(f"AZAION_SEED={seed} AZAION_SIMULATIONS=1 replays it")
            raise
    tried = len(range(part, SEEDS, 4))
    tally("simulated queue, whose daemon and runs die at any commit", tried, "every job ends, no device is held twice")
