"""``python -m benchmarks [--quick]``: every figure of docs/performance.md, with the machine that made it."""

import argparse

from benchmarks import daemon, training
from benchmarks.measure import machine
from supervisor.commands.text import table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs: whether it works, not what it costs")
    arguments = parser.parse_args()
    print(machine())
    figures = daemon.run(quick=arguments.quick) + training.run(quick=arguments.quick)
    print(table([["FIGURE", "RUNS", "P50", "P99", "GOAL"], *(figure.row() for figure in figures)]))


if __name__ == "__main__":
    main()
