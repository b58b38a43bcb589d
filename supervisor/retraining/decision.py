"""Whether a training is due: a pure decision, with what people read of it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cronsim import CronSim

from azaion.declarations.retrain import RetrainDeclaration

#: A rule's trainings are known by their keys.
_KEY: Final = "retrain"


@dataclass(frozen=True, kw_only=True)
class Past:
    """The newest training that was filed by itself.

    Attributes:
        basis: the dataset of the newest model when it was filed; empty if there was none.
        new: how many annotations were new then.
        filed: the wall-clock time.
    """

    basis: str
    new: int
    filed: float

    @property
    def key(self) -> str:
        """The key of the job: all of this, so that nothing else has to be kept of it."""
        return f"{_KEY} {self.basis or '-'} {self.new} {self.filed:.0f}"


def past_of(key: str) -> Past | None:
    """What the key of a job tells; None if it is no such job's."""
    word, *rest = key.split(" ")
    if word != _KEY or len(rest) != 3 or not (rest[1].isdecimal() and rest[2].isdecimal()):  # noqa: PLR2004 - see above
        return None
    return Past(basis=rest[0].removeprefix("-"), new=int(rest[1]), filed=float(rest[2]))


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How things stand.

    Attributes:
        basis: the dataset of the newest model; empty if there is no model.
        new: how many validated annotations are not in it; None as long as nobody has counted.
        past: the newest training that was filed by itself.
        obstacle: why none may be filed now; empty if one may.
        since: from when on times of ``cron`` count, a wall-clock time.
    """

    basis: str = ""
    new: int | None = None
    past: Past | None = None
    obstacle: str = ""
    since: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is to be done, and what people read.

    Attributes:
        due: why a training is to be filed now; empty if none is.
        text: what the next training waits for.
        since: from when on times of ``cron`` count from now on.
    """

    due: str = ""
    text: str
    since: float


def decide(rule: RetrainDeclaration, standing: Standing, now: float) -> Verdict:
    """Whether a training is due.

    One that failed is not filed again for the same annotations: as many new ones must come as before it, or the next
    time. A time that passed while none could be filed is made up for, once; one at which nothing was new is not.

    Args:
        rule: the user's.
        standing: how things stand.
        now: the wall-clock time. Where it lies before what has happened already, the clock was set back.
    """
    since = min(standing.since, now)
    past = standing.past
    # What the newest training by itself was filed for does not count again, whatever became of it.
    spent = past.new if past is not None and past.basis == standing.basis else 0
    fresh = None if standing.new is None else max(0, standing.new - spent)
    waits: list[str] = []
    reasons: list[str] = []
    if rule.annotations is not None:
        waits.append(f"{'?' if fresh is None else fresh} of {rule.annotations} new annotations")
        if fresh is not None and fresh >= rule.annotations:
            reasons.append(f"{fresh} new annotations")
    if rule.cron is not None:
        moment = datetime.fromtimestamp(now, UTC)
        waits.append(f"{next(CronSim(rule.cron, moment)):%a %Y-%m-%d %H:%M} UTC")
        last = _last(rule.cron, moment)
        filed = min(past.filed, now) if past is not None else since
        if last is not None and last > max(since, filed) and fresh is not None:
            if fresh:
                reasons.append(f"it is past {datetime.fromtimestamp(last, UTC):%a %H:%M} UTC")
            else:
                since = now
    text = ", or ".join(waits)
    if reasons and standing.obstacle:
        return Verdict(text=f"{' and '.join(reasons)}, but {standing.obstacle}", since=since)
    return Verdict(due=" and ".join(reasons), text=text, since=since)


def _last(cron: str, moment: datetime) -> float | None:
    """When it was that time before; None if it never was."""
    return next((found.timestamp() for found in CronSim(cron, moment, reverse=True)), None)
