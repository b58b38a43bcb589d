"""What alerts are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Level(StrEnum):
    """How much something matters; `OK` is a condition that does not, any more."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def gravity(self) -> int:
        """Larger is worse."""
        return _LEVELS.index(self)


_LEVELS: Final = tuple(Level)


class What(StrEnum):
    """What a notice says of its condition."""

    RAISED = "raised"
    WORSE = "worse"
    EASED = "eased"
    RESOLVED = "resolved"
    STILL = "still"
    FLAPPING = "flapping"
    NEWS = "news"  # something that has happened, and has no end


@dataclass(frozen=True, kw_only=True)
class Condition:
    """How something is now.

    Attributes:
        kind: a check's name, or one of `azaion.declarations.alerts.OTHERS`.
        level: how much it matters; None if nobody knows.
        text: one line: what is so.
        advice: one line: what to do.
        quiet: whether somebody has muted it.
    """

    kind: str
    level: Level | None
    text: str
    advice: str = ""
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One thing that people are told.

    Attributes:
        name: of its condition, or ``job 12``.
        level: how much it matters; of something that is better now, how much it did.
        time: seconds since 1970.
    """

    name: str
    kind: str
    what: What
    level: Level
    text: str
    advice: str = ""
    time: float


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a condition, and what people have been told of it. Times are in seconds since 1970.

    Attributes:
        level: how it is.
        since: from when on.
        told: what people believe that it is.
        told_at: when they were last told anything.
        changes: when it has changed, of the last while.
        flapping: it changes so often that people are told only that; `told_flapping` if they have been.
        worst: while it is flapping, the worst that it has been.
    """

    kind: str
    level: Level
    since: float
    told: Level = Level.OK
    told_at: float = 0.0
    changes: tuple[float, ...] = ()
    flapping: bool = False
    told_flapping: bool = False
    worst: Level = Level.OK
    quiet: bool = False
    # Measurements change all the time, which is no change of what is known.
    text: str = field(default="", compare=False)
    advice: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True)
class State:
    """All that the next decision depends on.

    Attributes:
        known: each condition that is open or was a short while ago, by its name.
        news: what has happened and has not been told yet.
        left_out: how much more has happened than `news` holds.
        sent: when messages were sent, of the last hour.
    """

    known: Mapping[str, Known] = field(default_factory=dict)
    news: tuple[Notice, ...] = ()
    left_out: int = 0
    sent: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How often people are told.

    Attributes:
        remind_critical_s: what is still critical is told again after so long.
        remind_warning_s: the same of warnings, and of what is still flapping.
        gather_s: a message waits so long for more.
        gap_s: the least time between two messages; doubled by each further one of the last hour.
    """

    remind_critical_s: float = 4 * 3600.0
    remind_warning_s: float = 24 * 3600.0
    gather_s: float = 10.0
    gap_s: float = 30.0
