"""Timing whole commands and describing the machine that did it."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured, in seconds unless the name says otherwise."""

    name: str
    values: tuple[float, ...]
    goal: str
    unit: str = "ms"

    @property
    def p50(self) -> float:
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]

    def row(self) -> list[str]:
        return [
            self.name,
            str(len(self.values)),
            f"{self.p50:.4g} {self.unit}",
            f"{self.p99:.4g} {self.unit}",
            self.goal,
        ]


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}, load {load:.1f} at the start"


def time_command(argv: Sequence[str], environment: dict[str, str], cwd: str) -> float:
    """Milliseconds from the exec of a command to its end, as whoever started it sees them."""
    began = time.perf_counter()
    subprocess.run(argv, env=environment, cwd=cwd, stdout=subprocess.DEVNULL, check=True)
    return 1000 * (time.perf_counter() - began)


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:  # noqa: PTH123 - as short as it is
        fields = stream.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/status", encoding="utf-8") as stream:  # noqa: PTH123 - the same
        return next(int(line.split()[1]) / 1024 for line in stream if line.startswith("VmRSS"))
