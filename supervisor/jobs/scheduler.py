"""Which waiting job starts next, and why each other one waits: a pure decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from supervisor.jobs.model import Job, State
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
class Plan:
    """What to do now.

    Attributes:
        starts: jobs to start, each with its devices.
        waits: job to the reason why it waits.
        wake: the wall-clock time at which a backoff ends, or a job may begin, and a new plan is due; None if nothing
            waits for time.
    """

    starts: tuple[tuple[Job, tuple[str, ...]], ...]
    waits: Mapping[int, str]
    wake: float | None


def plan(
    queued: Sequence[Job],
    *,
    machine: Machine,
    leases: Mapping[str, str],
    light_running: int,
    now: float,
    awaited: Mapping[int, State] = MappingProxyType({}),
) -> Plan:
    """Hand out what is free, by priority, then by age. Nobody who needs a device overtakes one who waits for devices.

    Args:
        queued: the jobs that wait.
        machine: what there is.
        leases: device to whoever has it, in words.
        light_running: how many jobs without a device are active.
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
        left = job.not_before - now
        if job.after is not None and job.after in awaited:
            waits[job.id] = f"comes after job {job.after}, which is {awaited[job.after]}"
        elif job.begins > now:
            wakes.append(job.begins)
            waits[job.id] = f"begins at {_moment(job.begins)}"
        # Capping it instead would put it off again with every plan, until the clock has caught up.
        elif 0 < left <= BACKOFF_CAP_S:
            wakes.append(job.not_before)
            waits[job.id] = f"{job.reason or 'backoff'} (in {left:.0f} s)"
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
    return Plan(starts=tuple(starts), waits=waits, wake=min(wakes, default=None))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _amount(job: Job, machine: Machine) -> str:
    if machine.devices == (CPU,):
        return "the CPU slot"
    return "a GPU" if job.devices == 1 else f"{job.devices} GPUs"
