"""What the machine was like in the last hours: a few figures every few seconds, in a fixed amount of memory."""

import asyncio
import math
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from supervisor import resources
from supervisor.consumer import ConsumerRoom
from supervisor.gpus import Gpu, Probe, Reading
from supervisor.jobs.scheduler import CPU
from supervisor.jobs.store import Store

#: Seconds between two samples.
INTERVAL_S: Final = 10.0
#: For so long a sample is kept, in seconds.
SPAN_S: Final = 6 * 3600.0
#: What was learnt of an idle GPU counts for so long. Nobody asks it only for this: asking costs a process each time.
_IDLE_S: Final = 90.0
_MEMINFO: Final = Path("/proc/meminfo")

#: What there is without any GPU: lag in messages and in seconds, messages a second, percent of the memory in use, and
#: how late the daemon's loop was, in seconds.
MACHINE: Final = ("lag", "lag_s", "rate", "memory_percent", "loop_late_s")
#: What there is of each GPU, after its name: percent of its time, percent of its memory, degrees Celsius.
GPU: Final = ("busy_percent", "memory_percent", "celsius")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a `Ring` gives: as many figures in each series as there are moments; None where nobody knew."""

    moments: list[float]
    series: dict[str, list[float | None]]


class Ring:
    """The newest samples of several series. It takes all its memory at once, and never more.

    Args:
        names: of the series.
        capacity: how many samples are kept.
    """

    def __init__(self, names: Sequence[str], capacity: int) -> None:
        self._capacity = capacity
        self._moments = array("d", [math.nan]) * capacity
        self._series = {name: array("d", [math.nan]) * capacity for name in names}
        self._added = 0

    def add(self, moment: float, values: Mapping[str, float | None]) -> None:
        """Keep a sample, in the place of the oldest. ``moment`` never goes back."""
        place = self._added % self._capacity
        self._moments[place] = moment
        for name, series in self._series.items():
            value = values.get(name)
            series[place] = math.nan if value is None else round(value, 3)
        self._added += 1

    def since(self, moment: float) -> Samples:
        """The samples after ``moment``, the oldest one first."""
        first = max(0, self._added - self._capacity)
        places = [number % self._capacity for number in range(first, self._added)]
        places = [place for place in places if self._moments[place] > moment]
        return Samples(
            moments=[self._moments[place] for place in places],
            series={name: [_known(series[place]) for place in places] for name, series in self._series.items()},
        )


class HistoryRoom:
    """Takes the samples.

    Args:
        devices: those that the runner hands out.
        clock: seconds since boot, suspended ones too: they never go back, and a suspended machine is a gap.
    """

    def __init__(
        self,
        *,
        store: Store,
        consumer: ConsumerRoom,
        probe: Probe,
        devices: Sequence[str],
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._store = store
        self._consumer = consumer
        self._probe = probe
        self._gpus = [device for device in devices if device != CPU]
        self._clock = clock
        names = (*MACHINE, *(f"{gpu}.{name}" for gpu in self._gpus for name in GPU))
        self._ring = Ring(names, int(SPAN_S / INTERVAL_S))

    async def run(self) -> None:
        """Take samples for ever."""
        loop, late = asyncio.get_running_loop(), 0.0
        while True:
            values = machine_values(self._consumer.status(), resources.memory(_MEMINFO), late)
            self._ring.add(self._clock(), values | gpu_values(self._gpus, await self._reading()))
            due = loop.time() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            late = max(0.0, loop.time() - due)

    def since(self, moment: float) -> Samples:
        """The samples after a wall-clock time, with wall-clock times as the clock goes now."""
        shift = time.time() - self._clock()
        found = self._ring.since(moment - shift)
        return Samples(moments=[round(each + shift, 3) for each in found.moments], series=found.series)

    async def _reading(self) -> Reading | None:
        if not self._gpus:
            return None
        leased = not self._store.leases().keys().isdisjoint(self._gpus)
        return await self._probe.glance() if leased else self._probe.known(0.0, _IDLE_S)


def machine_values(
    consumer: Mapping[str, Any], memory: resources.Memory | None, late: float
) -> dict[str, float | None]:
    """The figures of `MACHINE`."""
    return {
        "lag": _number(consumer.get("lag")),
        "lag_s": _number(consumer.get("lag_s")),
        "rate": _number(consumer.get("rate")),
        "memory_percent": None if memory is None else 100 * (1 - memory.available / memory.total),
        "loop_late_s": late,
    }


def gpu_values(gpus: Sequence[str], reading: Reading | None) -> dict[str, float | None]:
    """The figures of `GPU`, for each of these."""
    values: dict[str, float | None] = {}
    for name in gpus:
        gpu = reading.gpu(int(name.removeprefix("gpu"))) if reading is not None else None
        figures = _figures(gpu) if gpu is not None else (None, None, None)
        values.update(zip((f"{name}.{figure}" for figure in GPU), figures, strict=True))
    return values


def _figures(gpu: Gpu) -> tuple[float | None, float | None, float | None]:
    known = gpu.total is not None and gpu.free is not None and gpu.total > 0
    memory = 100 * (1 - gpu.free / gpu.total) if known and gpu.free is not None and gpu.total is not None else None
    return gpu.busy_percent, memory, gpu.temperature


def _number(value: object) -> float | None:
    """A figure from a file that another process writes."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
