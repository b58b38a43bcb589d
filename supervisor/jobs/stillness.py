"""Whether a training hangs: a pure judgement over looks at its progress.

What counts is time in which the daemon looked and nothing moved. A daemon that was away, stopped or starved, and a
machine that was suspended, have not looked; a worker whose disk is full cannot tell that it moves.
"""

from dataclasses import dataclass
from typing import Final

from azaion.progress import Progress
from supervisor.jobs.outcome import seconds

#: The longest time between two looks.
_LONGEST_LOOK_S: Final = 10.0
#: A look comes so often within the shorter limit.
_LOOKS: Final = 10
#: Further apart than so many times what they should be, two looks say nothing of the time between them.
_TOO_FAR: Final = 3
#: And never by less than this, for a busy machine is late.
_LATE_S: Final = 1.0
#: Phases after the first batch that may take as long as a start: this one reads every image and counts none.
_SILENT: Final = frozenset({"verifying"})


@dataclass(frozen=True, kw_only=True)
class Patience:
    """For how long a training may stand still, in seconds; 0 is for ever.

    Attributes:
        start_s: before its first batch, and while it reads its dataset again at the end.
        progress_s: afterwards.
    """

    start_s: float = 0.0
    progress_s: float = 0.0

    @property
    def look_s(self) -> float | None:
        """How often to look; None if there is nothing to look for."""
        limits = [limit for limit in (self.start_s, self.progress_s) if limit]
        return min(_LONGEST_LOOK_S, min(limits) / _LOOKS) if limits else None


@dataclass(frozen=True, kw_only=True)
class Standstill:
    """For how long a run has been seen to stand still, and where.

    Attributes:
        still_s: seconds in which nothing moved.
        limit_s: for how many it may; 0 is for ever.
        where: in words.
    """

    still_s: float
    limit_s: float
    where: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the daemon sees at a moment.

    Attributes:
        monotonic: CLOCK_MONOTONIC, which stands still while the machine is suspended.
        boottime: CLOCK_BOOTTIME, which does not.
        progress: what the worker has told; None if nothing.
        mute: whether the worker could not tell anything, as its disk is full.
    """

    monotonic: float
    boottime: float
    progress: Progress | None = None
    mute: bool = False


@dataclass(frozen=True, kw_only=True)
class Stillness:
    """For how long a run has been seen to stand still.

    Attributes:
        look: the last one.
        begun: whether this attempt has ended a batch.
        still_s: seconds in which nothing moved.
    """

    look: Look
    begun: bool = False
    still_s: float = 0.0

    def after(self, look: Look, patience: Patience) -> "Stillness":
        """The same after another look."""
        begun = self.begun or _has_begun(self.look.progress) or _has_begun(look.progress)
        if _place(look.progress) != _place(self.look.progress):
            return Stillness(look=look, begun=begun)
        gap = look.monotonic - self.look.monotonic
        suspended = look.boottime - self.look.boottime - gap
        expected = patience.look_s or _LONGEST_LOOK_S
        counts = not look.mute and suspended < _LATE_S and gap <= max(_TOO_FAR * expected, expected + _LATE_S)
        return Stillness(look=look, begun=begun, still_s=self.still_s + (gap if counts else 0.0))

    def standstill(self, patience: Patience) -> Standstill:
        """For how long it has stood still where it is, and for how long it may there."""
        told = self.look.progress
        where = f"in phase {told.phase}" if told is not None else "from its start on"
        if told is not None and self.begun and told.phase not in _SILENT:
            limit, where = patience.progress_s, f"{where}, epoch {told.epoch}, batch {told.batch} of {told.batches}"
        else:
            limit = patience.start_s
        return Standstill(still_s=self.still_s, limit_s=limit, where=where)

    def verdict(self, patience: Patience) -> str | None:
        """Why the run is held to hang, in words; None if it is not."""
        found = self.standstill(patience)
        if not found.limit_s or found.still_s < found.limit_s:
            return None
        return f"no progress for {seconds(round(found.still_s))} {found.where}"


def _place(progress: Progress | None) -> tuple[str, int, int] | None:
    return None if progress is None else (progress.phase, progress.epoch, progress.batch)


def _has_begun(progress: Progress | None) -> bool:
    return progress is not None and progress.epoch > 0 and (progress.batch > 0 or bool(progress.metrics))
