"""The power is cut at every moment of real runs; what the product then finds on the disk must keep its promises.

AZAION_POWER tries so many times as many states of each run, AZAION_SEED replays their choice.
"""

import json
import os
import random
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from azaion import config, models, promotions
from azaion.annotations import offset as offsets
from azaion.annotations.spool import Spool
from azaion.errors import AzaionError
from supervisor import processes
from supervisor.releases import etc
from supervisor.releases.model import Verdict
from tests.annotation_messages import expected, found, quarantined
from tests.installations import Installation
from tests.powerloss.disk import Disk, State
from tests.powerloss.runs import BAD, HELD, RELEASES, STORY, WEIGHTS, deployer_of, layout_of, replay
from tests.powerloss.trace import Call, strace, traced
from tests.tallies import tally

CODE = Path(__file__).parents[2]
SEED = int(os.environ.get("AZAION_SEED", time.time_ns() % 1_000_000))
#: Of each moment.
VARIANTS = 24

pytestmark = [
    pytest.mark.timeout(0 if "AZAION_POWER" in os.environ else 240),
    pytest.mark.skipif(strace() is None, reason="needs strace: apt-get install strace"),
]


@dataclass(frozen=True)
class Recording:
    """A run: where it took place, and all that it did. Paths stand in files, so it is rebuilt at the same place."""

    folder: Path
    calls: list[Call]

    def disk(self, left_out: Callable[[Call], bool] = lambda _: False) -> Disk:
        """What the disk saw of it; but for what is left out."""
        disk = Disk(str(self.folder), marks_path=str(self.folder / "marks"))
        for call in self.calls:
            if not left_out(call):
                disk.do(call)
        return disk


@pytest.fixture(scope="module")
def recordings() -> Iterator[Callable[[str], Recording]]:
    """Each run, made once. In memory, if there is room."""
    memory = Path("/dev/shm")  # noqa: S108 - folders of our own in it
    room = memory.is_dir() and shutil.disk_usage(memory).free > 256 << 20
    made: dict[str, Recording] = {}

    def record(run: str) -> Recording:
        if run not in made:
            folder = Path(tempfile.mkdtemp(prefix="az-", dir=memory if room else None))
            environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CODE), "PYTHONDONTWRITEBYTECODE": "1"}
            argv = [sys.executable, "-m", "tests.powerloss.runs", run, str(folder)]
            made[run] = Recording(folder, traced(argv, environment, folder))
        return made[run]

    yield record
    for recording in made.values():
        shutil.rmtree(recording.folder, ignore_errors=True)


def after_a_cut(disk: Disk, folder: Path, count: int) -> Generator[tuple[State, list[str]]]:
    """States of the disk, each rebuilt in ``folder`` while it is looked at, with what had been told by then.

    So many of all that there are, by chance, and none twice.
    """
    dice = random.Random(SEED)
    moments = [dice.randint(1, disk.now) for _ in range(count)] if count < disk.now else range(1, disk.now + 1)
    variants = max(1, count // disk.now)
    seen: set[int] = set()
    for moment in sorted(moments):
        told = [mark for when, mark in disk.marks if when <= moment]
        some = list(disk.states(moment, dice, VARIANTS))
        for state in dice.sample(some, min(variants, len(some))):
            key = hash((len(told), *state.files.items(), *state.links.items(), *state.folders))
            if key in seen:
                continue
            seen.add(key)
            shutil.rmtree(folder)
            state.write(folder)
            try:
                yield state, told
            except GeneratorExit:
                print(f"AZAION_SEED={SEED}, the power cut at {moment} of {disk.now}, told: {told}")
                print(*sorted(state.files), *state.links.items(), sep="\n")
                raise
    print(f"AZAION_SEED={SEED}: {len(seen)} states of {disk.now} moments")


# What must be so, whenever the power was cut.


def every_annotation_is_there_or_still_to_be_read(folder: Path, _: State, __: list[str]) -> None:
    """The consumer: what lies before the offset is whole on the disk, and what comes after it is in the stream."""
    layout, events = layout_of(folder), [event for group in STORY for event in group]
    # What an installation and a daemon do at their start.
    Installation(folder)
    config.make_folders(layout)
    end = Spool(layout.spool).end()
    position = offsets.read(layout.offset)
    first = position.offset if position is not None else 0
    assert first <= end
    replay(layout, first)
    assert found(layout) == expected(event for event in events[:end] if event is not BAD)
    assert list(quarantined(layout)) == ([str(events.index(BAD))] if BAD in events[:end] else [])


def a_message_that_was_acknowledged_is_there(folder: Path, _: State, told: list[str]) -> None:
    stream, events = Spool(layout_of(folder).spool), [event for group in STORY for event in group]
    end = stream.end()
    assert end >= sum(map(int, told))
    read = stream.read(0, count=100, size=1 << 20)
    assert [(message.status, bytes(message.body)) for message in read] == [
        (event.status, event.body) for event in events[:end]
    ]


def the_model_in_use_is_whole_and_the_one_that_was_told(folder: Path, _: State, told: list[str]) -> None:
    layout, order = layout_of(folder), [None, "first", "second", "first"]
    name = models.current(layout)
    weights = layout.current_model.read_bytes() if name is not None else None
    used = next((key for key, data in WEIGHTS.items() if data == weights), None)
    assert (used is None) is (weights is None)
    assert used in order[len(told) : len(told) + 2]
    promotions.read(layout)
    for model in models.load_all(layout):
        assert not models.damage(model)


def what_is_started_at_the_boot_is_one_release_and_proven(folder: Path, _: State, told: list[str]) -> None:
    """Link and units are of one release: of the one that was told, or of the next if it has proven itself."""
    if not told:
        return
    deployer = deployer_of(folder)
    deployer.recover()
    shelf, order = deployer.shelf, [*RELEASES, RELEASES[0], RELEASES[0]]
    assert shelf.current in order[len(told) - 1 : len(told) + 1]
    assert not etc.changes(shelf.server, shelf.server.release(shelf.current or ""))
    last = shelf.deployments()[-1]
    assert last.verdict is not Verdict.UNDER_WAY
    assert shelf.current == (last.target if last.verdict is Verdict.KEPT else last.origin)


def a_job_that_was_acknowledged_ends_and_stays_as_it_was_told(folder: Path, state: State, told: list[str]) -> None:
    """A real daemon, as after a reboot."""
    boot, other = processes.boot_id().encode(), str(uuid.UUID(int=SEED)).encode()
    for path, data in state.files.items():
        if path.endswith(".json"):
            (folder / path).write_bytes(data.replace(boot, other))
    server = Installation(folder)
    server.start()
    try:
        wanted: dict[int, str | None] = {}
        for each in map(json.loads, told):
            wanted[each["job"]] = each.get("state")
        assert wanted.keys() <= {job["id"] for job in server.client.get("/v1/jobs")}
        for number, was in wanted.items():
            # One is held until somebody cancels it.
            job = server.job(number) if number == HELD else server.wait(number)
            assert job["state"] == was or was is None
    finally:
        server.close()


#: How many states are tried, and the check of each.
CHECKS: dict[str, tuple[int, Callable[[Path, State, list[str]], None]]] = {
    "consumer": (300, every_annotation_is_there_or_still_to_be_read),
    "deaths": (150, every_annotation_is_there_or_still_to_be_read),
    "spool": (200, a_message_that_was_acknowledged_is_there),
    "promotion": (200, the_model_in_use_is_whole_and_the_one_that_was_told),
    "release": (200, what_is_started_at_the_boot_is_one_release_and_proven),
    "daemon": (12, a_job_that_was_acknowledged_ends_and_stays_as_it_was_told),
}


def try_states(recording: Recording, disk: Disk, run: str, count: int) -> int:
    """Check so many states of what the disk saw of a run; returns how many there were."""
    _, check = CHECKS[run]
    tried = 0
    with closing(after_a_cut(disk, recording.folder, count)) as states:
        for tried, (state, told) in enumerate(states, 1):  # noqa: B007 - it is returned
            check(recording.folder, state, told)
    return tried


@pytest.mark.parametrize("run", CHECKS)
def test_the_power_may_be_cut_at_any_moment(recordings: Callable[[str], Recording], run: str) -> None:
    recording, (count, check) = recordings(run), CHECKS[run]
    tried = try_states(recording, recording.disk(), run, count * int(os.environ.get("AZAION_POWER", "1")))
    tally(f"state of the disk after a power cut: {run}", tried, check.__name__.replace("_", " "))


def of_folders(call: Call) -> bool:
    return call.name == "fsync" and "." not in call.path.rpartition("/")[2]


def of_files(call: Call) -> bool:
    return call.name == "fsync" and not of_folders(call)


def of_the_filesystem(call: Call) -> bool:
    return call.name == "sync"


@pytest.mark.parametrize(
    ("run", "flushes"),
    [
        ("consumer", of_folders),
        ("consumer", of_files),
        ("consumer", of_the_filesystem),
        ("spool", of_folders),
        ("spool", of_files),
        ("promotion", of_folders),
        ("promotion", of_files),
        ("release", of_folders),
        ("release", of_files),
        ("daemon", of_files),
    ],
)
def test_no_flush_can_be_left_out(
    recordings: Callable[[str], Recording], run: str, flushes: Callable[[Call], bool]
) -> None:
    """Were they not made, this would be found: so they are needed, and these tests are worth something."""
    recording, (count, _) = recordings(run), CHECKS[run]
    with pytest.raises((AssertionError, AzaionError, OSError)):
        try_states(recording, recording.disk(left_out=flushes), run, 10 * count)
