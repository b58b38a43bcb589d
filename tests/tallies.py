"""What was tried and did no harm, counted: for whoever runs the tests, and for docs/reliability.md."""

import json
import os

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
    if path := os.environ.get(VARIABLE):
        line = json.dumps({"fault": fault, "times": times, "held": held})
        with open(path, "a", encoding="utf-8") as stream:  # noqa: PTH123 - one write, from any process
            stream.write(f"{line}\n")
