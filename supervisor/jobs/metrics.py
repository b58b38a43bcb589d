"""What the daemon reads of a worker's own files. Any of them may be absent, torn or hostile."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

import msgspec

from azaion import files
from azaion.layout import AttemptFolder
from azaion.progress import Progress

#: No training has more epochs; a larger number is not one of ours.
_MAX_EPOCHS: Final = 1_000_000
#: A million epochs' worth of lines.
_MAX_BYTES: Final = 1 << 30


def progress(folder: AttemptFolder) -> dict[str, Any]:
    """How far the worker says it is; {} if it has said nothing that can be read."""
    try:
        return asdict(msgspec.convert(files.read_json(folder.progress), Progress))
    except (OSError, files.FileError, msgspec.ValidationError):
        return {}


def epochs_told(folder: AttemptFolder) -> tuple[int, int]:
    """The first and the last epoch (from 1) that the attempt has finished and checkpointed; zeros for none."""
    try:
        lines = files.read_small(folder.metrics, limit=_MAX_BYTES).splitlines()
    except (OSError, files.FileError):
        return 0, 0
    return _first_told(lines), _first_told(reversed(lines))


def _first_told(lines: Iterable[bytes]) -> int:
    for line in lines:
        try:
            epoch = json.loads(line)["epoch"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(epoch, int) and 0 < epoch <= _MAX_EPOCHS:
            return epoch
    return 0
