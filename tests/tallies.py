"""What was tried and did no harm, counted: for whoever runs the tests, and for docs/reliability.md."""

import json
import os
from collections.abc import Mapping, Sequence

#: The file that `python -m benchmarks.reliability` reads.
VARIABLE = "AZAION_TALLY"


def tally(fault: str, times: int, held: str, note: str = "") -> None:
    """Note that something was done so often, and that afterwards all was as it should be.

    Args:
        fault: what was done, in words that stay the same from run to run.
        times: how often.
        held: what was looked at afterwards, in words that stay the same.
        note: what there was of it this time.
    """
    print(f"{times} x {fault}{': ' if note else ''}{note}")
    _note({"fault": fault, "times": times, "held": held})


def measured(what: str, values_ms: Sequence[float]) -> None:
    """Note how long something took each time, in milliseconds."""
    _note({"what": what, "ms": list(values_ms)})


def _note(what: Mapping[str, object]) -> None:
    if path := os.environ.get(VARIABLE):
        with open(path, "a", encoding="utf-8") as stream:  # noqa: PTH123 - one write, from any process
            stream.write(f"{json.dumps(what)}\n")
