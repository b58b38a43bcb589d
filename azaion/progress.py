"""What a worker tells the daemon: how far it is, and its last word."""

import time
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

from azaion import files
from azaion.layout import AttemptFolder


class ExitCode(IntEnum):
    """How a worker says why it ended; ``supervisor/jobs/model.py`` maps each to a cause.

    The numbers follow sysexits.h where it has one. 75 is "temporary failure; run me again".
    """

    SUCCEEDED = 0
    DATA = 65
    NO_INPUT = 66
    UNREACHABLE = 69
    SOFTWARE = 70
    DISK = 74
    INTERRUPTED = 75
    PROTOCOL = 76
    REFUSED = 77
    CONFIG = 78
    CHECKPOINT = 80
    OOM_GPU = 81
    OOM_RAM = 82
    PARITY = 83


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a worker is. Epochs and batches count from 1; 0 means that none has begun."""

    phase: str
    epoch: int = 0
    epochs: int = 0
    batch: int = 0
    batches: int = 0
    eta_s: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    gpu_mem_gb: float | None = None


def write_progress(folder: AttemptFolder, progress: Progress) -> None:
    """Tell how far we are. Atomic, not durable: it is of no use after a power loss."""
    files.write_json(folder.progress, {**asdict(progress), "updated": time.time()}, durable=False)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A worker's last word, so that a killed shim does not lose the outcome.

    Attributes:
        nonce: that of the attempt's spec; a result with another one belongs to another attempt.
        exit_code: what the worker exits with right after.
        message: one line for the user.
        resumed_from_epoch: how many epochs the attempt found done, None if it began afresh.
        verified_epoch: how many epochs lie in a verified checkpoint at the end.
        batch: how many images a batch had at the end, which may be fewer than the job asked for.
        artifacts: what was made, name to path or figure.
    """

    nonce: str
    exit_code: int
    message: str = ""
    resumed_from_epoch: int | None = None
    verified_epoch: int | None = None
    batch: int | None = None
    artifacts: dict[str, Any] = field(default_factory=dict)


def write_result(folder: AttemptFolder, result: Result) -> None:
    """Write the last word, durably; the worker exits right after."""
    files.write_json(folder.result, asdict(result))
