"""What the daemon reads of a worker's own files. Any of them may be absent, torn or hostile, and however large."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

import msgspec

from azaion import files
from azaion.layout import AttemptFolder
from azaion.progress import Progress

#: What is read of an end of a file: it is read in the event loop.
_MAX_BYTES: Final = 64 << 10
#: No training has more epochs; a larger number is not one of ours.
_MAX_EPOCHS: Final = 1_000_000
#: Nor is one that is no number of 64 bits: it could not be told further.
_MAX_NUMBER: Final = 1 << 63

_progress = msgspec.json.Decoder(Progress)


def progress(folder: AttemptFolder) -> dict[str, Any]:
    """How far the worker says it is; {} if it has said nothing that can be read."""
    try:
        told = _progress.decode(files.read_small(folder.progress, limit=_MAX_BYTES))
    except (OSError, files.FileError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    counts = (told.epoch, told.epochs, told.batch, told.batches)
    return asdict(told) if all(0 <= count < _MAX_NUMBER for count in counts) else {}


def epochs_told(folder: AttemptFolder) -> tuple[int, int]:
    """The first and the last epoch (from 1) that the attempt has finished and checkpointed; zeros for none."""
    try:
        with files.opened(folder.metrics) as stream:
            first = stream.read(_MAX_BYTES)
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _MAX_BYTES))
            last = stream.read(_MAX_BYTES)
    except (OSError, files.FileError):
        return 0, 0
    return _first_told(first.splitlines()), _first_told(reversed(last.splitlines()))


def _first_told(lines: Iterable[bytes]) -> int:
    for line in lines:
        try:
            # A metric may be NaN, which msgspec takes for no JSON.
            epoch = json.loads(line)["epoch"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if type(epoch) is int and 0 < epoch <= _MAX_EPOCHS:
            return epoch
    return 0
