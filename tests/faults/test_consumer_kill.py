"""The consumer killed at every step and at random, and refused by its disk: the tree is that of the table."""

import os
import random
import signal
import time
from collections.abc import Iterator

import pytest

from tests.annotation_messages import (
    OPERATOR,
    VALIDATOR,
    Event,
    created,
    deleted,
    edited,
    expected,
    found,
    quarantined,
    validated,
)
from tests.consumers import Consuming, consuming
from tests.waiting import until

STEPS = [
    "quarantine.written",
    "store.files.written",
    "store.file.renamed",
    "store.file.moved",
    "store.files.settled",
    "store.records.prepared",
    "store.records.written",
    "offset.before",
    "files.replace.rename",
    "offset.after",
]


@pytest.fixture
def root() -> Iterator[Consuming]:
    with consuming() as made:
        yield made


def story(number: int) -> list[Event]:
    """Events of three names that between them reach every step."""
    a, b, c = (f"{letter}-{number}" for letter in "abc")
    return [
        created(a, number),
        created(b, number + 1, VALIDATOR),
        validated(a, c),
        edited(b, number + 2, OPERATOR, ".png"),
        created(c, number),
        deleted(b),
    ]


def settled(root: Consuming, events: list[Event]) -> None:
    """A new consumer brings everything to where it belongs, and tidies up."""
    process = root.start()
    root.consumed(process)
    assert found(root.layout) == expected(events)
    root.stop(process)
    assert root.offset == root.spool.end()


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(root: Consuming, step: str, nth: int) -> None:
    """Each group is sent when the one before is committed; the next events have come when the next consumer begins."""
    process = root.start(f"{step}={nth}:kill")
    root.told(state="consuming")
    events: list[Event] = []
    for number in range(4):
        # One by one, then together: groups of every size.
        for part in [[event] for event in story(number)] if number % 2 else [story(number)]:
            events += part
            root.send(part)
            if step == "quarantine.written":
                root.spool.append([(10, b"nonsense")])
            end = root.spool.end()
            until(lambda end=end: root.offset == end or process.poll() is not None, "committed or dead")
    assert process.wait(10) == -signal.SIGKILL
    settled(root, events)
    bad = root.spool.end() - len(events)
    assert len(quarantined(root.layout)) == bad


@pytest.mark.timeout(300)
def test_random_kills_under_a_steady_writer(root: Consuming) -> None:
    """AZAION_SEED replays a failure, AZAION_KILLS sets how many."""
    seed = int(os.environ.get("AZAION_SEED", time.time_ns() % 1_000_000))
    kills = int(os.environ.get("AZAION_KILLS", "20"))
    print(f"AZAION_SEED={seed}")
    dice = random.Random(seed)
    names = [f"n-{number}" for number in range(40)]
    events: list[Event] = []

    def write() -> None:
        some = dice.sample(names, 3)
        role = dice.choice([OPERATOR, VALIDATOR])
        extension = dice.choice([".jpg", ".png", ".bmp"])
        made = dice.choice(
            [
                created(some[0], len(events), role, extension),
                created(some[0], len(events), role, extension),
                edited(some[0], len(events), role, extension, kind=dice.randrange(9)),
                edited(some[0], None, role, kind=dice.randrange(9)),
                validated(*some),
                deleted(*some[:2]),
            ]
        )
        events.append(made)
        root.send([made])

    reached = set()
    for _ in range(kills):
        process = root.start()
        root.told(pid=process.pid)
        deadline = time.monotonic() + dice.choice([0.0, dice.uniform(0, 0.05), dice.uniform(0, 0.4)])
        while time.monotonic() < deadline:
            write()
        process.kill()
        process.wait()
        for _ in range(dice.randrange(6)):
            write()
        reached.add(root.offset)
    settled(root, events)
    # They died at work, and not before it.
    assert len(reached) > kills // 4
    print(f"{kills} kills, {len(events)} events, {len(expected(events))} annotations")


@pytest.mark.parametrize(
    "step",
    [
        "files.replace.rename",
        "quarantine.written",
        "store.files.written",
        "store.file.renamed",
        "store.file.moved",
        "store.files.settled",
        "store.records.prepared",
        "store.records.written",
        "offset.before",
        "offset.after",
    ],
)
def test_a_full_disk_is_told_and_loses_nothing(root: Consuming, step: str) -> None:
    # Telling its state is the first that comes to this step.
    nth = 2 if step == "files.replace.rename" else 1
    process = root.start(f"{step}={nth}:enospc")
    root.told(state="consuming")
    events = [created("a"), created("b", 2)]
    root.send(events)
    if step == "store.file.moved":
        root.consumed(process)
    root.spool.append([(10, b"nonsense")])
    events += [validated("a"), deleted("b")]
    root.send(events[2:])
    status = root.told(state="retrying")
    assert "No space left on device; trying again" in status["last_error"]
    assert root.offset < root.spool.end() or step == "offset.after"
    root.told(state="consuming", offset=root.spool.end(), last_error=None)
    assert found(root.layout) == expected(events)
    assert process.poll() is None
    assert list(quarantined(root.layout)) == ["2"]


def test_asked_to_end_while_the_disk_refuses(root: Consuming) -> None:
    plan = ",".join(f"store.files.written={number}:enospc" for number in range(1, 50))
    process = root.start(plan)
    root.send(story(1))
    root.told(state="retrying")
    root.stop(process)
    assert root.offset == 0
    settled(root, story(1))


def test_a_crash_loop_ends_where_it_would_have_ended(root: Consuming) -> None:
    """Dead again and again, each time one step further, with more to do each time."""
    events: list[Event] = []
    for nth in range(1, 9):
        events += story(nth % 3)
        root.send(story(nth % 3))
        process = root.start(f"store.file.renamed={nth}:kill,store.files.settled=2:kill")
        assert process.wait(20) in (-signal.SIGKILL, 0) or root.log
        if root.offset == root.spool.end():
            continue
    settled(root, events)
