"""The alerts' room: what it reads, what it keeps, and what it does when it cannot."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from azaion.declarations import alerts as declared
from azaion.declarations.alerts import AlertsDeclaration, Channel
from supervisor.alerts import room as alerts
from supervisor.alerts.model import Level, Notice, What
from supervisor.alerts.outbox import Parcel
from supervisor.alerts.room import AlertRoom
from supervisor.health.model import Finding, Verdict
from supervisor.jobs.gate import Alert
from supervisor.jobs.model import Kind, State, Submission
from supervisor.jobs.outcome import Decision, Ending, Source
from supervisor.jobs.schema import StoreError
from supervisor.jobs.store import Store
from supervisor.processes import Identity

LIMIT_S = 10.0


@dataclass
class World:
    """A room with a real store, and a channel that is anything a test likes."""

    path: Path
    findings: list[Finding] = field(default_factory=list)
    waiting: list[Alert] = field(default_factory=list)
    taken: list[Parcel] = field(default_factory=list)
    error: str = ""

    def __post_init__(self) -> None:
        self.store = Store(self.path / "jobs.sqlite")

    def room(self) -> AlertRoom:
        channels = (Channel(name="ops", url="json://h"),)
        wanted = AlertsDeclaration(channels=channels, gather_s=0, gap_s=0)
        return AlertRoom(wanted, self.store, lambda: self.findings, lambda: self.waiting, self._send)

    async def _send(self, _channel: Channel, parcel: Parcel) -> str:
        if not self.error:
            self.taken.append(parcel)
        return self.error

    @property
    def text(self) -> str:
        return "\n".join(parcel.body for parcel in self.taken)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in ("_LEAST_S", "_RETRY_S", "_PENDING_S"):
        monkeypatch.setattr(alerts, name, 0.01)
    return World(tmp_path)


@asynccontextmanager
async def running(room: AlertRoom) -> AsyncIterator[None]:
    task = asyncio.create_task(room.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - of most conditions nobody tells
            await asyncio.sleep(0.005)


def critical(text: str = "97 % used") -> Finding:
    return Finding(check="disk", subject="/a", verdict=Verdict.CRITICAL, text=text, advice="make room", since=0.0)


def attempt(store: Store, number: int, state: State) -> None:
    """One attempt of a job that ends so."""
    store.reserve(number, [])
    store.started(number, Identity(10, 20), 101.0)
    given: dict[str, Any] = {"cause": None, "failures": 0, "interruptions": 0, "verified_epoch": 0}
    decision = Decision(state=state, reason="the machine went down", **given)
    store.finish(number, store.open_attempt(number), Ending(source=Source.EXIT, code=0), decision)


async def test_news_of_a_job_that_is_interrupted_and_resumed_come_once(world: World) -> None:
    room = world.room()
    job = world.store.submit(Submission(kind=Kind.TRAIN, name="n", parameters={}, owner="o"))
    attempt(world.store, job.id, State.QUEUED)
    async with running(room):
        await until(lambda: "was interrupted and will go on: the machine went down" in world.text)
        assert "goes on\n" not in world.text
    # What happens while the daemon is away is told after its start.
    attempt(world.store, job.id, State.SUCCEEDED)
    async with running(world.room()):
        await until(lambda: "job 1: (train n) goes on" in world.text)
        await until(lambda: "job 1: (train n) has succeeded" in world.text)
        world.findings.append(critical())
        world.store.note("anything", "")
        await until(lambda: "disk /a" in world.text)
    assert [world.text.count(word) for word in ("interrupted", "goes on", "succeeded", "disk")] == [1, 1, 1, 1]


async def test_a_job_that_waits_for_long_and_a_queue_that_is_paused(world: World) -> None:
    world.waiting += [Alert(since=0.0, text="no memory", job=7), Alert(since=0.0, text="the disk is full")]
    async with running(world.room()):
        await until(lambda: "WARNING job 7 waiting: waits for long: no memory" in world.text)
        assert "CRITICAL queue waiting: nothing starts: the disk is full" in world.text


async def test_what_could_not_be_sent_goes_after_a_restart(world: World) -> None:
    world.findings.append(critical())
    world.error = "refused"
    first = world.room()
    async with running(first):
        await until(lambda: first.outbox("ops").dead)
    world.error = ""
    second = world.room()
    assert second.outbox("ops").failures == first.outbox("ops").failures
    async with running(second):
        await until(lambda: world.taken)
        await until(lambda: not second.outbox("ops").parcels)
    assert world.text.count("CRITICAL disk /a: 97 % used") == 1


async def test_a_test_message_shows_that_a_channel_lives(world: World) -> None:
    room = world.room()
    world.error = "refused"
    for _ in range(3):
        assert await room.test(room.channels["ops"]) == "refused"
    assert room.outbox("ops").dead
    world.error = ""
    assert await room.test(room.channels["ops"]) == ""
    assert not room.outbox("ops").dead


async def test_a_state_that_cannot_be_written_keeps_nobody_from_hearing_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("the disk is full")

    world.findings.append(critical())
    with monkeypatch.context() as patched:
        patched.setattr(world.store, "keep_alerts", full)
        room = world.room()
        async with running(room):
            await until(lambda: "disk /a" in world.text)
            assert world.store.alerts() == ""
            patched.undo()
            # As soon as there is room it is kept.
            world.store.note("anything", "")
            await until(lambda: "disk /a" in world.store.alerts())
    assert world.text.count("disk /a") == 1


async def test_a_measurement_that_changes_writes_nothing(world: World) -> None:
    world.findings.append(critical())
    room = world.room()
    async with running(room):
        await until(lambda: world.taken and not room.outbox("ops").parcels)
        changes = world.store.changes
        world.findings[:] = [critical("97.1 % used")]
        room.poke()
        await until(lambda: room.open()["disk /a"].text == "97.1 % used")
        assert world.store.changes == changes


def test_a_memory_that_cannot_be_read_is_no_reason_not_to_start(world: World) -> None:
    world.store.keep_alerts('{"state": 7}')
    assert world.room().open() == {}


@pytest.mark.parametrize(
    ("name", "kind", "level", "what", "wanted"),
    [
        ("disk /a", "disk", Level.CRITICAL, What.RAISED, True),
        ("disk /a", "disk", Level.WARNING, What.RAISED, False),
        ("gpu gpu0", "gpu", Level.CRITICAL, What.RAISED, False),
        ("channel ops", "channel", Level.CRITICAL, What.RAISED, False),
        ("channel ops", "channel", Level.CRITICAL, What.RESOLVED, True),
        ("channel other", "channel", Level.CRITICAL, What.RAISED, True),
    ],
)
def test_a_channel_gets_what_it_wants(name: str, kind: str, level: Level, what: What, *, wanted: bool) -> None:
    channel = Channel(name="ops", url="json://h", levels=(declared.Level.CRITICAL,), kinds=("disk", "channel"))
    notice = Notice(name=name, kind=kind, what=what, level=level, text="", time=0.0)
    assert alerts._wants(channel, notice) is wanted
