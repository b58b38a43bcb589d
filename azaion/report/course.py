"""The course of a run over its attempts: what was done twice, what lay between, what an attempt ended of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from azaion.report.facts import Attempt, Epoch, Facts

_CAUSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "lost:reboot": "the machine went down",
        "lost:shim": "nobody saw its end",
        "interrupted": "asked to end, as at a shutdown",
        "preempted": "stepped aside for another job",
        "cancelled": "cancelled",
        "hang": "it stood still",
        "time": "its time was over",
        "oom:ram": "out of memory",
        "oom:gpu": "out of GPU memory",
        "checkpoint": "no checkpoint could be read",
        "data": "its data could not be used",
        "disk": "the disk was full or failed",
        "never-started": "it never started",
    }
)
_SIGNALS: Final[Mapping[str, str]] = MappingProxyType({"9": "killed (SIGKILL)", "15": "ended by SIGTERM"})


def cause(word: str | None) -> str:
    """A cause in words; the word itself where there are no better ones."""
    if not word:
        return ""
    kind, _, detail = word.partition(":")
    if kind == "signal":
        return _SIGNALS.get(detail, f"ended by signal {detail}")
    if kind == "exit":
        return f"its own failure (exit code {detail})"
    return _CAUSES.get(word, word)


@dataclass(frozen=True, kw_only=True)
class Line:
    """The epochs of one attempt.

    Attributes:
        lost: those that a later attempt had to do again.
        kept: those that count.
    """

    attempt: int
    lost: tuple[Epoch, ...]
    kept: tuple[Epoch, ...]


def lines(facts: Facts) -> tuple[Line, ...]:
    """The epochs, attempt by attempt; those of a run whose attempts are gone as one line of attempt 0."""
    if not any(attempt.epochs for attempt in facts.attempts):
        return (Line(attempt=0, lost=(), kept=facts.older),) if facts.older else ()
    found = []
    for place, attempt in enumerate(facts.attempts):
        # Whatever a later attempt began with takes the place of all that comes after it.
        again = min((first for later in facts.attempts[place + 1 :] if (first := _first(later))), default=None)
        found.append(
            Line(
                attempt=attempt.number,
                lost=tuple(epoch for epoch in attempt.epochs if again is not None and epoch.number >= again),
                kept=tuple(epoch for epoch in attempt.epochs if again is None or epoch.number < again),
            )
        )
    return tuple(line for line in found if line.lost or line.kept)


def _first(attempt: Attempt) -> int | None:
    """The first epoch that an attempt had to do; None if nobody knows."""
    if attempt.resumed_from is not None:
        return attempt.resumed_from + 1
    return attempt.epochs[0].number if attempt.epochs else None


def done(facts: Facts) -> tuple[Epoch, ...]:
    """The epochs that count, each once."""
    return tuple(epoch for line in lines(facts) for epoch in line.kept)


def redone(facts: Facts) -> int:
    """How many epochs were done again."""
    return len({epoch.number for line in lines(facts) for epoch in line.lost})


def resumes(facts: Facts) -> tuple[tuple[int, int], ...]:
    """Attempt and epoch after which it went on, of each attempt that went on from a checkpoint."""
    return tuple((each.number, each.resumed_from) for each in facts.attempts if each.resumed_from)


def gap(before: Attempt, after: Attempt) -> timedelta | None:
    """For how long nothing ran between two attempts."""
    return _span(before.ended, after.started)


def length(attempt: Attempt, now: datetime) -> timedelta | None:
    """For how long an attempt has run."""
    return _span(attempt.started, attempt.ended or now)


def ran(facts: Facts) -> timedelta:
    """For how long all attempts have run."""
    now = facts.job.ended or facts.made
    return sum((length(each, now) or timedelta() for each in facts.attempts), timedelta())


def best(epochs: Sequence[Epoch], metric: str = "mAP50-95") -> Epoch | None:
    """The epoch with the highest value; the first of several."""
    having = [epoch for epoch in epochs if metric in epoch.metrics]
    return max(having, key=lambda epoch: (epoch.metrics[metric], -epoch.number), default=None)


def _span(begin: datetime | None, end: datetime | None) -> timedelta | None:
    return None if begin is None or end is None else max(end - begin, timedelta())
