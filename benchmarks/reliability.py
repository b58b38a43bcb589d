"""What was done to it, how often, and what came of it: ``python -m benchmarks.reliability [--full] [--write]``.

Runs the tests that kill, cut the power, tear, fill up and flood, as often as ``make test`` does or, with ``--full``, as
``make soak`` does (hours), and counts. Then the times that an interruption costs. ``--write`` puts the tables into
docs/reliability.md. Ends with 1 if anything was found; then nothing is written.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import daemon
from benchmarks.measure import Figure, machine
from tests.installations import Installation, installation
from tests.tallies import VARIABLE
from tests.waiting import until

CODE: Final = Path(__file__).parents[1]
PAGE: Final = CODE / "docs" / "reliability.md"
BEGIN: Final = "<!-- figures: python -m benchmarks.reliability --write -->"
END: Final = "<!-- end of figures -->"
SOAK: Final = "tests/soak"
TESTS: Final = ("tests/faults", "tests/powerloss", "tests/unit/test_simulation.py")
WHICH: Final = "random or power or simulation or anything or every_step"
#: As `make soak` has it; what stands in the environment goes before.
FULL: Final = {
    "AZAION_SOAK_S": "600",
    "AZAION_SOAK_ROUNDS": "6",
    "AZAION_KILLS": "5000",
    "AZAION_SWEEP": "1",
    "AZAION_FUZZ": "1000000",
    "AZAION_SIMULATIONS": "10000",
    "AZAION_POWER": "20",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("--full", action="store_true", help="as often as `make soak`: hours")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/reliability.md")
    arguments = parser.parse_args()
    told = machine()
    counted = faults(FULL if arguments.full else {})
    if counted is None:
        print("something was found: nothing is written", file=sys.stderr)
        return 1
    chosen = ", ".join(f"{name}={os.environ[name]}" for name in FULL if name in os.environ)
    how_often = f" As often as {chosen} say." if chosen else ""
    text = "\n\n".join((f"{told}; {time.strftime('%Y-%m-%d', time.gmtime())}.{how_often}", counted, times()))
    print(text)
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    return 0


def faults(scale: dict[str, str]) -> str | None:
    """What was tried, as a table; None if a test has failed."""
    with tempfile.TemporaryDirectory(prefix="az-") as folder:
        tallies = Path(folder, "tallies")
        environment = {**scale, **os.environ, VARIABLE: str(tallies)}
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--override-ini", "timeout=0"]
        # By itself, since it measures.
        alone = [*argv, SOAK]
        others = [*argv, *TESTS, "-k", WHICH, *([] if scale else ["--numprocesses", "2"])]
        for each in (alone, others):
            if subprocess.run(each, cwd=CODE, env=environment, check=False).returncode != 0:
                return None
        lines = [json.loads(line) for line in tallies.read_text(encoding="utf-8").splitlines()]
    found: defaultdict[tuple[str, str], int] = defaultdict(int)
    took: defaultdict[str, list[float]] = defaultdict(list)
    for line in lines:
        if "what" in line:
            took[line["what"]] += line["ms"]
        else:
            found[line["fault"], line["held"]] += line["times"]
    rows = [f"| {fault} | {times:,} | {held} | 0 |" for (fault, held), times in sorted(found.items())]
    told = ["| What was done | Times | What was held against it | Violations |", "|---|---|---|---|", *rows]
    figures = [Figure(name=what, values=tuple(values), goal="") for what, values in sorted(took.items())]
    return "\n".join([*told, "", "While all of it went on at once:", "", _table(figures)])


def times() -> str:
    """What an interruption costs where nothing else happens, as a table."""
    with installation() as server:
        server.layout.state.mkdir()
        server.start()
        figures = [daemon.readoption(server, 20)]
    return f"Where nothing else happens:\n\n{_table([*figures, *restarts(10)])}"


def restarts(runs: int) -> list[Figure]:
    """Of a consumer that is killed for the first time; afterwards its daemon waits longer each time."""
    new, consuming = [], []
    for _ in range(runs):
        with installation() as server:
            server.start()
            killed = until(partial(_consuming, server), "it consumes")
            os.kill(killed, signal.SIGKILL)
            began = time.perf_counter()
            until(partial(_other, server, killed), "there is a new one")
            new.append(1000 * (time.perf_counter() - began))
            until(partial(_consuming, server, killed), "the new one consumes")
            consuming.append(1000 * (time.perf_counter() - began))
    return [
        Figure(name="killed consumer to a new process", values=tuple(new), goal=""),
        Figure(name="killed consumer to one that consumes", values=tuple(consuming), goal=""),
    ]


def _other(server: Installation, killed: int) -> bool:
    return server.client.get("/v1/consumer")["pid"] not in {None, killed}


def _consuming(server: Installation, killed: int | None = None) -> int:
    """The PID of a consumer that consumes and is not the killed one; else 0."""
    told = server.client.get("/v1/consumer")
    return int(told["pid"] or 0) if told.get("state") == "consuming" and told["pid"] != killed else 0


def _table(figures: list[Figure]) -> str:
    rows = [f"| {figure.name} | {len(figure.values)} | {figure.p50:.0f} | {figure.p99:.0f} |" for figure in figures]
    return "\n".join(["| Time | Runs | p50, ms | p99, ms |", "|---|---|---|---|", *rows])


if __name__ == "__main__":
    sys.exit(main())
