"""From an exception to the exit code that names its cause."""

import errno
import sys
from collections.abc import Iterator
from typing import Final

from azaion.progress import ExitCode
from workers.training.errors import Interrupted, TrainingError

_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})

#: How torch says that a file could not be written.
_TORCH_CANNOT_WRITE: Final = "PytorchStreamWriter failed"

_DISK_ADVICE: Final = "the disk failed us: {}. Free some space; the last checkpoint is whole"

#: How torch says that memory ran out where it has no type for it.
_OUT_OF_RAM: Final = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "killed by signal: Killed",
    "out of shared memory",
)


def classify(error: BaseException) -> tuple[ExitCode, str]:
    """The exit code of what ended the run, and one line about it."""
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return ExitCode.INTERRUPTED, "asked to stop"
    # What the machine lacks comes first: a library may have wrapped it into an error of its own.
    for cause in _chain(error):
        if resource := _resource(cause):
            return resource
    for cause in _chain(error):
        if isinstance(cause, TrainingError):
            return cause.exit_code, one_line(cause)
    return ExitCode.SOFTWARE, f"{type(error).__name__}: {one_line(error)}; the traceback is in the job's log"


def one_line(error: BaseException) -> str:
    """The message of an exception on one line."""
    return " ".join(str(error).split())


def _resource(error: BaseException) -> tuple[ExitCode, str] | None:
    if isinstance(error, OSError) and error.errno in _DISK:
        return ExitCode.DISK, _DISK_ADVICE.format(one_line(error))
    if isinstance(error, MemoryError):
        return ExitCode.OOM_RAM, "out of memory: use fewer workers, a smaller batch, or no cache"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return ExitCode.OOM_GPU, f"out of GPU memory: use a smaller batch or imgsz ({one_line(error)})"
    if isinstance(error, RuntimeError) and _TORCH_CANNOT_WRITE in str(error):
        return ExitCode.DISK, _DISK_ADVICE.format(one_line(error))
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_RAM):
        return ExitCode.OOM_RAM, f"out of memory: use fewer workers, a smaller batch, or no cache ({one_line(error)})"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
