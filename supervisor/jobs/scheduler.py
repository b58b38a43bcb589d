"""Which waiting job starts next, and why each other one waits: a pure decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from supervisor.jobs.model import Job, Kind, Maintenance, State
from supervisor.jobs.outcome import BACKOFF_CAP_S

#: The device of a machine without a GPU: one run at a time.
CPU: Final = "cpu"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is to hand out.

    Attributes:
        devices: the names of the GPUs, or the CPU slot where there is none.
        light: how many jobs that need no device may run at once.
    """

    devices: tuple[str, ...]
    light: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """A job that is active, with how many devices it holds."""

    job: Job
    devices: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do now.

    Attributes:
        starts: jobs to start, each with its devices.
        waits: job to the reason why it waits.
        asides: trainings that are to step aside.
        wake: the wall-clock time at which a backoff ends, or a job may begin, and a new plan is due; None if nothing
            waits for time.
    """

    starts: tuple[tuple[Job, tuple[str, ...]], ...]
    waits: Mapping[int, str]
    asides: tuple[int, ...]
    wake: float | None


def plan(
    queued: Sequence[Job],
    *,
    machine: Machine,
    leases: Mapping[str, str],
    light_running: int,
    now: float,
    awaited: Mapping[int, State] = MappingProxyType({}),
    running: Sequence[Run] = (),
) -> Plan:
    """Hand out what is free, by priority, then by age. Nobody who needs a device overtakes one who waits for devices.

    Args:
        queued: the jobs that wait.
        machine: what there is.
        leases: device to whoever has it, in words.
        light_running: how many jobs without a device are active.
        running: the jobs that are active.
        awaited: the jobs that others are to come after and that have not succeeded, with their states.
        now: wall-clock time; a backoff further off than its cap means that the clock has jumped, and is over.
    """
    free = [device for device in machine.devices if device not in leases]
    light = machine.light - light_running
    starts: list[tuple[Job, tuple[str, ...]]] = []
    waits: dict[int, str] = {}
    wakes: list[float] = []
    blocked: Job | None = None
    for job in sorted(queued, key=lambda job: (-job.priority, job.id)):
        if job.after is not None and job.after in awaited:
            waits[job.id] = f"comes after job {job.after}, which is {awaited[job.after]}"
        elif (early := _early(job, now)) is not None:
            wake, waits[job.id] = early
            wakes.append(wake)
        elif job.devices > len(machine.devices):
            waits[job.id] = f"needs {job.devices} GPUs, this machine has {len(machine.devices)}"
        elif job.devices == 0:
            if light > 0:
                light -= 1
                starts.append((job, ()))
            else:
                waits[job.id] = f"{machine.light} jobs without a GPU are running, which is the limit"
        elif blocked is not None:
            waits[job.id] = f"behind job {blocked.id}"
        elif job.devices > len(free):
            blocked = job
            held = ", ".join(f"{device} by {leases[device]}" for device in machine.devices if device in leases)
            waits[job.id] = f"needs {_amount(job, machine)}; held: {held or 'nothing'}"
        else:
            starts.append((job, tuple(free[: job.devices])))
            del free[: job.devices]
    asides = _step_aside(blocked, len(free), running) if blocked is not None and blocked.preempt else ()
    if asides and blocked is not None:
        waits[blocked.id] += f"; job {', '.join(map(str, asides))} steps aside"
    return Plan(starts=tuple(starts), waits=waits, asides=asides, wake=min(wakes, default=None))


def drain(queued: Sequence[Job], running: Sequence[Run], maintenance: Maintenance) -> Plan:
    """Start nothing; have trainings step aside if that is wanted."""
    asides = tuple(run.job.id for run in running if _movable(run)) if maintenance.stop_running else ()
    return Plan(starts=(), waits={job.id: str(maintenance) for job in queued}, asides=asides, wake=None)


def _step_aside(urgent: Job, free: int, running: Sequence[Run]) -> tuple[int, ...]:
    """The trainings to ask, the least important and youngest first; none if it would not be enough."""
    lacking = urgent.devices - free - sum(run.devices for run in running if run.job.intent is not None)
    asked: list[int] = []
    candidates = [run for run in running if _movable(run) and run.job.priority < urgent.priority]
    for run in sorted(candidates, key=lambda run: (run.job.priority, -run.job.id)):
        if lacking <= 0:
            break
        if run.devices:
            asked.append(run.job.id)
            lacking -= run.devices
    return tuple(asked) if lacking <= 0 else ()


def _movable(run: Run) -> bool:
    """A training goes on where it was; a command would begin again."""
    return run.job.kind is Kind.TRAIN and run.job.intent is None


def _early(job: Job, now: float) -> tuple[float, str] | None:
    """Until when a job waits for its time, and why; None if that has come."""
    if job.begins > now:
        return job.begins, f"begins at {_moment(job.begins)}"
    left = job.not_before - now
    # Capping it instead would put it off again with every plan, until the clock has caught up.
    if 0 < left <= BACKOFF_CAP_S:
        return job.not_before, f"{job.reason or 'backoff'} (in {left:.0f} s)"
    return None


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _amount(job: Job, machine: Machine) -> str:
    if machine.devices == (CPU,):
        return "the CPU slot"
    return "a GPU" if job.devices == 1 else f"{job.devices} GPUs"
