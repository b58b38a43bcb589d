"""What is removed, and why everything else stays: a pure decision."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from azaion.settings import Retention

#: So many of the newest datasets are kept, however old they are: somebody may be about to train on one.
DATASET_COUNT: Final = 3
#: So many of the newest events are kept at the most.
EVENT_COUNT: Final = 200_000
#: A log that is cut for its age keeps one of so many parts of what is large.
LOG_PARTS: Final = 10

_DAY_S: Final = 86_400.0
_MB: Final = 1_000_000


class Kind(StrEnum):
    """What can be removed."""

    RUN = "run"  # of a job that has ended: checkpoints, curves
    JOB = "job"  # all that is left of a job that has ended: its attempts and their logs
    DATASET = "dataset"
    CORRUPTED = "corrupted"  # a copy of an annotation that no dataset could take
    LOG = "log"  # not removed but cut


class Action(StrEnum):
    """What becomes of it."""

    REMOVE = "remove"
    CUT = "cut"
    KEEP = "keep"


@dataclass(frozen=True, kw_only=True)
class Thing:
    """Something that may be removed one day.

    Attributes:
        path: where it lies.
        since: when it was done with (a job ended, a dataset was formed); None if it is in use.
        newer: how many of its kind are newer.
        user: who refers to it, in words; empty if nobody does.
        size: bytes on the disk.
        frees: so many of them, at least, are free again when it is gone; the rest has other names too.
        job: the job that it is of.
        uid: that job's, or of the job that has formed the dataset.
    """

    kind: Kind
    path: Path
    since: float | None
    newer: int = 0
    user: str = ""
    size: int = 0
    frees: int = 0
    job: int | None = None
    uid: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """What of a job would be gone with it."""
        return {Kind.RUN: ("run",), Kind.JOB: ("attempts", "run")}.get(self.kind, ())


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of a thing now, and why, for people."""

    action: Action
    reason: str


def judge(thing: Thing, rules: Retention, now: float, *, low: bool = False) -> Verdict:
    """Say what becomes of a thing.

    Args:
        thing: the thing.
        rules: the user's.
        now: wall-clock time. A thing of the future, whose clock was wrong, is kept.
        low: whether the disk is nearly full; then a log is cut a little sooner while it is being written.
    """
    if thing.kind is Kind.LOG:
        return _judge_log(thing, rules, now, low=low)
    if thing.since is None:
        return Verdict(action=Action.KEEP, reason="in use")
    days, variable, newest, of = _limits(thing.kind, rules)
    if days == 0:
        return Verdict(action=Action.KEEP, reason=f"kept for ever ({variable}=0)")
    age = (now - thing.since) / _DAY_S
    if age < days:
        return Verdict(action=Action.KEEP, reason=f"kept for {days} days ({variable}); {_days(days - age)} left")
    if thing.user:
        return Verdict(action=Action.KEEP, reason=thing.user)
    if thing.newer < newest:
        return Verdict(action=Action.KEEP, reason=f"one of the newest {newest} {of}")
    return Verdict(action=Action.REMOVE, reason=f"{_days(age)} old, kept for {days} ({variable})")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept of a log that is cut: so many bytes of its beginning, and of its end."""

    head: int
    tail: int


def kept(rules: Retention, *, live: bool) -> Kept:
    """What is kept of a log that is cut.

    How it began says what it was, and how it ended why. Of one that is being written half as much as it may take goes
    at once, or it would be cut again and again for the sake of a few bytes.
    """
    if live:
        limit = rules.log_limit_mb * _MB
        return Kept(head=limit // 16, tail=limit // 2)
    part = rules.log_mb * _MB // LOG_PARTS
    return Kept(head=part // 8, tail=part - part // 8)


def overdue_events(rules: Retention, now: float) -> float:
    """The time before which no event is kept; 0 if they are kept for ever."""
    return now - rules.event_days * _DAY_S if rules.event_days else 0.0


def low(free: Iterable[int], rules: Retention) -> bool:
    """Whether a disk is nearly full."""
    return any(amount < rules.free_gb * 1000 * _MB for amount in free)


def _judge_log(thing: Thing, rules: Retention, now: float, *, low: bool) -> Verdict:
    if thing.since is None:
        limit = rules.log_limit_mb * _MB
        if not limit:
            return Verdict(action=Action.KEEP, reason="being written, without limit (RETENTION_LOG_LIMIT_MB=0)")
        limit = limit * 3 // 4 if low else limit
        if thing.size > limit:
            return Verdict(action=Action.CUT, reason=f"it may take {_size(limit)} while it is being written")
        return Verdict(action=Action.KEEP, reason=f"being written; cut when it is larger than {_size(limit)}")
    if not rules.log_days:
        return Verdict(action=Action.KEEP, reason="never cut (RETENTION_LOG_DAYS=0)")
    if thing.size <= rules.log_mb * _MB:
        return Verdict(action=Action.KEEP, reason="not large (RETENTION_LOG_MB)")
    age = (now - thing.since) / _DAY_S
    if age < rules.log_days:
        return Verdict(action=Action.KEEP, reason=f"whole for {rules.log_days} days (RETENTION_LOG_DAYS)")
    left = kept(rules, live=False)
    return Verdict(
        action=Action.CUT,
        reason=f"{_days(age)} old, whole for {rules.log_days}; {_size(left.head + left.tail)} of it are kept",
    )


def _limits(kind: Kind, rules: Retention) -> tuple[int, str, int, str]:
    """For how many days a kind is kept, by which variable; and how many of the newest, with their name."""
    match kind:
        case Kind.RUN:
            return rules.run_days, "RETENTION_RUN_DAYS", rules.run_count, "runs (RETENTION_RUN_COUNT)"
        case Kind.DATASET:
            return rules.dataset_days, "RETENTION_DATASET_DAYS", DATASET_COUNT, "datasets"
        case Kind.CORRUPTED:
            return rules.corrupted_days, "RETENTION_CORRUPTED_DAYS", 0, ""
    return rules.attempt_days, "RETENTION_ATTEMPT_DAYS", 0, ""


def _days(count: float) -> str:
    whole = int(count)
    return f"{whole} day{'' if whole == 1 else 's'}"


def _size(amount: int) -> str:
    return f"{amount / _MB:.0f} MB" if amount >= _MB else f"{amount} bytes"
