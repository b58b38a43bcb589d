"""The consumer killed at every step and at random, and refused by its disk: the tree is that of the table."""

import asyncio
import errno
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from azaion import files
from azaion.annotations import consumer as consumers
from azaion.annotations.consumer import Consumer
from azaion.annotations.sources import SpoolSource
from azaion.annotations.store import AnnotationStore
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
from tests.tallies import tally
from tests.waiting import until

STEPS = [
    "quarantine.written",
    "store.ahead.prepared",
    "store.files.written",
    "store.file.renamed",
    "store.file.moved",
    "store.files.settled",
    "store.record.renamed",
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
    events: list[Event] = []
    for number in range(4):
        # One by one, then together: groups of every size.
        for part in [[event] for event in story(number)] if number % 2 else [story(number)]:
            events += part
            root.send(part)
            if step == "quarantine.written":
                root.spool.append([(10, b"nonsense")])
            root.gone_or_at(process, root.spool.end())
    assert process.wait(10) == -signal.SIGKILL
    settled(root, events)
    bad = root.spool.end() - len(events)
    assert len(quarantined(root.layout)) == bad


@pytest.mark.parametrize(
    ("half_done", "more"),
    [
        (edited("a", 2, VALIDATOR), deleted("a")),
        (edited("a", 2, OPERATOR, ".png"), edited("a", 3, OPERATOR, ".bmp")),
    ],
    ids=["moved", "replaced"],
)
def test_what_was_half_done_is_taken_together_with_what_came_since(
    root: Consuming, half_done: Event, more: Event
) -> None:
    """The record tells where its files were before; where a death has left them neither it nor the new files' place."""
    process = root.start("store.files.settled=2:kill")
    events = [created("a", 1), half_done, more]
    root.send(events[:1])
    root.consumed(process)
    root.send(events[1:2])
    assert process.wait(10) == -signal.SIGKILL
    root.send(events[2:])
    settled(root, events)


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
    for number in range(kills):
        process = root.start()
        root.told(pid=process.pid)
        # Most die in their first group; every third one lives to commit some.
        commits, before = number % 3 == 2, root.offset
        deadline = time.monotonic() + (dice.uniform(0.2, 0.5) if commits else dice.uniform(0, 0.05))
        patience = time.monotonic() + 20
        while time.monotonic() < (patience if commits and root.offset == before else deadline):
            write()
        process.kill()
        process.wait()
        for _ in range(dice.randrange(6)):
            write()
        reached.add(root.offset)
    settled(root, events)
    # They died at work, and not before it.
    assert len(reached) > kills // 6
    note = f"{len(events)} events, {len(expected(events))} annotations"
    tally("SIGKILL of the consumer", kills, "the tree is that of the events", note)


@pytest.mark.parametrize(
    "step",
    [
        "quarantine.written",
        "store.files.written",
        "store.file.renamed",
        "store.file.moved",
        "store.files.settled",
        "store.record.renamed",
        "store.records.written",
        "offset.before",
        "offset.after",
    ],
)
def test_a_full_disk_is_told_and_loses_nothing(root: Consuming, step: str) -> None:
    # The first time is while a group is made ready, of which nobody is told: it is tried again when its turn comes.
    process = root.start(f"{step}=1:enospc,{step}=2:enospc" if step == "quarantine.written" else f"{step}=1:enospc")
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


async def test_what_could_not_be_told_is_told_again(root: Consuming, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a quiet time the disk refuses a group, and then to be told about."""
    root.send([created("a")])
    write_json = files.write_json
    states = []

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse_once(path: Path, value: dict[str, Any], **how: Any) -> None:
        states.append(value["state"])
        if states.count("retrying") == 1:
            full()
        write_json(path, value, **how)

    monkeypatch.setattr(consumers, "_RATE_S", 0.0)
    stop = asyncio.Event()
    consumer = Consumer(root.layout, SpoolSource(root.spool, "s"), stop)
    consuming = asyncio.create_task(consumer.run())
    await asyncio.to_thread(root.told, offset=1)
    await asyncio.to_thread(until, lambda: not consumer._recent and not consumer._dirty, "nothing more to tell")
    monkeypatch.setattr(AnnotationStore, "commit", full)
    monkeypatch.setattr(files, "write_json", refuse_once)
    root.send(story(1))
    await asyncio.to_thread(root.told, state="retrying")
    stop.set()
    await consuming
    assert states.count("retrying") == 2


def test_a_disk_that_refuses_the_status_too(root: Consuming) -> None:
    process = root.start(
        ",".join(["offset.before=1:enospc", *(f"files.replace.rename={n}:enospc" for n in range(2, 5))])
    )
    root.told(state="consuming")
    root.send(story(1))
    root.told(state="consuming", offset=len(story(1)), lag=0, last_error=None)
    assert process.poll() is None
    assert "cannot commit" in root.log
    assert found(root.layout) == expected(story(1))


def test_a_crash_loop_ends_where_it_would_have_ended(root: Consuming) -> None:
    """Dead again and again, each time one step further, with more to do each time."""
    events: list[Event] = []
    for nth in range(1, 9):
        events += story(nth % 3)
        root.send(story(nth % 3))
        process = root.start(f"store.file.renamed={nth}:kill,store.files.settled=2:kill")
        root.gone_or_at(process, len(events))
        process.kill()
        process.wait()
    settled(root, events)
