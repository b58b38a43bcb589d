"""Killed at every step of a retry and of a drop: the tree is as if each message had come in time, or it is kept."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from azaion import files
from azaion.annotations.quarantine import Quarantine
from azaion.annotations.stream import Message
from tests.annotation_messages import Event, created, deleted, edited, expected, found, messages, validated
from tests.consumers import Consuming, consuming
from tests.tallies import tally
from tests.waiting import until

#: Between them, tried again, these reach every step: new files, a move, a deletion, and one that stays.
EVENTS = [
    created("a", 1),
    created("b", 2),
    edited("a", 3, 20, ".png"),
    validated("b"),
    deleted("a"),
    edited("c"),
]
WITHHELD = (0, 2, 3, 4, 5)

STEPS = [
    "quarantine.retry.claimed",
    "store.files.written",
    "store.file.renamed",
    "store.file.moved",
    "store.files.settled",
    "store.record.renamed",
    "store.records.written",
    "quarantine.retry.applied",
    "quarantine.removed",
    "quarantine.retry.failed",
    "files.replace.rename",
]

_ACT = """
import sys
from pathlib import Path
from azaion.annotations.quarantine import Quarantine
quarantine = Quarantine(Path(sys.argv[1]))
getattr(quarantine, sys.argv[2])(*[sys.argv[4:]] + ([sys.argv[3]] if sys.argv[2] == "mark" else []))
"""


@pytest.fixture
def root() -> Iterator[Consuming]:
    with consuming() as made:
        yield made


def withheld(root: Consuming) -> Quarantine:
    """All but one of the events lie in quarantine; of the stream that will be consumed."""
    # The stream is there, and longer than what lies in quarantine.
    root.send(Event(30, ()) for _ in EVENTS)
    process = root.start()
    root.consumed(process)
    root.stop(process)
    incarnation = root.spool.incarnation
    assert incarnation is not None
    quarantine = Quarantine(root.layout.quarantine)
    stream = messages(EVENTS)
    for offset in WITHHELD:
        quarantine.put(stream[offset], incarnation, "withheld")
    root.spool.append([(EVENTS[1].status, EVENTS[1].body)])
    return quarantine


def act(root: Consuming, what: str, *names: str, failpoints: str = "") -> int:
    """The daemon's part, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", _ACT, str(root.layout.quarantine), what, "somebody", *names],
        env=root.server.environment(AZAION_FAILPOINTS=failpoints, PYTHONPATH=str(root.server.code)),
        cwd=root.server.code,
        check=False,
    ).returncode


def settled(root: Consuming, quarantine: Quarantine) -> None:
    """A consumer that nothing befalls ends what is asked for."""
    process = root.start()
    root.told(pid=process.pid, offset=root.spool.end())
    until(lambda: not quarantine.marked(), "every retry has ended")
    root.stop(process)


#: `b` was created by the stream, after everything else.
WANTED = expected([EVENTS[0], EVENTS[2], EVENTS[3], EVENTS[4], EVENTS[5], EVENTS[1]])


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("step", STEPS)
def test_the_consumer_is_killed(root: Consuming, step: str, nth: int) -> None:
    quarantine = withheld(root)
    quarantine.mark([str(offset) for offset in WITHHELD], "somebody")
    process = root.start(f"{step}={nth}:kill")
    until(lambda: process.poll() is not None or not quarantine.marked(), "it dies, or there is no more to do")
    process.terminate()
    assert process.wait(20) in {0, -signal.SIGKILL}
    settled(root, quarantine)
    assert found(root.layout) == WANTED
    (left,) = quarantine.entries()
    assert (left.id, left.damage) == ("5", None)
    assert "without an image" in left.reason
    assert left.attempts in {1, 2}
    assert [path.name for path in root.layout.quarantine.iterdir()] == ["5"]


@pytest.mark.parametrize("step", ["quarantine.marked", "files.replace.rename"])
def test_who_asks_is_killed(root: Consuming, step: str) -> None:
    quarantine = withheld(root)
    names = [str(offset) for offset in WITHHELD]
    assert act(root, "mark", *names, failpoints=f"{step}=1:kill") == -signal.SIGKILL
    settled(root, quarantine)
    # Nobody was told that it had been asked for; it was, or it can be asked for again.
    assert act(root, "mark", *names) == 0
    settled(root, quarantine)
    assert found(root.layout) == WANTED
    assert [entry.id for entry in quarantine.entries()] == ["5"]


def test_who_drops_is_killed(root: Consuming) -> None:
    quarantine = withheld(root)
    assert act(root, "drop", "0", "2", failpoints="quarantine.dropped=1:kill") == -signal.SIGKILL
    assert [entry.id for entry in quarantine.entries()] == ["3", "4", "5"]
    # What is left of it goes when the consumer starts.
    assert any(path.name.startswith(files.TEMPORARY_PREFIX) for path in root.layout.quarantine.iterdir())
    settled(root, quarantine)
    assert sorted(path.name for path in root.layout.quarantine.iterdir()) == ["3", "4", "5"]


def test_half_applied_is_not_dropped(root: Consuming) -> None:
    """Killed in the middle of a commit: dropped now, it would leave files that nobody knows."""
    quarantine = withheld(root)
    quarantine.mark(["0"], "somebody")
    process = root.start("quarantine.retry.claimed=1:kill")
    assert process.wait(20) == -signal.SIGKILL
    assert "may be applied in part" in quarantine.drop(["0"])["0"]
    settled(root, quarantine)
    assert "0" not in [entry.id for entry in quarantine.entries()]
    assert found(root.layout)["a"].folder == "data-seed"


def test_random_kills(root: Consuming) -> None:
    """Requests, drops and kills at random under a stream that goes on. AZAION_SEED replays a failure."""
    seed = int(os.environ.get("AZAION_SEED", time.time_ns() % 1_000_000))
    print(f"AZAION_SEED={seed}")
    dice = random.Random(seed)
    incarnation = None
    quarantine = Quarantine(root.layout.quarantine)
    sent: list[Event] = []
    late = [created(f"late-{number}", 100 + number) for number in range(12)]
    for round_ in range(8):
        root.send(more := [created(f"n-{round_}", round_), deleted(f"late-{round_}")])
        sent += more
        if incarnation is None:
            incarnation = root.spool.incarnation
            assert incarnation is not None
            for number, event in enumerate(late):
                quarantine.put(
                    Message(offset=1000 + number, status=event.status, body=event.body), incarnation, "withheld"
                )
        quarantine.mark([str(1000 + dice.randrange(12)) for _ in range(4)], "somebody")
        process = root.start()
        root.told(pid=process.pid)
        time.sleep(dice.uniform(0, 0.2))
        process.kill()
        process.wait()
    quarantine.mark([entry.id for entry in quarantine.entries()], "somebody")
    settled(root, quarantine)
    until(lambda: quarantine.count() == 0, "all are applied")
    # They came after everything, so that what was deleted before is created anew.
    assert found(root.layout) == expected([*sent, *late])
    assert list(root.layout.quarantine.iterdir()) == []
    tally("SIGKILL of the consumer while it retries", 8, "each message counts once, at its own place")
