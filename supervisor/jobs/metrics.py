"""What the daemon reads of a worker's own files. Any of them may be absent, torn or hostile."""

import json
from typing import Any

from azaion import files
from azaion.layout import AttemptFolder


def progress(folder: AttemptFolder) -> dict[str, Any]:
    """How far the worker says it is; {} if it has said nothing that can be read."""
    try:
        return files.read_json(folder.progress)
    except (OSError, files.FileError):
        return {}


def epochs_done(folder: AttemptFolder) -> int:
    """The last epoch (from 1) that the attempt has finished and checkpointed; 0 for none."""
    try:
        lines = folder.metrics.read_bytes().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            epoch = json.loads(line)["epoch"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(epoch, int) and epoch > 0:
            return epoch
    return 0
