"""What follows from how an attempt ended: a pure decision."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import takewhile
from typing import Any, Final

from azaion.progress import ExitCode
from supervisor.jobs.model import CAUSES, REPEATABLE, Attempt, Intent, Job, Kind, Measure, State

#: How often the machine may interrupt a job without a new verified epoch: one that takes the host down must not loop.
MAX_INTERRUPTIONS: Final = 5
#: The first pause after a failure, doubled with each further one up to the cap.
BACKOFF_S: Final = 5.0
BACKOFF_CAP_S: Final = 600.0

#: An attempt that ends so soon after its start has crashed; so many in a row with one cause are a loop.
CRASH_S: Final = 30.0
CRASHES: Final = 3

_LOOP: Final = f"; {CRASHES} times in a row within {CRASH_S:.0f} s of its start, so not again"

#: What another attempt cannot mend.
_HOPELESS: Final = frozenset(
    {
        ExitCode.DATA,
        ExitCode.NO_INPUT,
        ExitCode.REFUSED,
        ExitCode.CONFIG,
        ExitCode.CHECKPOINT,
        ExitCode.PARITY,
    }
)
_SIGTERM: Final = 15


class Source(StrEnum):
    """Who says how the attempt ended."""

    EXIT = "exit"  # the shim
    RESULT = "result"  # the worker itself, whose shim is gone
    NEVER_STARTED = "never-started"  # the fence
    REBOOT = "reboot"  # the boot id
    LOST = "lost"  # nobody: shim and leader are gone without a word


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an attempt ended, as far as the evidence tells.

    Attributes:
        code: the leader's exit code; None if a signal killed it or nobody knows.
        signal: the signal that killed it.
        oom: it was killed for memory, by the kernel or for its own limit.
        memory: bytes that it had when it was killed for its own limit; None if the kernel did it.
        measure: why the daemon had asked it to end.
        passed_on: what the shim passed on to the leader: an intent, or ``shutdown`` when nobody of ours had asked.
        message: the worker's or the shim's last word, or the reason for the measure.
        verified_epoch: epochs in the last verified checkpoint.
        batch: images in a batch at the end; None if the worker has not said.
        ran_s: seconds for which it has run.
    """

    source: Source
    code: int | None = None
    signal: int | None = None
    oom: bool = False
    memory: int | None = None
    measure: Measure | None = None
    passed_on: str | None = None
    message: str = ""
    resumed_from_epoch: int | None = None
    verified_epoch: int = 0
    batch: int | None = None
    ran_s: float = 0.0
    artifacts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Where the job goes now, and what is written into its attempt's and its own record.

    Attributes:
        adjusted: what is changed in its parameters from now on.
    """

    state: State
    cause: str | None
    reason: str
    failures: int
    interruptions: int
    verified_epoch: int
    not_before: float = 0.0
    adjusted: dict[str, Any] = field(default_factory=dict)


def cause_of(ending: Ending) -> str | None:
    """The cause as data; None for success."""
    match ending:
        case Ending(source=Source.NEVER_STARTED):
            return "never-started"
        case Ending(measure=Measure() as measure) if ending.code != 0:
            return str(measure)
        case Ending(source=Source.REBOOT):
            return "lost:reboot"
        case Ending(source=Source.LOST):
            return "lost:shim"
        case Ending(oom=True):
            return "oom:ram"
        case Ending(signal=int() as number):
            return f"signal:{number}"
        case Ending(code=0):
            return None
        case Ending(code=int() as code):
            return CAUSES.get(code, f"exit:{code}")
    return "lost:shim"


def decide(job: Job, ending: Ending, now: float, jitter: float, earlier: Sequence[Attempt] = ()) -> Decision:
    """Say where the job goes after its attempt has ended.

    Args:
        job: as it stood when the attempt ended.
        ending: how the attempt ended.
        now: wall-clock time.
        jitter: 0 to 1, spreads the backoff.
        earlier: the attempts before this one.
    """
    gained = ending.verified_epoch > job.verified_epoch
    cause = cause_of(ending)
    end = _End(
        job=job,
        ending=ending,
        what=ending.message or _explain(job, ending, cause or ""),
        crashes=_crashes(ending, cause, earlier),
        repeats=1 + sum(1 for _ in takewhile(lambda attempt: attempt.cause == cause, reversed(earlier))),
        begun=Decision(
            state=State.FAILED,
            cause=cause,
            reason="",
            failures=0 if gained else job.failures,
            interruptions=0 if gained else job.interruptions,
            verified_epoch=max(job.verified_epoch, ending.verified_epoch),
            adjusted=job.adjusted,
        ),
        now=now,
        jitter=jitter,
    )
    return _within_its_time(job, ending, _decide(end))


@dataclass(frozen=True, kw_only=True)
class _End:
    """All that a decision is made of.

    Attributes:
        what: how the attempt ended, in words.
        crashes: how many attempts in a row have ended like this one, right after their start.
        repeats: how many have, whenever.
        begun: the decision, as far as it is clear.
    """

    job: Job
    ending: Ending
    what: str
    crashes: int
    repeats: int
    begun: Decision
    now: float
    jitter: float


def _decide(end: _End) -> Decision:
    if end.begun.cause is None:
        return replace(end.begun, state=State.SUCCEEDED, reason=end.ending.message)
    if end.job.intent is not None and _obeyed(end.job.intent, end.ending):
        return _as_asked(end)
    if end.ending.measure is Measure.TIME:
        return replace(end.begun, reason=end.what)
    repeatable = end.job.kind in REPEATABLE and end.job.intent in {None, Intent.PAUSE}
    if end.ending.code == ExitCode.UNREACHABLE and repeatable:
        return _out_of_reach(end)
    if _by_the_machine(end.job, end.ending):
        return _interrupted(end)
    if end.ending.source is Source.LOST:
        reason = f"{end.what}; whether it did its work is not known, so it is not run again"
        return replace(end.begun, reason=reason)
    if end.job.kind is Kind.TRAIN and end.begun.cause == "oom:gpu" and end.job.intent in {None, Intent.PAUSE}:
        return _smaller(end)
    return _failed(end)


def _as_asked(end: _End) -> Decision:
    verified = end.begun.verified_epoch
    told = f" after epoch {verified}" if verified else ""
    if end.job.intent is Intent.PAUSE:
        return replace(end.begun, state=State.QUEUED, cause="preempted", reason=f"stepped aside{told}")
    word = "stopped" if end.job.intent is Intent.STOP else "cancelled"
    return replace(end.begun, state=State.CANCELLED, cause="cancelled", reason=f"{word} as asked{told}")


def _interrupted(end: _End) -> Decision:
    """What follows when the machine, not the run, is why it ended."""
    times = end.begun.interruptions + 1
    counted = replace(end.begun, interruptions=times)
    # What never started has harmed nobody: it waits for as long as it takes.
    if times > MAX_INTERRUPTIONS and end.ending.source is not Source.NEVER_STARTED:
        return replace(counted, reason=f"{end.what}; interrupted {times} times without a new epoch, so not again")
    if min(end.crashes, times) >= CRASHES:
        return replace(counted, reason=end.what + _LOOP)
    verified = end.begun.verified_epoch
    reason = f"{end.what}; goes on from epoch {verified}" if verified else f"{end.what}; starts again"
    # A disk that is full will not be empty at once.
    waits = times > 1 or end.begun.cause == "disk"
    not_before = end.now + _backoff(max(1, times - 1), end.jitter) if waits else 0.0
    return replace(counted, state=State.QUEUED, reason=reason, not_before=not_before)


def _out_of_reach(end: _End) -> Decision:
    """What follows when a far end could not be reached. That harms nobody, so it goes on for as long as it takes."""
    pause = _backoff(end.repeats, end.jitter)
    reason = f"{end.what}; again in {pause:.0f} s"
    return replace(end.begun, state=State.QUEUED, reason=reason, not_before=end.now + pause)


def _smaller(end: _End) -> Decision:
    """What follows when a training's GPU has run out of memory. No failure: a batch cannot be halved for ever."""
    known: int = {**end.job.parameters, **end.job.adjusted}.get("batch", 1)
    # The trainer may have made it smaller itself.
    batch = known if end.ending.batch is None else min(known, end.ending.batch)
    devices = max(1, end.job.devices)
    if batch <= devices:
        return replace(end.begun, reason=f"GPU out of memory with batch {batch}; use a smaller --model or --imgsz")
    # Each GPU gets as many.
    smaller = max(1, batch // 2 // devices) * devices
    return replace(
        end.begun,
        state=State.QUEUED,
        reason=f"GPU out of memory with batch {batch}; again with {smaller}",
        adjusted={**end.begun.adjusted, "batch": smaller},
    )


def _failed(end: _End) -> Decision:
    """What follows when the run itself is why it ended."""
    times, limit = end.begun.failures + 1, end.job.limit
    counted = replace(end.begun, failures=times)
    if min(end.crashes, times) >= CRASHES:
        return replace(counted, reason=end.what + _LOOP)
    # Whoever asked it to stop did not ask for another attempt.
    if end.job.intent not in {None, Intent.PAUSE} or end.ending.code in _HOPELESS or times >= limit:
        return replace(counted, reason=end.what)
    pause = _backoff(times, end.jitter)
    reason = f"{end.what}; attempt {times} of {limit} failed, again in {pause:.0f} s"
    return replace(counted, state=State.QUEUED, reason=reason, not_before=end.now + pause)


def _within_its_time(job: Job, ending: Ending, decision: Decision) -> Decision:
    """No other attempt for a job that has run for as long as it may."""
    allowed = job.limits.time_s
    if decision.state is not State.QUEUED or allowed is None or job.ran_s + ending.ran_s < allowed:
        return decision
    reason = f"{decision.reason.partition(';')[0]}; it has run for the {seconds(allowed)} that it may"
    return replace(decision, state=State.FAILED, cause=str(Measure.TIME), reason=reason, not_before=0.0)


def _crashes(ending: Ending, cause: str | None, earlier: Sequence[Attempt]) -> int:
    """How many attempts in a row, this one included, have ended with this cause right after their start."""
    # A machine that goes down has nothing to do with what it runs.
    if ending.ran_s > CRASH_S or ending.source is Source.NEVER_STARTED or ending.passed_on == "shutdown":
        return 0
    count = 1
    for attempt in reversed(earlier):
        # `ended` is when the daemon heard of it: if it was away meanwhile, this tells of no crash.
        if attempt.started is None or attempt.ended is None or attempt.cause != cause:
            break
        if not 0 <= attempt.ended - attempt.started <= CRASH_S:
            break
        count += 1
    return count


def _backoff(times: int, jitter: float) -> float:
    return min(BACKOFF_S * 2.0 ** min(times - 1, 16), BACKOFF_CAP_S) * (0.75 + 0.25 * jitter)


def _obeyed(intent: Intent, ending: Ending) -> bool:
    """Whether the run ended because it was asked to, and not by a failure of its own on the way."""
    if intent is Intent.CANCEL:
        return True
    if intent is Intent.STOP and ending.measure is Measure.HANG:
        # It was asked to end at an epoch's boundary, and would never have come to one.
        return True
    if ending.signal == _SIGTERM or ending.code == ExitCode.INTERRUPTED or ending.source is Source.NEVER_STARTED:
        return True
    # Who should only step aside goes on after a loss as anybody does.
    return intent is Intent.STOP and ending.source in {Source.REBOOT, Source.LOST}


def _by_the_machine(job: Job, ending: Ending) -> bool:
    """Whether the machine, not the run, is why it ended."""
    if ending.source in {Source.NEVER_STARTED, Source.REBOOT}:
        return True
    if ending.source is Source.LOST:
        # A worker finds what is done already; a command might do its work twice.
        return job.kind in REPEATABLE
    if ending.measure is Measure.HANG:
        return True
    if ending.code == ExitCode.DISK:
        return job.kind in REPEATABLE
    if ending.code == ExitCode.INTERRUPTED:
        return job.kind in REPEATABLE or ending.passed_on == "shutdown"
    return ending.signal == _SIGTERM and ending.passed_on == "shutdown"


def _explain(job: Job, ending: Ending, cause: str) -> str:
    match ending.source:
        case Source.NEVER_STARTED:
            return "it never started"
        case Source.REBOOT:
            return "the machine restarted under it"
        case Source.LOST:
            return "its supervisor process was killed and it left no word"
    if ending.oom and ending.memory is not None and job.limits.memory is not None:
        return f"killed for its memory: {_size(ending.memory)}, its limit is {_size(job.limits.memory)}"
    if ending.oom:
        limit = f"; its limit is {_size(job.limits.memory)}" if job.limits.memory is not None else ""
        return f"the kernel killed it for memory{limit}"
    if ending.signal is not None:
        return f"killed by signal {ending.signal}"
    return f"ended with {cause.replace(':', ' code ', 1) if cause.startswith('exit') else cause}"


def _size(amount: int) -> str:
    return f"{amount / (1 << 30):.1f} GiB" if amount >= 1 << 30 else f"{amount / (1 << 20):.0f} MiB"


def seconds(count: float) -> str:
    """A duration for people: ``90 s``, ``15 min``, ``4 h``."""
    if count < 120:  # noqa: PLR2004 - seconds are read easily up to here
        return f"{count:g} s"
    minutes = count / 60
    return f"{minutes:.4g} min" if minutes < 120 else f"{minutes / 60:.4g} h"  # noqa: PLR2004 - and minutes
