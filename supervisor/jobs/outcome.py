"""What follows from how an attempt ended: a pure decision."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from azaion.progress import ExitCode
from supervisor.jobs.model import CAUSES, Intent, Job, Kind, State

#: How often the machine may interrupt a job without a new verified epoch: one that takes the host down must not loop.
MAX_INTERRUPTIONS: Final = 5
#: The first pause after a failure, doubled with each further one up to the cap.
BACKOFF_S: Final = 5.0
BACKOFF_CAP_S: Final = 600.0

#: What another attempt cannot mend.
_HOPELESS: Final = frozenset({ExitCode.DATA, ExitCode.NO_INPUT, ExitCode.CONFIG, ExitCode.CHECKPOINT})
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
        oom: the kernel killed it for memory.
        passed_on: what the shim passed on to the leader: an intent, or ``shutdown`` when nobody of ours had asked.
        message: the worker's or the shim's last word.
        verified_epoch: epochs in the last verified checkpoint.
    """

    source: Source
    code: int | None = None
    signal: int | None = None
    oom: bool = False
    passed_on: str | None = None
    message: str = ""
    resumed_from_epoch: int | None = None
    verified_epoch: int = 0
    artifacts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Where the job goes now, and what is written into its attempt's and its own record."""

    state: State
    cause: str | None
    reason: str
    failures: int
    interruptions: int
    verified_epoch: int
    not_before: float = 0.0


def cause_of(ending: Ending) -> str | None:
    """The cause as data; None for success."""
    match ending:
        case Ending(source=Source.NEVER_STARTED):
            return "never-started"
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


def decide(job: Job, ending: Ending, now: float, jitter: float) -> Decision:
    """Say where the job goes after its attempt has ended.

    Args:
        job: as it stood when the attempt ended.
        ending: how the attempt ended.
        now: wall-clock time.
        jitter: 0 to 1, spreads the backoff.
    """
    gained = ending.verified_epoch > job.verified_epoch
    failures = 0 if gained else job.failures
    interruptions = 0 if gained else job.interruptions
    verified = max(job.verified_epoch, ending.verified_epoch)
    cause = cause_of(ending)

    def outcome(state: State, reason: str, pause: float = 0.0, kept: str | None = cause) -> Decision:
        return Decision(
            state=state,
            cause=kept,
            reason=reason,
            failures=failures,
            interruptions=interruptions,
            verified_epoch=verified,
            not_before=now + pause if pause else 0.0,
        )

    if cause is None:
        return outcome(State.SUCCEEDED, ending.message)
    what = ending.message or _explain(ending, cause)
    if job.intent is Intent.PAUSE and _obeyed(job.intent, ending):
        return outcome(
            State.QUEUED, "stepped aside" + (f" after epoch {verified}" if verified else ""), kept="preempted"
        )
    if job.intent is not None and _obeyed(job.intent, ending):
        word = "stopped" if job.intent is Intent.STOP else "cancelled"
        told = f"{word} as asked" + (f" after epoch {verified}" if verified else "")
        return outcome(State.CANCELLED, told, kept="cancelled")
    if _by_the_machine(job, ending):
        interruptions += 1
        # What never started has harmed nobody: it waits for as long as it takes.
        if interruptions > MAX_INTERRUPTIONS and ending.source is not Source.NEVER_STARTED:
            return outcome(State.FAILED, f"{what}; interrupted {interruptions} times without a new epoch, so not again")
        pause = _backoff(interruptions - 1, jitter) if interruptions > 1 else 0.0
        return outcome(
            State.QUEUED,
            f"{what}; goes on from epoch {verified}" if verified else f"{what}; starts again",
            pause,
        )
    if ending.source is Source.LOST:
        return outcome(State.FAILED, f"{what}; whether it did its work is not known, so it is not run again")
    failures += 1
    # Whoever asked it to stop did not ask for another attempt.
    if job.intent not in {None, Intent.PAUSE} or ending.code in _HOPELESS or failures >= job.limit:
        return outcome(State.FAILED, what)
    pause = _backoff(failures, jitter)
    return outcome(State.QUEUED, f"{what}; attempt {failures} of {job.limit} failed, again in {pause:.0f} s", pause)


def _backoff(times: int, jitter: float) -> float:
    return min(BACKOFF_S * 2.0 ** min(times - 1, 16), BACKOFF_CAP_S) * (0.75 + 0.25 * jitter)


def _obeyed(intent: Intent, ending: Ending) -> bool:
    """Whether the run ended because it was asked to, and not by a failure of its own on the way."""
    if intent is Intent.CANCEL:
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
        # A trainer resumes where its checkpoint is; a command might do its work twice.
        return job.kind is Kind.TRAIN
    if ending.code == ExitCode.INTERRUPTED:
        return job.kind is Kind.TRAIN or ending.passed_on == "shutdown"
    return ending.signal == _SIGTERM and ending.passed_on == "shutdown"


def _explain(ending: Ending, cause: str) -> str:
    match ending.source:
        case Source.NEVER_STARTED:
            return "it never started"
        case Source.REBOOT:
            return "the machine restarted under it"
        case Source.LOST:
            return "its supervisor process was killed and it left no word"
    if ending.oom:
        return "the kernel killed it for memory"
    if ending.signal is not None:
        return f"killed by signal {ending.signal}"
    return f"ended with {cause.replace(':', ' code ', 1) if cause.startswith('exit') else cause}"
