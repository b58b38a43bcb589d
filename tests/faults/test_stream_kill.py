"""A broker's stream, and everything that may die on its way to the disk: the tree is that of the publisher's list."""

import asyncio
import errno
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from azaion import backoff, failpoints, files
from azaion.annotations import consumer as consumers
from azaion.annotations import offset
from azaion.annotations import record as records
from azaion.annotations.consumer import Consumer
from azaion.annotations.errors import BlockedError
from azaion.annotations.offset import Position
from azaion.annotations.quarantine import QUARANTINE_LIMIT
from azaion.annotations.stream import Batch, Choice, Lag
from azaion.layout import Layout
from tests import annotation_trees
from tests.annotation_messages import (
    OPERATOR,
    VALIDATOR,
    Event,
    created,
    deleted,
    edited,
    expected,
    found,
    messages,
    quarantined,
    validated,
)
from tests.brokers import Broker, Retention, broker
from tests.consumers import Streaming, decide, streaming
from tests.proxies import Proxy
from tests.publishers import Publisher
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

NONSENSE = (10, b"nonsense")

#: Groups that between them reach every step of a commit, and how each is published.
STORY: list[tuple[str | None, list[Event]]] = [
    ("gzip", [created("a", 1), created("b", 2, VALIDATOR)]),
    ("none", [validated("a", "c"), edited("b", 3, OPERATOR, ".png")]),
    (None, [created("c", 4), deleted("b"), edited("a", None, VALIDATOR, kind=7)]),
    ("gzip", [created("a", 5, extension=".bmp"), created("b", 6), validated("c", "a")]),
]


@pytest.fixture
def root(rabbit: Broker, stream: str) -> Iterator[Streaming]:
    with streaming(rabbit, stream) as made:
        yield made


def tell(root: Streaming, process: subprocess.Popen[bytes]) -> list[Event | None]:
    """The whole story, each group once the one before is committed, or the consumer dead.

    Returns what is at which offset: an event, or nonsense.
    """
    told: list[Event | None] = []
    for sub_batch, events in STORY:
        root.send(events, sub_batch=sub_batch)
        root.publish([NONSENSE])
        told += [*events, None]
        root.gone_or_at(process, root.end())
    return told


def durable(root: Streaming, told: list[Event | None]) -> None:
    """All before the stored offset is on disk."""
    for number, event in enumerate(told[: root.offset]):
        for name in event.names if event is not None else ():
            record = records.read(root.layout.records / f"{name}.json")
            assert record is not None, name
            assert record.offset >= number, f"the last event of {name} is that of message {record.offset}"
        if event is None:
            assert (root.layout.quarantine / str(number) / "message.bin").read_bytes() == NONSENSE[1]


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(root: Streaming, step: str) -> None:
    process = root.start(f"{step}=3:kill")
    told = tell(root, process)
    assert process.wait(10) == -signal.SIGKILL
    durable(root, told)
    root.settled(root.start())
    assert set(quarantined(root.layout)) == {str(number) for number, event in enumerate(told) if event is None}


@pytest.mark.parametrize("step", ["store.record.renamed", "store.records.written", "offset.before", "offset.after"])
def test_killed_in_the_first_group_of_all(root: Streaming, step: str) -> None:
    """No offset has been stored yet, and still what comes again is known to be the same stream's."""
    root.events = [validated("a"), created("a"), deleted("b"), created("b", 2)]
    root.publish([NONSENSE, *((event.status, event.body) for event in root.events)], sub_batch="gzip")
    process = root.start(f"{step}=1:kill")
    assert process.wait(10) == -signal.SIGKILL
    root.settled(root.start())
    assert set(quarantined(root.layout)) == {"0"}


@pytest.mark.parametrize(
    "step", ["quarantine.written", "store.files.written", "store.file.moved", "store.record.renamed", "offset.before"]
)
def test_a_full_disk_in_the_middle_of_a_batch(root: Streaming, step: str) -> None:
    process = root.start(f"{step}=1:enospc,store.files.settled=3:enospc")
    tell(root, process)
    status = root.told(state="consuming", offset=root.end(), lag=0, last_error=None)
    assert status["pid"] == process.pid
    assert os.strerror(errno.ENOSPC) in root.log
    root.settled(process)
    assert len(quarantined(root.layout)) == len(STORY)


# A stream that is not the one that was read, or not all of it.


def consumed(root: Streaming) -> Position:
    """Half of the story is consumed, and the consumer stopped; returns where."""
    process = root.start()
    for sub_batch, events in STORY[:2]:
        root.send(events, sub_batch=sub_batch)
    root.settled(process)
    position = root.position
    assert position is not None
    assert position.offset == 4
    return position


def refused(root: Streaming, process: subprocess.Popen[bytes], position: Position, choice: str | int) -> None:
    """A decision that is not taken: the consumer is as blocked as it was."""
    before = root.told(pid=process.pid, undecided=True)
    decide(root.layout, choice, position)
    until(lambda: not root.layout.consumer_request.exists(), "the decision is taken up")
    assert root.position == position
    assert (root.status["state"], root.status["undecided"]) == ("blocked", True)
    assert root.status["since"] == before["since"]


@pytest.mark.parametrize("length", [0, 2, 9])
def test_a_stream_that_was_made_anew(root: Streaming, length: int) -> None:
    """Shorter or longer than the old one, it is not consumed until a person says so, and then counts as a later one."""
    old = consumed(root)
    process = root.start()
    root.told(pid=process.pid, state="consuming", lag=0)
    root.rabbit.recreate(root.stream)
    before = list(root.events)
    new = [created(f"new-{number}", number) for number in range(8)]
    root.send([edited("a", 77, VALIDATOR), *new][:length])
    status = root.told(pid=process.pid, state="blocked", undecided=True)
    assert "made anew" in status["last_error"]
    assert status["offset"] == 4
    numbers = {0: "holds no message", 2: "holds messages 0 to 1", 9: "holds messages 0 to 8"}
    assert numbers[length] in status["last_error"]
    assert "offset 4 is stored" in status["last_error"]
    # What was decided for another position, or by nobody who can be understood, is not for this one.
    refused(root, process, old, 99)
    assert "cannot go on from 99: offset 99 is not in the stream" in root.told(undecided=True)["last_error"]
    for other in (replace(old, offset=5), replace(old, incarnation=7), None):
        decide(root.layout, "first", other)
        until(lambda: not root.layout.consumer_request.exists(), "the decision is forgotten")
    root.layout.consumer_request.write_text("{", encoding="utf-8")
    until(lambda: not root.layout.consumer_request.exists(), "the decision is forgotten")
    # Neither does the next consumer touch anything.
    root.stop(process)
    process = root.start()
    root.told(pid=process.pid, state="blocked", undecided=True)
    assert root.position == old
    assert found(root.layout) == expected(before)
    decide(root.layout, "first", old)
    root.send([deleted("c"), created("b", 50)])
    end = root.end()
    root.told(state="consuming", offset=end, undecided=False, last_error=None)
    position = root.position
    assert position is not None
    assert position.incarnation > old.incarnation
    root.settled(process)


@pytest.mark.parametrize("choice", ["next", 3])
def test_a_new_stream_from_elsewhere_than_its_beginning(root: Streaming, choice: str | int) -> None:
    old = consumed(root)
    before = list(root.events)
    root.rabbit.recreate(root.stream)
    root.send([created(f"new-{number}", number) for number in range(6)])
    process = root.start()
    root.told(pid=process.pid, undecided=True)
    decide(root.layout, choice, old)
    root.told(pid=process.pid, state="consuming", undecided=False)
    root.events = [*before, *(root.events[len(before) + choice :] if isinstance(choice, int) else [])]
    root.send([validated("a"), deleted("new-1")])
    root.settled(process)


def test_a_stream_that_was_mended(root: Streaming) -> None:
    """What was lost has been published again, so it goes on where it was, with the same incarnation."""
    old = consumed(root)
    again = list(root.events)
    root.rabbit.recreate(root.stream)
    root.send(again[:1])
    process = root.start()
    root.told(pid=process.pid, undecided=True)
    decide(root.layout, "stored", old)
    until(lambda: not root.layout.consumer_request.exists(), "the decision is taken up")
    root.told(pid=process.pid, undecided=True)
    root.send(again[1:])
    decide(root.layout, "stored", old)
    root.told(pid=process.pid, state="consuming", undecided=False)
    root.events = again
    root.send([deleted("a")])
    root.settled(process)
    position = root.position
    assert position is not None
    assert (position.incarnation, position.offset) == (old.incarnation, 5)


@pytest.mark.parametrize("choice", ["first", "next"])
def test_killed_between_a_decision_and_its_removal(root: Streaming, choice: str) -> None:
    """It is not applied twice: the stream that was chosen anew is not chosen anew once more, nor is another one."""
    old = consumed(root)
    before = list(root.events)
    root.rabbit.recreate(root.stream)
    root.send([created("new", 9)])
    process = root.start("offset.after=1:kill")
    root.told(pid=process.pid, undecided=True)
    decide(root.layout, choice, old)
    assert process.wait(10) == -signal.SIGKILL
    assert root.layout.consumer_request.exists()
    chosen = root.position
    assert chosen is not None
    if choice == "next":
        root.events = before
    process = root.start()
    root.told(pid=process.pid, state="consuming", lag=0)
    # Whoever waits for the decision to be taken up hears that it is.
    assert not root.layout.consumer_request.exists()
    root.send([deleted("b")])
    root.settled(process)
    assert root.position is not None
    assert root.position.incarnation == chosen.incarnation
    root.rabbit.recreate(root.stream)
    decide(root.layout, choice, old)
    process = root.start()
    root.told(pid=process.pid, undecided=True)
    until(lambda: not root.layout.consumer_request.exists(), "the decision is forgotten")
    root.stop(process)
    assert root.offset == 2
    root.compare()


@pytest.mark.parametrize("choice", ["first", "middle", "next"])
def test_retention_overtakes_a_stopped_consumer(rabbit: Broker, choice: str) -> None:
    """Both ends of the gap are told, and what is lost is exactly the gap."""
    stream = rabbit.fresh(Retention(segment_bytes=20_000, max_length_bytes=40_000))
    with streaming(rabbit, stream) as root:
        old = consumed(root)
        before = list(root.events)
        root.send([deleted("a"), created("lost", 3)])
        filler = created("filler")
        first = rabbit.truncate(old.offset + 2, (filler.status, filler.body), stream=stream)
        end = root.end()
        process = root.start()
        status = root.told(pid=process.pid, state="blocked", undecided=True)
        assert f"messages {old.offset} to {first - 1} are gone" in status["last_error"]
        assert (
            f"offset {old.offset} is stored, and the stream holds messages {first} to {end - 1}"
            in (status["last_error"])
        )
        # A place before the first message is none.
        refused(root, process, old, first - 1)
        assert found(root.layout) == expected(before)
        decide(root.layout, end - 2 if choice == "middle" else choice, old)
        root.told(pid=process.pid, state="consuming", undecided=False, offset=end, last_error=None)
        assert root.position is not None
        assert root.position.incarnation == old.incarnation
        root.events = [*before, *([] if choice == "next" else [filler])]
        root.send([validated("b"), created("c", 9)])
        root.settled(process)


# A broker that falls silent, and a consumer that is asked to end.


def test_a_broker_that_falls_silent_is_noticed(own_rabbit: Broker) -> None:
    with streaming(own_rabbit, own_rabbit.stream, heartbeat_s=1) as root:
        process = root.start()
        root.send(STORY[0][1])
        root.told(pid=process.pid, state="consuming", offset=2, lag=0)
        own_rabbit.pause()
        began = time.monotonic()
        status = root.told(pid=process.pid, state="disconnected")
        noticed = time.monotonic() - began
        print(f"noticed after {noticed:.2f} s, told as {status['last_error']!r}")
        # Two heartbeats, and the second in which it tells.
        assert noticed < 4
        assert "silent for 2 s" in status["last_error"]
        own_rabbit.resume()
        root.send(STORY[1][1])
        root.told(pid=process.pid, state="consuming", offset=4, last_error=None)
        root.settled(process)


def asked_to_end(root: Streaming, process: subprocess.Popen[bytes]) -> None:
    began = time.monotonic()
    process.terminate()
    assert process.wait(10) == 0, root.log
    assert time.monotonic() - began < 2
    assert root.status["state"] == "stopped"


def test_asked_to_end_at_full_speed(root: Streaming) -> None:
    root.send([created(f"fast-{number}", number) for number in range(4000)], sub_batch="gzip")
    process = root.start()
    until(lambda: root.offset > 0, "it consumes")
    asked_to_end(root, process)
    assert 0 < root.offset < 4000
    assert found(root.layout) == expected(root.events[: root.offset])
    root.settled(root.start())


@pytest.mark.parametrize("answering", [False, True])
def test_asked_to_end_while_it_is_not_connected(rabbit: Broker, stream: str, *, answering: bool) -> None:
    """Where nobody listens, and where somebody listens who says nothing."""
    with Proxy((rabbit.host, rabbit.port)) as proxy:
        proxy.stall()
        if not answering:
            proxy.close()
        with streaming(rabbit, stream, address=proxy.address) as root:
            process = root.start()
            root.told(pid=process.pid, state="disconnected")
            asked_to_end(root, process)
            assert root.position is None


def test_asked_to_end_while_it_is_blocked(root: Streaming) -> None:
    old = consumed(root)
    root.rabbit.recreate(root.stream)
    process = root.start()
    root.told(pid=process.pid, state="blocked")
    asked_to_end(root, process)
    assert root.position == old


def test_asked_to_end_while_the_quarantine_is_full(root: Streaming) -> None:
    for number in range(QUARANTINE_LIMIT):
        (root.layout.quarantine / f"{number}-1").mkdir()
    root.send(STORY[0][1])
    process = root.start()
    assert "quarantine is full" in root.told(pid=process.pid, state="blocked")["last_error"]
    asked_to_end(root, process)
    assert root.position is None
    (root.layout.quarantine / "0-1").rmdir()
    root.settled(root.start())


def test_asked_to_end_while_a_dataset_is_taken(root: Streaming) -> None:
    old = consumed(root)
    process = root.start()
    root.told(pid=process.pid, state="consuming", lag=0)
    with files.locked(root.layout.commit_lock):
        root.send(STORY[2][1])
        root.told(pid=process.pid, lag=len(STORY[2][1]))
        asked_to_end(root, process)
    assert root.position == old
    root.settled(root.start())


# Whatever dies when.


class Soak:
    """A broker behind a proxy, its publisher, one consumer after the other, and what befalls them."""

    def __init__(self, root: Streaming, proxy: Proxy, dice: random.Random) -> None:
        self.root = root
        self._proxy = proxy
        self._dice = dice
        self._process = root.start()
        self.faults: Counter[str] = Counter()
        self.reached: set[int] = set()

    def befall(self) -> None:
        """One fault, and a while to work before it."""
        dice, rabbit = self._dice, self.root.rabbit
        time.sleep(dice.choice([0, 0.1, 0.4, 1.2]))
        if self._process.poll() is not None:
            self._again()
        fault = dice.choices(["consumer", "step", "broker", "silence", "cut", "frame"], [40, 20, 8, 8, 12, 12])[0]
        self.faults[fault] += 1
        match fault:
            case "consumer":
                self._again()
            case "step":
                # It ends by itself, sooner or later, or with the next fault.
                self._again(f"{dice.choice(STEPS)}={dice.randrange(1, 12)}:kill")
            case "broker":
                rabbit.kill()
                time.sleep(dice.choice([0, 0, 1]))
                rabbit.start()
            case "silence":
                rabbit.pause()
                time.sleep(dice.uniform(0.1, 4))
                rabbit.resume()
            case "cut":
                self._proxy.cut()
            case "frame":
                self._proxy.cut_after(dice.randrange(1, 60_000))

    def _again(self, failpoints: str = "") -> None:
        self._process.kill()
        self._process.wait()
        self.reached.add(self.root.offset)
        self._process = self.root.start(failpoints)

    def end(self) -> None:
        """A last consumer brings everything to where it belongs."""
        self._again()
        self.root.settled(self._process, 120)


@pytest.mark.timeout(600)
# What rstream leaves open when it is cancelled while it connects: of the publisher, not of the consumer.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_random_faults_under_a_steady_publisher() -> None:
    """AZAION_SEED replays the dice of a failure, AZAION_KILLS sets how many faults there are."""
    seed = int(os.environ.get("AZAION_SEED", time.time_ns() % 1_000_000))
    count = int(os.environ.get("AZAION_KILLS", "12"))
    print(f"AZAION_SEED={seed}")
    dice = random.Random(seed)
    began = time.monotonic()
    with ExitStack() as held:
        proxy = held.enter_context(Proxy())
        rabbit = held.enter_context(broker(advertised=proxy.address))
        proxy.upstream = (rabbit.host, rabbit.port)
        root = held.enter_context(streaming(rabbit, rabbit.stream, address=proxy.address, heartbeat_s=1))
        soak = Soak(root, proxy, dice)
        with Publisher(rabbit, root.stream, root.events, seed) as publisher:
            for _ in range(count):
                soak.befall()
                assert publisher.problem is None
        assert publisher.problem is None
        soak.end()
        end = root.end()
        stream = rabbit.read(end)
        assert [number for number, _ in stream] == list(range(end))
        bad = {str(number): body[body.index(b"nonsense") :] for number, body in stream if b"nonsense" in body}
        assert set(bad.values()) == set(publisher.bad)
        assert {name: (root.layout.quarantine / name / "message.bin").read_bytes() for name in bad} == bad
        # Of an edit whose annotation had no image when it came, there is nothing to file.
        others = {name: why for name, why in quarantined(root.layout).items() if name not in bad}
        assert all("image" in why["reason"] for why in others.values())
        # They died at work, and not before it.
        assert len(soak.reached) > count // 20
        note = (
            f"in {time.monotonic() - began:.0f} s; {len(root.events)} events, {end} messages, "
            f"{publisher.repeated} groups published again, {len(expected(root.events))} annotations, "
            f"{len(bad)} + {len(others)} in quarantine, {len(soak.reached)} offsets reached"
        )
        for fault, times in soak.faults.items():
            tally(f"stream: {fault}", times, "the tree is that of the stream", note)


# Any source at all, against a model.


class Fickle:
    """A source in memory that keeps what the protocol promises, and nothing more.

    It sends again whatever it likes, in other groups, is made anew, and has its consumer stopped.
    """

    name = "memory"

    def __init__(self, streams: list[list[Event]], layout: Layout, dice: random.Random) -> None:
        self.trouble: str | None = None
        self.stop = asyncio.Event()
        self.ended = False
        #: From where to where each stream has been read.
        self.read = [(0, 0) for _ in streams]
        self._streams = streams
        self._layout = layout
        self._dice = dice
        self._now = 0

    async def batches(self, position: Position | None) -> AsyncGenerator[Batch]:
        """See `Source`."""
        dice = self._dice
        offset = position.offset if position is not None else 0
        if position is not None and position.incarnation != self._now:
            raise BlockedError("made anew", anew=True)
        stream = self._streams[self._now]
        first, end = self.read[self._now]
        while True:
            self.trouble = dice.choice([None, "gone for a moment"])
            group = stream[offset : offset + dice.randint(1, 6)]
            if group:
                position = Position(self._now, offset + len(group), stream=self.name)
                yield Batch(messages=messages(group, offset), position=position)
                offset = position.offset
                end = max(end, offset)
                self.read[self._now] = first, end
            if dice.random() < 0.2:
                self.stop.set()
            if dice.random() < 0.3:
                offset = dice.randint(first, offset)
            elif offset == len(stream) or dice.random() < 0.1:
                if position is not None:
                    await self._committed(position)
                if position is not None and self._now + 1 < len(self._streams):
                    self._make_anew(position)
                    raise BlockedError("made anew", anew=True)
                if offset == len(stream):
                    self.ended = True
                    self.stop.set()
                    await asyncio.Event().wait()

    async def _committed(self, position: Position) -> None:
        """Wait until all that was given is on disk: who is asked for more has not been told so."""
        while offset.read(self._layout.offset) != position:  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.001)

    def _make_anew(self, position: Position) -> None:
        """Another stream has taken its place, and somebody has decided where to go on."""
        self._now += 1
        choices: list[str | int] = ["first", "next", self._dice.randint(0, len(self._streams[self._now]))]
        choice = self._dice.choice(choices)
        decide(self._layout, choice, position)

    async def lag(self, position: Position) -> Lag:
        """See `Source`."""
        return Lag(messages=len(self._streams[self._now]) - position.offset)

    async def resolve(self, choice: Choice | int, position: Position | None, *, anew: bool) -> Position:
        """See `Source`."""
        assert anew
        assert position is not None
        assert position.incarnation < self._now
        end = len(self._streams[self._now])
        offset = choice if isinstance(choice, int) else {Choice.FIRST: 0, Choice.NEXT: end}[choice]
        self.read[self._now] = offset, offset
        return Position(self._now, offset, stream=self.name)


NAMES = st.sampled_from(["a", "b", "c"])
ROLES = st.sampled_from([OPERATOR, VALIDATOR])
EVENTS = st.lists(
    st.one_of(
        st.builds(created, NAMES, st.integers(1, 3), ROLES, st.sampled_from([".jpg", ".png"])),
        st.builds(edited, NAMES, st.none() | st.integers(1, 3), ROLES, kind=st.integers(0, 9)),
        st.lists(NAMES, min_size=1, max_size=3).map(lambda names: validated(*names)),
        st.lists(NAMES, min_size=1, max_size=3).map(lambda names: deleted(*names)),
    ),
    min_size=1,
    max_size=12,
)


@hypothesis.settings(max_examples=80, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@hypothesis.given(streams=st.lists(EVENTS, min_size=1, max_size=3), seed=st.integers(0, 1 << 30))
def test_any_source_ends_in_the_tree_of_the_model(streams: list[list[Event]], seed: int) -> None:
    dice, full = random.Random(seed), random.Random(seed)

    def refuse(step: str) -> None:
        if step.startswith("store.") and full.random() < 0.05:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def consume(layout: Layout) -> Fickle:
        source = Fickle(streams, layout, dice)
        while not source.ended:
            source.stop.clear()
            async with asyncio.timeout(10):
                await Consumer(layout, source, source.stop).run()
        return source

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(consumers, "_LOCK_S", 0.001)
        patch.setattr(backoff, "delays", partial(backoff.delays, 0.001))
        patch.setattr(failpoints, "hit", refuse)
        layout = annotation_trees.tree(Path(folder))
        source = asyncio.run(consume(layout))
        read = [event for stream, (first, end) in zip(streams, source.read, strict=True) for event in stream[first:end]]
        assert found(layout) == expected(read)
        position = offset.read(layout.offset)
        assert position is not None
        assert (position.incarnation, position.offset) == (len(streams) - 1, len(streams[-1]))
        assert not layout.consumer_request.exists()
