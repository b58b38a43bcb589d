"""What a unit is, and what follows from where it is: facts, and one pure decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Final

from azaion.declarations.services import Declaration, Restart
from azaion.settings import SecretReference
from supervisor.errors import SupervisorError

#: A start that lived this long was a good one: the next death is the first.
HEALTHY_S: Final = 60.0
#: The first death is answered at once; from the second on the pause doubles up to the cap, each less by up to half.
BACKOFF_S: Final = 1.0
BACKOFF_CAP_S: Final = 60.0
#: So many deaths in a row, and it has failed. They take about a minute.
DEATHS: Final = 8


class UnitError(SupervisorError):
    """What was asked of a service cannot be done."""


class UnitState(StrEnum):
    """Where a unit is."""

    STARTING = "starting"  # it runs, and its check has not found it ready yet
    READY = "ready"
    NOT_READY = "not-ready"  # it was ready, and its check finds it so no more
    STOPPING = "stopping"
    PAUSED = "paused"  # a job has the GPU
    WAITING = "waiting"  # for others to be ready, or for its backoff to end
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What people want of a unit; kept in the database.

    Attributes:
        stopped: whether it is not to run.
        by: who wants that.
        forgiven: the number of the last start whose end is not held against it.
    """

    stopped: bool = False
    by: str = ""
    forgiven: int = 0


@dataclass(frozen=True, kw_only=True)
class End:
    """How a start ended.

    Attributes:
        number: of the start.
        code: the exit code; None after a signal, or if nobody knows.
        signal: what killed it.
        error: why it could not be run at all.
        asked: whether we had asked it to end.
        rebooted: whether it ended with the machine.
        deaths: how many ends in a row, this one included, have come unasked.
        digest: of what was started.
        time: the wall-clock time.
        pause: seconds between its end and the next start.
    """

    number: int
    code: int | None = None
    signal: int | None = None
    error: str = ""
    asked: bool = False
    rebooted: bool = False
    deaths: int = 0
    digest: str = ""
    time: float = 0.0
    pause: float = 0.0

    def __str__(self) -> str:
        if self.error:
            return self.error
        if self.rebooted:
            return "ended with the machine"
        if self.signal is not None:
            return f"was killed by signal {self.signal}"
        return f"ended with {self.code}" if self.code is not None else "ended, nobody knows how"


class Act(Enum):
    """What to do about a unit."""

    START = auto()
    STOP = auto()
    KEEP = auto()  # it runs, and is to run
    REST = auto()  # it does not run, and is not to


@dataclass(frozen=True, kw_only=True)
class Step:
    """What to do about a unit now.

    Attributes:
        state: where it is then; for one that is kept or started its check decides.
        why: for people.
        wait_s: after how many seconds to decide again; None if only when something changes.
    """

    act: Act
    state: UnitState = UnitState.STARTING
    why: str = ""
    wait_s: float | None = None


def decide(
    declared: Declaration | None,
    *,
    wish: Wish,
    digest: str,
    running: str | None,
    asked: str,
    last: End | None,
    holder: str,
    blockers: Sequence[str],
    now: float,
) -> Step:
    """Say what is to be done about a unit.

    Args:
        declared: what is declared of it; None if it is declared no more.
        wish: what people want.
        digest: of what would be started now.
        running: the digest of what runs; None if nothing does.
        asked: why what runs has been asked to end already; empty if it has not.
        last: how the last start ended, if there was one and it did.
        holder: who has the GPU, or is about to get it, in words; empty if nobody.
        blockers: what keeps it from starting, in words: services that it comes after and that are not ready.
        now: wall-clock time. A pause that is longer than it was made means that the clock has jumped.
    """
    unwanted = _unwanted(declared, wish, holder)
    if running is not None:
        why = (
            asked or (unwanted.why if unwanted else "") or ("its declaration has changed" if running != digest else "")
        )
        return Step(act=Act.STOP, state=UnitState.STOPPING, why=why) if why else Step(act=Act.KEEP)
    if unwanted is not None:
        return unwanted
    pause = 0.0
    if last is not None and declared is not None and _counts(last, wish, digest):
        if (final := _final(last, declared.restart)) is not None:
            return final
        pause = min(last.pause, max(0.0, last.time + last.pause - now))
    if blockers:
        return Step(act=Act.REST, state=UnitState.WAITING, why="; ".join(blockers))
    if pause > 0.0 and last is not None:
        return Step(act=Act.REST, state=UnitState.WAITING, why=f"{last}; again in {last.pause:.1f} s", wait_s=pause)
    return Step(act=Act.START)


def _unwanted(declared: Declaration | None, wish: Wish, holder: str) -> Step | None:
    """Why a unit is not to run; None if it is."""
    stopped = UnitState.STOPPED
    if declared is None:
        return Step(act=Act.REST, state=stopped, why="it is declared no more")
    if not declared.enabled:
        return Step(act=Act.REST, state=stopped, why="its declaration says `enabled: false`")
    if wish.stopped:
        return Step(act=Act.REST, state=stopped, why=f"stopped by {wish.by}")
    if declared.holds_gpu and holder:
        return Step(act=Act.REST, state=UnitState.PAUSED, why=f"paused for {holder}")
    return None


def _counts(last: End, wish: Wish, digest: str) -> bool:
    """Whether the last end says anything about the next start."""
    return not (last.asked or last.rebooted or last.number <= wish.forgiven or last.digest != digest)


def _final(last: End, restart: Restart) -> Step | None:
    """Where a unit stays after an end that came unasked; None if it is started again."""
    well = last.code == 0
    if well and restart is not Restart.ALWAYS:
        return Step(act=Act.REST, state=UnitState.STOPPED, why=f"{last}, and is not started again (restart: {restart})")
    if restart is Restart.NEVER:
        return Step(act=Act.REST, state=UnitState.FAILED, why=f"{last}, and is not started again (restart: {restart})")
    if last.deaths >= DEATHS:
        return Step(act=Act.REST, state=UnitState.FAILED, why=f"has ended {last.deaths} times in a row; {last}")
    return None


def pause_after(deaths: int, dice: float) -> float:
    """Seconds between an end that came unasked and the next start.

    Args:
        deaths: how many there were in a row, this one included.
        dice: from 0 to 1.
    """
    if deaths <= 1:
        return 0.0
    return min(BACKOFF_S * 2.0 ** min(deaths - 2, 16), BACKOFF_CAP_S) * (0.5 + dice / 2)


def environment_of(
    declared: Declaration, inherited: Mapping[str, str], gpus: Sequence[str]
) -> dict[str, str | SecretReference]:
    """The environment of a unit, secrets not looked up yet. One that does not hold the GPU sees none."""
    visible = ",".join(gpus) if declared.holds_gpu else ""
    return {**inherited, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible, **declared.env}
