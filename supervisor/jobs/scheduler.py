"""Which waiting job starts next, and why each other one waits: a pure decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from supervisor.jobs.model import Job, Kind, Maintenance, State
from supervisor.jobs.outcome import BACKOFF_CAP_S
from supervisor.jobs.preflight import Preflight

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
        lacking: the jobs whose turn it is and that lack what a preflight looks at.
        unfit: whether one of them waits for what a GPU has to give.
        wake: the wall-clock time at which a backoff ends, or a job may begin, and a new plan is due; None if nothing
            waits for time.
    """

    starts: tuple[tuple[Job, tuple[str, ...]], ...]
    waits: Mapping[int, str]
    asides: tuple[int, ...]
    lacking: tuple[int, ...] = ()
    unfit: bool = False
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
    preflight: Preflight | None = None,
) -> Plan:
    """Hand out what is free, by priority, then by age. Nobody who needs a device overtakes one who waits for devices.

    A job that lacks something else is passed by those behind it, who take only what it could not use anyway; it is the
    first to be looked at whenever something changes. One that has long lacked memory which runs of ours may give back
    keeps its place for as long as any goes on: else small jobs could keep it waiting for ever.

    Args:
        queued: the jobs that wait.
        machine: what there is.
        leases: device to whoever has it, in words.
        light_running: how many jobs without a device are active.
        running: the jobs that are active.
        awaited: the jobs that others are to come after and that have not succeeded, with their states.
        preflight: what the machine has to give; without it, everything that anybody needs.
        now: wall-clock time; a backoff further off than its cap means that the clock has jumped, and is over.
    """
    free = [device for device in machine.devices if device not in leases]
    light = machine.light - light_running
    starts: list[tuple[Job, tuple[str, ...]]] = []
    waits: dict[int, str] = {}
    wakes: list[float] = []
    lacking: list[int] = []
    asides: tuple[int, ...] = ()
    unfit = False
    promised = 0
    # Those that keep what comes behind them waiting: for devices, and for anything.
    blocked: Job | None = None
    closed: Job | None = None
    for job in sorted(queued, key=lambda job: (-job.priority, job.id)):
        if (untimely := _untimely(job, machine, awaited, now)) is not None:
            waits[job.id], wake = untimely
            wakes += [wake] if wake is not None else []
            continue
        if closed is not None:
            waits[job.id] = f"behind job {closed.id}, which has long waited for memory"
            continue
        faults = _faults(job, free, preflight)
        fit = [device for device in free if device not in faults]
        if job.devices == 0 and light <= 0:
            waits[job.id] = f"{machine.light} jobs without a GPU are running, which is the limit"
        elif job.devices > len(fit):
            unfit = unfit or bool(faults)
            waits[job.id] = f"behind job {blocked.id}" if blocked is not None else _short(job, machine, leases, faults)
            if blocked is None and job.devices <= len(machine.devices) - len(faults):
                # Runs of ours hold what it waits for: what it could use already is kept for it.
                blocked = job
                free = [device for device in free if device in faults]
                asides = _step_aside(job, len(fit), running) if job.preempt else ()
                waits[job.id] += f"; job {', '.join(map(str, asides))} steps aside" if asides else ""
            elif blocked is None:
                lacking.append(job.id)
        elif preflight is not None and (lack := preflight.lack(job, promised)) is not None:
            lacking.append(job.id)
            waits[job.id] = lack.reason
            closed = job if lack.keeps else None
        else:
            promised += job.needs.ram
            light -= job.devices == 0
            starts.append((job, tuple(fit[: job.devices])))
            free = [device for device in free if device not in fit[: job.devices]]
    return Plan(
        starts=tuple(starts),
        waits=waits,
        asides=asides,
        lacking=tuple(lacking),
        unfit=unfit,
        wake=min(wakes, default=None),
    )


def drain(queued: Sequence[Job], running: Sequence[Run], maintenance: Maintenance) -> Plan:
    """Start nothing; have trainings step aside if that is wanted."""
    asides = tuple(run.job.id for run in running if _movable(run)) if maintenance.stop_running else ()
    return Plan(starts=(), waits={job.id: str(maintenance) for job in queued}, asides=asides, wake=None)


def pause(queued: Sequence[Job], reason: str) -> Plan:
    """Start nothing, and disturb nobody."""
    return Plan(starts=(), waits={job.id: reason for job in queued}, asides=(), wake=None)


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


def _untimely(job: Job, machine: Machine, awaited: Mapping[int, State], now: float) -> tuple[str, float | None] | None:
    """Why it is not a job's turn whatever is free, and until when if that is known; None if it is."""
    if job.after is not None and job.after in awaited:
        return f"comes after job {job.after}, which is {awaited[job.after]}", None
    if (early := _early(job, now)) is not None:
        wake, reason = early
        return reason, wake
    if job.devices > len(machine.devices):
        return f"needs {job.devices} GPUs, this machine has {len(machine.devices)}", None
    return None


def _faults(job: Job, free: Sequence[str], preflight: Preflight | None) -> dict[str, str]:
    """The free devices that are of no use to a job, and why."""
    if preflight is None or job.devices == 0:
        return {}
    found = {device: preflight.unfit(job, device) for device in free}
    return {device: fault for device, fault in found.items() if fault}


def _short(job: Job, machine: Machine, leases: Mapping[str, str], faults: Mapping[str, str]) -> str:
    """Why there are not enough devices for a job."""
    held = ", ".join(f"{device} by {leases[device]}" for device in machine.devices if device in leases)
    if not faults:
        return f"needs {_amount(job, machine)}; held: {held or 'nothing'}"
    parts = [f"needs {_amount(job, machine)}; held: {held or 'nothing'}"] if held or job.devices > 1 else []
    one = len(machine.devices) == 1
    return "; ".join([*parts, *(fault if one else f"{device}: {fault}" for device, fault in faults.items())])


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
