"""What machines are told of, at one moment: facts, in no format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor.gpus import Reading
from supervisor.health.model import Finding
from supervisor.jobs.tally import Tally
from supervisor.units.model import UnitState


@dataclass(frozen=True, kw_only=True)
class Space:
    """A disk in use.

    Attributes:
        path: what it is used for: ``root``, ``state``.
        size: in bytes.
        free: bytes that an ordinary user may still write.
    """

    path: str
    size: int
    free: int


@dataclass(frozen=True, kw_only=True)
class Running:
    """A job that has a device.

    Attributes:
        device: the first of them.
        progress: what its worker has told; {} if nothing.
        still_s: for how many seconds it has been seen to stand still; None if nobody knows.
    """

    device: str
    job: int
    kind: str
    progress: Mapping[str, Any]
    still_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class ServiceFacts:
    """A service that is declared."""

    name: str
    state: UnitState
    restarts: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that is told, at one moment.

    Attributes:
        consumer: what the consumer says of itself, and how its process is.
        leases: device to its job, of every device that there is; None where it is free.
        reading: what NVML has told; None on a machine without a GPU.
        loop_late_s: the longest that the daemon's loop was late in the last minute.
    """

    version: str
    tally: Tally
    running: Sequence[Running] = ()
    leases: Mapping[str, int | None]
    reading: Reading | None = None
    spaces: Sequence[Space] = ()
    consumer: Mapping[str, Any]
    services: Sequence[ServiceFacts] = ()
    findings: Sequence[Finding] = ()
    alerts: int = 0
    events: int = 0
    maintenance: bool = False
    loop_late_s: float = 0.0
