"""Killed at every step of a removal: everything is whole or gone, and the next round finishes what was begun."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest

from tests import aged
from tests.installations import Installation, installation
from tests.waiting import until

STEPS = [
    "retention.recorded",
    "retention.renamed",
    "retention.settled",
    "retention.deleting",
    "retention.deleted",
]


@pytest.fixture
def server() -> Iterator[Installation]:
    with installation(RETENTION_RUN_COUNT="0", RETENTION_LOG_MB="1") as made:
        yield made


def _is_whole(run: Path) -> bool:
    return len([path for path in run.rglob("*") if path.is_file()]) == 4


def _gone_or(whole: Callable[[Path], bool], paths: Iterable[Path]) -> None:
    """Each is whole, unless it is taken out before or while it is looked at."""
    for path in paths:
        with suppress(FileNotFoundError):
            assert whole(path) or not path.exists()


class Things:
    """Two jobs, two datasets and two copies that are due, and their likes that are not; a log to be cut."""

    def __init__(self, server: Installation) -> None:
        self.server = server
        server.start()
        first, second, self.young = (aged.ended_job(server) for _ in range(3))
        plain = aged.ended_job(server, run=False)
        self.loud = aged.ended_job(server, run=False, script="yes | head -c 3000000")
        self.runs = {number: aged.folder(server, number) / "run" for number in (first, second)}
        self.plain = {plain: aged.folder(server, plain)}
        server.stop()
        aged.age_jobs(server, 40, first, second, self.loud)
        aged.age_jobs(server, 100, plain)
        self.kept = [aged.dataset(server, f"azaion-2030-01-0{number}") for number in (1, 2, 3)]
        self.datasets = [aged.dataset(server, f"azaion-2020-01-0{number}") for number in (1, 2)]
        self.copies = [aged.corrupted(server, f"{number}.jpg") for number in (1, 2)]

    def check(self) -> None:
        """Nothing is half there, and what is not due is as it was."""
        young = aged.folder(self.server, self.young) / "run"
        assert all(map(aged.whole, self.kept))
        assert _is_whole(young)
        _gone_or(aged.whole, self.datasets)
        _gone_or(_is_whole, self.runs.values())
        _gone_or(lambda copy: len(list(copy.iterdir())) == 2, self.copies)

    def check_told(self) -> None:
        """Of what a job has lost, its record tells."""
        for number, path in (self.runs | self.plain).items():
            if not path.exists():
                assert self.server.json("show", str(number))["removed"]

    def over(self) -> bool:
        due = [*self.runs.values(), *self.plain.values(), *self.datasets, *self.copies]
        return not any(os.path.lexists(path) for path in (*due, *trashed(self.server)))


def trashed(server: Installation) -> list[Path]:
    places = [server.layout.trash(folder) for folder in server.layout.prunable]
    return [entry for place in places if place.exists() for entry in place.iterdir()]


@pytest.mark.parametrize(("step", "nth"), [*product(STEPS, [1, 3, 5, 6]), ("retention.cut", 1)])
def test_killed_at_a_step(server: Installation, step: str, nth: int) -> None:
    things = Things(server)
    daemon = server.launch(f"{step}={nth}:kill")
    # The trash of each of three folders is settled once; seven things are due.
    most = {"retention.settled": 3}.get(step, 7)
    until(lambda: daemon.poll() is not None or (nth > most and things.over()), f"the daemon reaches {step}")
    if nth <= most:
        assert daemon.poll() == -signal.SIGKILL
    else:
        server.stop()
    things.check()
    server.start()
    things.check()
    things.check_told()
    until(things.over, "everything that was due is gone")
    things.check()
    things.check_told()
    log = server.attempt(things.loud).log
    until(lambda: log.stat().st_blocks * 512 < 300_000, "the log is cut")
    assert server.ctl("logs", str(things.loud)).stdout.endswith("y\ny\n")


@pytest.mark.parametrize("step", ["retention.recorded", "retention.deleting"])
def test_a_disk_that_fails_once(server: Installation, step: str) -> None:
    """An error where a kill would be: the daemon lives on, says so, and the next round does it."""
    things = Things(server)
    server.start(f"{step}=1:error")
    until(lambda: server.json("retention")["last"], "the first round is over")
    server.ctl("retention", "run")
    until(things.over, "everything that was due is gone")
    things.check()
    things.check_told()
