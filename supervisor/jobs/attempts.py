"""Attempts, one at a time: starts them, watches them, adopts those that are found, ends them."""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from signal import SIGKILL, SIGTERM
from typing import Any, Final

import structlog
from structlog.contextvars import bind_contextvars

from azaion import failpoints, files
from azaion.layout import AttemptFolder, Layout
from azaion.progress import Progress
from azaion.redaction import Redaction, secret_name
from supervisor import processes
from supervisor.errors import ProcessError
from supervisor.jobs import evidence as looks
from supervisor.jobs.evidence import Evidence, Request, ShimState, Verdict
from supervisor.jobs.launchers import Launcher, LaunchError
from supervisor.jobs.metrics import epochs_told, progress
from supervisor.jobs.model import Attempt, Intent, Job, Kind, Measure, State
from supervisor.jobs.outcome import decide, seconds
from supervisor.jobs.schema import StoreError
from supervisor.jobs.spec import spec_of
from supervisor.jobs.stillness import Look, Patience, Standstill, Stillness
from supervisor.jobs.store import Store
from supervisor.jobs.tail import tail
from supervisor.units.way import Clear, Way

#: How long a cancelled run may take to end.
GRACE_S: Final = 30.0
#: The same for one that is out of time, and for one that hangs, which will hardly hear of it.
MEASURE_GRACE_S: Final = {Measure.TIME: GRACE_S, Measure.HANG: 10.0}
#: With less room than this on its disk a worker cannot tell how far it is.
ROOM_BYTES: Final = 1 << 20
#: How long a launched shim may take until it has recorded its start, before the attempt is looked at more closely.
START_S: Final = 10.0
#: How long the shim is given beyond the grace to do the killing itself.
SHIM_MARGIN_S: Final = 5.0
#: How long to wait before trying again what a full disk, or too many open files, have refused.
AGAIN_S: Final = 5.0

_log = structlog.get_logger("azaion.jobs")


class Keeper:
    """Stays with every attempt from its start, or from when it is found, to its end.

    Args:
        store: the jobs.
        layout: where everything lies.
        launcher: how shims are started.
        boot_id: this boot of the machine.
        clock: the wall clock.
        freed: called when an attempt has ended and its devices are free.
        patience: for how long a training may stand still.
        way: those who use the GPUs while no job does.
    """

    def __init__(
        self,
        *,
        store: Store,
        layout: Layout,
        launcher: Launcher,
        boot_id: str,
        clock: Callable[[], float],
        freed: Callable[[], None],
        patience: Patience = Patience(),  # noqa: B008 - it is frozen
        way: Way | None = None,
    ) -> None:
        self._store = store
        self._layout = layout
        self._launcher = launcher
        self._boot_id = boot_id
        self._clock = clock
        self._freed = freed
        self._patience = patience
        self._way = Clear() if way is None else way
        self._measures: dict[int, Request] = {}
        self._asked: dict[int, asyncio.Event] = {}
        self._troubles: dict[int, str] = {}
        self._vigils: dict[int, _Vigil] = {}
        self._jitter = random.Random()  # noqa: S311 - spreads retries, guards nothing

    def pass_on(self, job: Job) -> None:
        """Have what is asked of an active job written where its shim reads it, and signalled."""
        self._write_request(job, self._folder(job, self._store.open_attempt(job.id)))
        self._event(job.id).set()

    def standstills(self) -> dict[int, Standstill]:
        """For how long each training that runs has been seen to stand still."""
        found = {number: vigil.standstill() for number, vigil in self._vigils.items()}
        return {number: still for number, still in found.items() if still is not None}

    async def start(self, number: int, devices: tuple[str, ...]) -> None:
        """Start the attempt that has been reserved, and stay with it until it has ended."""
        job = self._store.get(number)
        attempt = self._store.open_attempt(number)
        folder = self._folder(job, attempt)
        bind_contextvars(job=number, attempt=attempt.number)
        if devices:
            await self._way.make()
        try:
            files.make_folder(folder.path)
            confinement = self._launcher.confine(_name(job, attempt), job.limits)
            files.write_json(folder.spec, spec_of(self._layout, job, attempt, devices, confinement), mode=0o600)
            await self._launcher.launch(folder)
            await self._recorded(folder)
        except (OSError, LaunchError) as error:
            _log.error("cannot start", error=str(error))
            self._store.note("start-failed", str(error), number)
            self._troubles[number] = str(error)
        await self.keep(number)

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

    async def keep(self, number: int) -> None:
        """Stay with the open attempt of a job until it has ended, then decide what follows.

        In a task of its own: every line of the log that comes of it names the job and the attempt.
        """
        attempt = self._store.open_attempt(number)
        bind_contextvars(job=number, attempt=attempt.number)
        folder = self._folder(self._store.get(number), attempt)
        while True:
            try:
                if await self._ended(number, attempt, folder):
                    return
            except (OSError, ProcessError, StoreError) as error:
                # The disk is full, or there are too many open files: the run goes on all the same.
                _log.error("cannot look after", error=str(error))
                await asyncio.sleep(AGAIN_S)

    async def _ended(self, number: int, attempt: Attempt, folder: AttemptFolder) -> bool:
        """Look at an attempt and do what follows; returns whether it has ended and that is recorded."""
        evidence = looks.gather(folder, attempt.nonce, self._boot_id)
        verdict = looks.judge(evidence)
        match verdict:
            case Verdict.WATCH_SHIM | Verdict.WATCH_CHILD:
                await self._watch(number, folder, evidence)
            case Verdict.WAIT_FOR_LOCK:
                await self._wait_for_lock(folder)
            case Verdict.FENCE:
                await self._fence(folder, attempt)
            case _:
                shim = looks.shim_of(evidence.state) if evidence.state is not None and evidence.shim_alive else None
                await looks.clear(folder, attempt.nonce, shim)
                self._launcher.release(_name(self._store.get(number), attempt))
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
        self._note_start(number, evidence.state)
        # What a daemon before this one has decided holds.
        request = looks.request_of(folder)
        if request is not None and request.measure is not None:
            self._measures[number] = request
        job = self._store.get(number)
        vigil = self._vigils[number] = _Vigil(job, folder, evidence.state, self._patience)
        with self._listening(number) as asked:
            ended = asyncio.ensure_future(processes.gone(watched))
            try:
                deadline = self._deliver(number, folder, watched, margin)
                while not ended.done():
                    woken = asyncio.ensure_future(asked.wait())
                    waits = [] if deadline is None else [max(0.0, deadline - time.monotonic())]
                    if number not in self._measures:
                        waits += vigil.waits()
                    pause = min(waits, default=None)
                    try:
                        await asyncio.wait({ended, woken}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        woken.cancel()
                    if asked.is_set():
                        asked.clear()
                        deadline = self._deliver(number, folder, watched, margin)
                    elif deadline is not None and time.monotonic() >= deadline:
                        _log.warning("grace is over", pid=child.pid)
                        processes.send(child, SIGKILL)
                        deadline = None
                    elif not ended.done() and number not in self._measures and (measure := vigil.measure()):
                        self._take(number, measure)
                        deadline = self._deliver(number, folder, watched, margin)
                # It cannot be watched, it may be: then `keep` waits before it tries again.
                ended.result()
            finally:
                ended.cancel()
                del self._vigils[number]

    def _note_start(self, number: int, state: ShimState) -> None:
        """Record that the open attempt has started, unless a daemon before this one has."""
        if self._store.open_attempt(number).started is None:
            child = looks.child_of(state)
            self._store.started(number, child, state.started)
            _log.info("started", pid=child.pid)

    def _deliver(
        self,
        number: int,
        folder: AttemptFolder,
        watched: processes.Identity,
        margin: float,
    ) -> float | None:
        """Pass on what has been asked of a job, if anything; returns the (monotonic) time at which patience ends."""
        job = self._store.get(number)
        if job.intent is None and number not in self._measures:
            return None
        self._write_request(job, folder)
        failpoints.hit("attempts.request.written")
        processes.send(watched, SIGTERM)
        grace = self._grace(job)
        return None if grace is None else time.monotonic() + grace + margin

    def _take(self, number: int, measure: Request) -> None:
        """Note that the daemon itself ends an attempt; `_deliver` makes it known, and durable, before the signal."""
        _log.warning("ending it", measure=measure.measure, reason=measure.reason)
        self._measures[number] = measure
        self._store.note(str(measure.measure), measure.reason, number)

    async def _wait_for_lock(self, folder: AttemptFolder) -> None:
        """Somebody holds the lock and has not recorded a start: it keeps its lease for as long as that lasts."""
        _log.warning("start under way", holder=processes.lock_holder(folder.lock))
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
        ending = looks.ending(evidence, verdict, *epochs_told(folder))
        if trouble := self._troubles.get(number):
            ending = replace(ending, message=ending.message or trouble)
        if (taken := self._measures.get(number)) is not None and ending.code != 0:
            # Also when the disk had no room to write it down.
            ending = replace(ending, measure=taken.measure, message=taken.reason)
        earlier = [each for each in self._store.attempts(number) if each.number < attempt.number]
        decision = decide(job, ending, self._clock(), self._jitter.random(), earlier)
        if evidence.state is not None:
            self._note_start(number, evidence.state)
        self._store.finish(number, attempt, ending, decision)
        self._asked.pop(number, None)
        self._measures.pop(number, None)
        self._troubles.pop(number, None)
        (_log.error if decision.state is State.FAILED else _log.info)(
            "ended",
            code=ending.code,
            signal=ending.signal,
            state=str(decision.state),
            cause=decision.cause,
            reason=decision.reason,
        )
        if ending.code != 0 and decision.cause not in {"cancelled", "preempted"} and (lines := tail(folder)):
            _log.warning("its last lines", lines=_without_secrets(job, lines))
        self._freed()

    def _folder(self, job: Job, attempt: Attempt) -> AttemptFolder:
        return self._layout.job(job.id, job.uid).attempt(attempt.number)

    def _event(self, number: int) -> asyncio.Event:
        return self._asked.setdefault(number, asyncio.Event())

    @contextmanager
    def _listening(self, number: int) -> Iterator[asyncio.Event]:
        event = self._event(number)
        event.clear()
        yield event

    def _grace(self, job: Job) -> float | None:
        """How long a run may take to end from when it is asked to; None for as long as it likes."""
        graces = []
        if job.intent is Intent.CANCEL:
            graces.append(GRACE_S if job.grace_s is None else job.grace_s)
        if (taken := self._measures.get(job.id)) is not None and taken.measure is not None:
            graces.append(MEASURE_GRACE_S[taken.measure])
        return min(graces, default=None)

    def _write_request(self, job: Job, folder: AttemptFolder) -> None:
        request: dict[str, Any] = {"intent": job.intent, "grace_s": self._grace(job)}
        if (taken := self._measures.get(job.id)) is not None:
            request |= {"intent": job.intent or taken.measure, "measure": taken.measure, "reason": taken.reason}
        try:
            if not folder.request.exists() or files.read_json(folder.request) != request:
                files.make_folder(folder.path)
                files.write_json(folder.request, request)
        except (OSError, files.FileError) as error:
            # The intent is in the database all the same, and the daemon keeps the time itself.
            _log.error("cannot write the request", job=job.id, error=str(error))


class _Vigil:
    """What the daemon itself minds about a run: that it ends in time, and does not stand still.

    Args:
        job: whose run it is.
        folder: of its attempt.
        state: what its shim has recorded.
        patience: for how long it may stand still, if it is a training; nobody knows how far a command is.
    """

    def __init__(self, job: Job, folder: AttemptFolder, state: ShimState, patience: Patience) -> None:
        self._folder = folder
        self._patience = patience
        self._look_s = patience.look_s if job.kind is Kind.TRAIN else None
        self._allowed_s = job.limits.time_s
        self._until: float | None = None
        if job.limits.time_s is not None and state.monotonic is not None:
            self._until = state.monotonic + job.limits.time_s - job.ran_s
        self._stillness = Stillness(look=self._look())

    def waits(self) -> list[float]:
        """After how many seconds something may be due."""
        now = time.monotonic()
        due = [self._until] if self._until is not None else []
        if self._look_s is not None:
            due.append(self._stillness.look.monotonic + self._look_s)
        return [max(0.0, moment - now) for moment in due]

    def standstill(self) -> Standstill | None:
        """For how long the run has been seen to stand still; None if it is no training, or may do so for ever."""
        return None if self._look_s is None else self._stillness.standstill(self._patience)

    def measure(self) -> Request | None:
        """What to do about the run now; None if all is well."""
        now = time.monotonic()
        if self._until is not None and self._allowed_s is not None and now >= self._until:
            reason = f"it has run for the {seconds(self._allowed_s)} that it may"
            return Request(intent=Measure.TIME, measure=Measure.TIME, reason=reason)
        if self._look_s is not None and now >= self._stillness.look.monotonic + self._look_s:
            self._stillness = self._stillness.after(self._look(), self._patience)
            if (hangs := self._stillness.verdict(self._patience)) is not None:
                return Request(intent=Measure.HANG, measure=Measure.HANG, reason=hangs)
        return None

    def _look(self) -> Look:
        try:
            disk = os.statvfs(self._folder.path)
            mute = disk.f_bavail * disk.f_frsize < ROOM_BYTES
        except OSError:
            mute = True
        told = progress(self._folder)
        return Look(
            monotonic=time.monotonic(),
            boottime=time.clock_gettime(time.CLOCK_BOOTTIME),
            progress=Progress(**told) if told else None,
            mute=mute,
        )


def _name(job: Job, attempt: Attempt) -> str:
    return f"{job.id}-{job.uid}-{attempt.number}"


def _without_secrets(job: Job, lines: Sequence[str]) -> list[str]:
    """Without those that its owner has given it in its environment, which the log itself does not know."""
    given = job.parameters.get("env") or {}
    redaction = Redaction(str(value) for name, value in given.items() if secret_name(name))
    return [redaction.text(line) for line in lines]
