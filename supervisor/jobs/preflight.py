"""Whether what a job needs is there before it starts: pure decisions on facts of the machine."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from azaion.settings import Config
from supervisor.gpus import Gpu, Reading
from supervisor.jobs.model import Job, Needs
from supervisor.resources import Disk, Facts, Inputs, Purpose

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
#: For so long others pass a job that lacks memory. Then it is an alert, too.
PATIENCE_S: Final = 600.0
#: A run keeps its last two checkpoints, the best one and the finished model at the least.
_CHECKPOINTS: Final = 4
#: Curves, plots, logs, labels.
_RUN_BYTES: Final = _GIB
#: So many processes that hold memory are named.
_NAMED: Final = 3
#: What the driver and its contexts take for themselves is no riddle.
_DRIVER_BYTES: Final = _GIB


@dataclass(frozen=True, kw_only=True)
class Floors:
    """What must be free before anything starts, in bytes: memory, each disk, and (for a job with GPUs) each of them."""

    ram: int = 0
    disk: int = 0
    vram: int = 0


def floors_of(config: Config) -> Floors:
    """The floors that the configuration sets."""
    told = config.daemon
    return Floors(ram=told.free_ram_mb * _MIB, disk=told.free_disk_mb * _MIB, vram=told.free_vram_mb * _MIB)


@dataclass(frozen=True, kw_only=True)
class Lack:
    """Why a job does not start.

    Attributes:
        reason: for people.
        keeps: whether those behind it wait for it to start.
    """

    reason: str
    keeps: bool = False


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of a preflight: what was looked at, and whether it would do."""

    name: str
    ok: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What keeps jobs from starting, as the machine was at one moment.

    Attributes:
        inputs: by job, of every training that waits and has not begun in an earlier attempt.
        owners: nonce to the job whose attempt it is, of every run.
        waited: for how many seconds each job has lacked something.
        promised: bytes of memory that were promised to runs which have just started and do not have them yet.
        busy: whether anything of ours runs, and may give memory back.
    """

    facts: Facts
    floors: Floors = Floors()
    inputs: Mapping[int, Inputs] = field(default_factory=dict)
    owners: Mapping[str, int] = field(default_factory=dict)
    waited: Mapping[int, float] = field(default_factory=dict)
    promised: int = 0
    busy: bool = False

    def pause(self) -> str:
        """Why nothing at all may start; empty if it may. A run is never paused for it."""
        return next(_disk_problems(self.facts.disks, dict.fromkeys(self.facts.disks, 0), self.floors), "")

    def lack(self, job: Job, promised: int = 0) -> Lack | None:
        """What a job lacks, whichever devices it gets; None if it may start.

        Args:
            job: that waits.
            promised: bytes of memory that others are to get who start before it in the same moment.
        """
        given = self.inputs.get(job.id)
        if given is not None and (missing := _missing(given)):
            return Lack(reason=missing)
        if given is not None and (short := next(_disk_problems(self.facts.disks, _room(given), self.floors), "")):
            return Lack(reason=short)
        if reason := _memory_problem(job.needs, self.facts, self.floors, self.promised + promised):
            memory = self.facts.memory
            hopeful = memory is not None and job.needs.ram <= memory.total
            patient = self.waited.get(job.id, 0.0) < PATIENCE_S
            return Lack(reason=reason, keeps=self.busy and hopeful and not patient)
        return None

    def admits(self, starts: Iterable[tuple[Job, Sequence[str]]]) -> bool:
        """Whether all of these jobs may start, each on its devices."""
        promised = 0
        for job, devices in starts:
            if self.lack(job, promised) is not None or any(self.unfit(job, device) for device in devices):
                return False
            promised += job.needs.ram
        return not self.pause()

    def unfit(self, job: Job, device: str) -> str:
        """Why a job cannot have a device that nobody holds; empty if it can, or nobody has asked yet."""
        return _gpu_problem(job.needs, device, self.facts.gpus, self.floors, self.owners)


def by_hand(
    needs: Needs,
    disk: int,
    *,
    facts: Facts,
    floors: Floors,
    given: Inputs,
    devices: Sequence[str],
    owners: Mapping[str, int] = MappingProxyType({}),
) -> list[Check]:
    """The checks before the start of a training with the configuration's own model and no dataset.

    Args:
        needs: what it needs.
        disk: bytes that must be free on every disk.
        facts: the machine.
        floors: what must be free at the least.
        given: what the training would begin with.
        devices: the devices of the machine, leased or not; one that fits is enough.
        owners: nonce to the job whose attempt it is.
    """
    checks = [_memory_check(needs, facts, floors), _gpu_check(needs, facts, floors, devices, owners)]
    room = _room(given)
    for purposes, one in _by_device(facts.disks).items():
        needed = max(floors.disk, disk, sum(room.get(purpose, 0) for purpose in purposes))
        problem = next(_short(purposes, one, needed), "")
        there = f"{_down(one.free)} GiB free on the disk of {one.path}, {_up(needed)} needed ({', '.join(purposes)})"
        checks.append(Check(name="disk", ok=not problem, text=problem or there))
    model, data = _missing_model(given), _missing_data(given)
    size = f", {_up(given.weights)} GiB" if given.weights else ""
    checks.append(Check(name="model", ok=not model, text=model or f"{given.model}{size}"))
    checks.append(Check(name="data", ok=not data, text=data or "there are validated images"))
    return checks


# Memory.


def _memory_problem(needs: Needs, facts: Facts, floors: Floors, promised: int) -> str:
    needed, memory = max(needs.ram, floors.ram), facts.memory
    if memory is None:
        return f"needs {_up(needed)} GiB RAM, and the kernel does not tell what is free" if needs.ram else ""
    if needs.ram > memory.total:
        return f"needs {_up(needed)} GiB RAM, this machine has {_down(memory.total)}"
    # A promise counts against those who ask for memory, too; a floor is there so that nothing dies of a start.
    free = max(0, memory.available - promised)
    if needed <= free:
        return ""
    rest = f"; {_up(promised)} promised to runs that have just started" if promised else ""
    return f"needs {_up(needed)} GiB RAM, {_down(free)} free{rest}"


def _memory_check(needs: Needs, facts: Facts, floors: Floors) -> Check:
    problem, memory = _memory_problem(needs, facts, floors, 0), facts.memory
    needed = _up(max(needs.ram, floors.ram))
    there = "the kernel does not tell" if memory is None else f"{_down(memory.available)} GiB free, {needed} needed"
    return Check(name="memory", ok=not problem, text=problem or there)


# GPUs.


def _gpu_problem(
    needs: Needs,
    device: str,
    reading: Reading | None,
    floors: Floors,
    owners: Mapping[str, int],
) -> str:
    number = device.removeprefix("gpu")
    if not number.isdecimal():
        return f"needs {_up(needs.vram)} GiB VRAM, and there is no GPU to use" if needs.vram else ""
    if reading is None:
        return ""
    if reading.problem:
        return reading.problem
    if reading.absent:
        return (
            f"needs {_up(needs.vram)} GiB VRAM, and nobody tells what is free: {reading.absent}" if needs.vram else ""
        )
    gpu = reading.gpu(int(number))
    if gpu is None:
        return "the NVIDIA driver does not show it"
    if gpu.problem:
        return gpu.problem
    if gpu.total is None or gpu.free is None:
        return ""
    needed = max(needs.vram, floors.vram)
    if needs.vram > gpu.total:
        return f"needs {_up(needed)} GiB VRAM, it has {_down(gpu.total)}"
    if needed <= gpu.free:
        return ""
    return f"needs {_up(needed)} GiB VRAM, {_down(gpu.free)} free{_holders(gpu, owners)}"


def _holders(gpu: Gpu, owners: Mapping[str, int]) -> str:
    """Who holds the memory of a GPU, as the end of a sentence."""
    parts = []
    for tenant in gpu.tenants[:_NAMED]:
        who = f"pid {tenant.pid} {tenant.name}".rstrip()
        who = f"job {owners[tenant.nonce]} ({who})" if tenant.nonce in owners else who
        parts.append(f"{'some' if tenant.used is None else _up(tenant.used)} held by {who}")
    if (more := len(gpu.tenants) - _NAMED) > 0:
        parts.append(f"the rest by {more} more")
    if gpu.total is not None and gpu.free is not None and all(tenant.used is not None for tenant in gpu.tenants):
        riddle = gpu.total - gpu.free - sum(tenant.used or 0 for tenant in gpu.tenants)
        if riddle > _DRIVER_BYTES:
            parts.append(f"{_up(riddle)} held by processes that the driver does not name")
    return "".join(f"; {part}" for part in parts)


def _gpu_check(needs: Needs, facts: Facts, floors: Floors, devices: Sequence[str], owners: Mapping[str, int]) -> Check:
    gpus = [device for device in devices if device.removeprefix("gpu").isdecimal()]
    reading = facts.gpus
    if not gpus:
        why = f": {reading.absent}" if reading is not None and reading.absent else ""
        short = f"needs {_up(needs.vram)} GiB VRAM, and there is no GPU to use{why}"
        return Check(
            name="gpu",
            ok=not needs.vram,
            text=short if needs.vram else f"no GPU to use{why}; trainings take the CPU",
        )
    problems = {device: _gpu_problem(needs, device, reading, floors, owners) for device in gpus}
    if all(problems.values()):
        return Check(name="gpu", ok=False, text=_each(problems))
    there = {device: _gpu_text(device, reading) for device, problem in problems.items() if not problem}
    needed = f", {_up(max(needs.vram, floors.vram))} needed"
    return Check(name="gpu", ok=True, text=_each(there) + needed)


def _gpu_text(device: str, reading: Reading | None) -> str:
    gpu = reading.gpu(int(device.removeprefix("gpu"))) if reading is not None else None
    if gpu is None or gpu.free is None or gpu.total is None:
        return "how much is free is not known"
    return f"{_down(gpu.free)} GiB of {_down(gpu.total)} free"


def _each(texts: Mapping[str, str]) -> str:
    """What is to be said of each device; of several, which is which."""
    return "; ".join(f"{device}: {text}" for device, text in texts.items())


# Disks.


def _room(given: Inputs) -> dict[Purpose, int]:
    """Bytes that a training needs on each disk."""
    weights = given.weights or 0
    return {
        Purpose.STATE: _CHECKPOINTS * weights + _RUN_BYTES,
        Purpose.DATASETS: given.copied,
        Purpose.MODELS: weights,
    }


def _disk_problems(disks: Mapping[Purpose, Disk], room: Mapping[Purpose, int], floors: Floors) -> Iterator[str]:
    for purposes, disk in _by_device(disks).items():
        yield from _short(purposes, disk, max(floors.disk, sum(room.get(purpose, 0) for purpose in purposes)))


def _short(purposes: Iterable[Purpose], disk: Disk, needed: int) -> Iterator[str]:
    if disk.problem:
        yield f"the disk of {disk.path} is out of reach: {disk.problem}"
    elif disk.free < needed:
        why = ", ".join(purposes)
        yield f"needs {_up(needed)} GiB on the disk of {disk.path} ({why}), {_down(disk.free)} free; make room"


def _by_device(disks: Mapping[Purpose, Disk]) -> dict[tuple[Purpose, ...], Disk]:
    """Each filesystem once, with all that it is needed for."""
    found: dict[int | Purpose, tuple[tuple[Purpose, ...], Disk]] = {}
    for purpose, disk in disks.items():
        # Of one that is out of reach nobody knows which it is.
        key = purpose if disk.problem else disk.device
        purposes, first = found.get(key, ((), disk))
        found[key] = ((*purposes, purpose), first)
    return dict(found.values())


# What a training begins with.


def _missing(given: Inputs) -> str:
    return _missing_model(given) or _missing_data(given)


def _missing_model(given: Inputs) -> str:
    if given.weights is None:
        return f"the base model {given.model} is not there: put it among the models or into the root"
    return ""


def _missing_data(given: Inputs) -> str:
    if given.images:
        return ""
    if given.dataset is not None:
        return f"the dataset {given.dataset} is not there, or has no images to learn from"
    return "there are no validated images to learn from yet"


# Figures: what is needed is rounded up, what is there down, so that the two never look as if it were enough.


def _up(amount: int) -> str:
    return f"{math.ceil(amount * 10 / _GIB) / 10:.1f}"


def _down(amount: int) -> str:
    return f"{math.floor(amount * 10 / _GIB) / 10:.1f}"
