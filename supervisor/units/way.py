"""Who has the GPU: what the queue tells of it, and those who make way for its jobs."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final, Protocol

from supervisor.gpus import Gpu, Reading
from supervisor.jobs.model import Job, State
from supervisor.jobs.scheduler import Plan

#: A job whose time comes so soon is about to start: nothing is started for a few seconds in between.
SOON_S: Final = 30.0
#: So many jobs are named.
_NAMED: Final = 3


class Way(Protocol):
    """Those who use the GPUs while no job does."""

    @property
    def nonces(self) -> AbstractSet[str]:
        """What their processes carry: the memory that they have of a GPU is there for a job."""
        ...

    def told(self, holder: str) -> None:
        """Hear who has the GPUs, or is about to get them, in words; empty if nobody does, and they may be used."""
        ...

    async def make(self) -> None:
        """Return when the GPUs that the last holder told of is about to get are not used any more."""
        ...


class Clear:
    """The way where nobody is in it."""

    nonces: Final[frozenset[str]] = frozenset()

    def told(self, holder: str) -> None:
        """Nobody listens."""

    async def make(self) -> None:
        """There is nothing to wait for."""


def holder_of(
    leases: Mapping[str, int],
    plan: Plan,
    *,
    asking: Sequence[int] = (),
    queued: Sequence[Job] = (),
    strangers: bool = False,
    now: float,
) -> str:
    """Who has the devices, or is about to get them, in words; empty if nobody.

    Args:
        leases: device to the job that has it.
        plan: what starts now.
        asking: jobs of the plan that do not start before NVML has been asked; they may lack something then.
        queued: the jobs that wait, if any of them waits for a time that is near.
        strangers: whether runs that nobody knows have devices.
        now: wall-clock time.
    """
    running = set(leases.values())
    starting = {job.id for job, devices in plan.starts if devices and job.id not in asking}
    numbers = sorted(running | starting | {job.id for job in queued if _soon(job, now)})
    if not numbers:
        return "an unknown run" if strangers else ""
    words = f"job{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:_NAMED]))}"
    return words + (f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else "")


def _soon(job: Job, now: float) -> bool:
    due = max(job.not_before, job.begins)
    return job.state is State.QUEUED and job.devices > 0 and 0 < due - now <= SOON_S


def cleared(reading: Reading | None, nonces: AbstractSet[str]) -> Reading | None:
    """What NVML would tell if those who carry these nonces had made way."""
    if reading is None or not nonces:
        return reading
    return replace(reading, gpus=tuple(_cleared(gpu, nonces) for gpu in reading.gpus))


def _cleared(gpu: Gpu, nonces: AbstractSet[str]) -> Gpu:
    leaving = [tenant for tenant in gpu.tenants if tenant.nonce in nonces]
    if not leaving or gpu.free is None:
        return gpu
    # Where the driver does not tell how much of it they have, nobody knows what will be free.
    known = all(tenant.used is not None for tenant in leaving)
    free = gpu.free + sum(tenant.used or 0 for tenant in leaving) if known else None
    return replace(gpu, free=free, tenants=tuple(tenant for tenant in gpu.tenants if tenant not in leaving))
