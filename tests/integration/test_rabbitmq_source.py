"""The reader of the stream, against real brokers."""

import asyncio
import gc
import itertools
import json
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from rstream import ServerError

from azaion import backoff
from azaion.annotations import connection as connection_module
from azaion.annotations import link as link_module
from azaion.annotations import rabbitmq as source_module
from azaion.annotations.errors import BlockedError, LinkError
from azaion.annotations.link import Link
from azaion.annotations.offset import Position
from azaion.annotations.rabbitmq import RabbitMQSource
from azaion.annotations.stream import Batch, Choice, Lag, Message
from azaion.annotations.wire import Chunk, ChunkError
from azaion.settings import RabbitMQ
from tests.brokers import Broker, Publication, Retention, User
from tests.proxies import Proxy

SMALL: Final = Retention(segment_bytes=20_000, max_length_bytes=40_000)
FILLER: Final = b"f" * 500


def settings(rabbit: Broker, stream: str, **changed: Any) -> RabbitMQ:
    values: dict[str, Any] = {
        "host": rabbit.host,
        "port": rabbit.port,
        "user": rabbit.user,
        "password": None,
        "queue_name": stream,
        "vhost": rabbit.vhost,
        "tls": False,
        "tls_ca": None,
        "load_balancer": False,
        "heartbeat": 20,
    }
    return RabbitMQ(**values | changed)


def source(rabbit: Broker, stream: str, **changed: Any) -> RabbitMQSource:
    password = changed.pop("secret", rabbit.password)
    return RabbitMQSource(settings(rabbit, stream, **changed), lambda: password)


class Reading:
    """A consumer: what it has read, and where it would go on."""

    def __init__(self, batches: AsyncGenerator[Batch], position: Position | None) -> None:
        self._batches = batches
        self.position = position
        self.messages: list[Message] = []
        self.sizes: list[int] = []

    async def take(self, count: int, limit_s: float = 40.0) -> list[tuple[int, bytes]]:
        """Read until so many messages have come in all; what has come."""
        async with asyncio.timeout(limit_s):
            while len(self.messages) < count:
                batch = await anext(self._batches)
                self.messages += batch.messages
                self.sizes.append(len(batch.messages))
                self.position = batch.position
        return [(message.offset, bytes(message.body)) for message in self.messages]

    async def nothing_more(self, seconds: float = 0.3) -> None:
        coming = asyncio.ensure_future(anext(self._batches))
        done, _ = await asyncio.wait({coming}, timeout=seconds)
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        assert not done


@asynccontextmanager
async def reading(source: RabbitMQSource, position: Position | None = None) -> AsyncIterator[Reading]:
    async with aclosing(source.batches(position)) as batches:
        yield Reading(batches, position)


async def blocked(source: RabbitMQSource, position: Position | None) -> BlockedError:
    with pytest.raises(BlockedError) as raised:
        async with reading(source, position) as reader:
            await reader.take(1 << 30)
    return raised.value


async def troubled(source: RabbitMQSource, expected: str, position: Position | None = None) -> str:
    """Read in vain until the trouble is told."""
    async with reading(source, position) as reader:
        task = asyncio.ensure_future(reader.take(1 << 30))
        try:
            await eventually(lambda: expected in (source.trouble or "") or task.done(), f"{expected!r} is told")
        finally:
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError), outcome
    assert source.trouble is not None
    return source.trouble


async def eventually(condition: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit_s:g} s in vain: {what}"
        await asyncio.sleep(0.005)


def numbered(first: int, end: int, size: int = 0) -> list[Publication]:
    return [(10, b"%06d" % number + bytes(size)) for number in range(first, end)]


def expected(first: int, end: int, size: int = 0) -> list[tuple[int, bytes]]:
    return [(number, b"%06d" % number + bytes(size)) for number in range(first, end)]


async def position_after(rabbit: Broker, stream: str, count: int) -> Position:
    """Where a consumer is that has read so many messages, one by one."""
    async with reading(source(rabbit, stream)) as reader:
        await reader.take(count)
    assert reader.position is not None
    return reader.position


@pytest.fixture(autouse=True)
async def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(backoff, "delays", partial(backoff.delays, 0.02, 0.2))
    link_module.quiet()
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the limits of a group."""

    def limit(count: int, size: int = 32 << 20) -> None:
        monkeypatch.setattr(source_module, "GROUP_COUNT", count)
        monkeypatch.setattr(source_module, "GROUP_BYTES", size)

    return limit


@pytest.fixture(scope="module")
def victim() -> Iterator[Broker]:
    """A broker for all that the shared one must not suffer, with a user who may do nothing."""
    made = Broker(vhost="platform", tls=True, advertised=("127.0.0.1", 5552), frame_max=256 << 20, retention=SMALL)
    nobody = User("nobody", made.password)
    file = made.folder / "definitions.json"
    definitions = json.loads(file.read_text(encoding="utf-8"))
    definitions["users"].append(nobody.definition)
    definitions["permissions"].append(
        {"user": nobody.name, "vhost": made.vhost, "configure": "^$", "write": "^$", "read": "^$"}
    )
    file.write_text(json.dumps(definitions), encoding="utf-8")
    with made:
        yield made


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as made:
        yield made


# Its place in the stream.


async def test_it_begins_with_the_first_message_and_goes_on_where_it_was(rabbit: Broker, stream: str) -> None:
    await rabbit.apublish(numbered(0, 25), stream=stream, batch=10)
    reader_source = source(rabbit, stream)
    async with reading(reader_source) as reader:
        assert await reader.take(25) == expected(0, 25)
        assert {message.status for message in reader.messages} == {10}
        assert reader_source.trouble is None
        assert reader.position is not None
        assert await reader_source.lag(reader.position) == Lag(messages=0)
        await rabbit.apublish(numbered(25, 30), stream=stream)
        assert await reader.take(30) == expected(0, 30)
        await reader.nothing_more()
    stored = reader.position
    assert stored is not None
    assert (stored.offset, stored.stream) == (30, stream)
    assert stored.anchor is not None
    await rabbit.apublish(numbered(30, 35), stream=stream)
    async with reading(source(rabbit, stream), stored) as reader:
        assert await reader.take(5) == expected(30, 35)
        assert reader.position is not None
        assert reader.position.incarnation == stored.incarnation


@pytest.mark.parametrize("compression", [None, "none", "gzip", "snappy", "lz4", "zstd"])
async def test_every_place_in_a_batch_is_one_to_go_on_from(
    rabbit: Broker, stream: str, compression: str | None, grouped: Callable[..., None]
) -> None:
    await rabbit.apublish(numbered(0, 24), stream=stream, batch=8, sub_batch=compression)
    grouped(5)
    position: Position | None = None
    found: list[tuple[int, bytes]] = []
    while len(found) < 24:
        async with reading(source(rabbit, stream), position) as reader:
            found += await reader.take(1)
            assert reader.sizes[0] <= 5
        position = reader.position
    assert found == expected(0, 24)


async def test_a_group_ends_with_its_size(rabbit: Broker, stream: str, grouped: Callable[..., None]) -> None:
    await rabbit.apublish(numbered(0, 20, 1000), stream=stream, batch=20, sub_batch="gzip")
    grouped(256, 3000)
    async with reading(source(rabbit, stream)) as reader:
        assert await reader.take(20) == expected(0, 20, 1000)
    assert max(reader.sizes) == 3


async def test_chunks_of_all_kinds_in_one_stream(rabbit: Broker, stream: str) -> None:
    count = 0
    for compression in (None, "gzip", "zstd", None, "snappy", "lz4", "none"):
        count += await rabbit.apublish(numbered(count, count + 11), stream=stream, sub_batch=compression, batch=4)
    await rabbit.apublish([b"\x00nonsense", (None, b"without a status")], stream=stream)
    async with reading(source(rabbit, stream)) as reader:
        assert (await reader.take(count + 2))[:count] == expected(0, count)
    bad, without = reader.messages[count:]
    assert (bad.offset, bad.problem is not None) == (count, True)
    assert (without.status, bytes(without.body)) == (None, b"without a status")


async def test_an_empty_stream_is_waited_for(rabbit: Broker, stream: str) -> None:
    reader_source = source(rabbit, stream)
    async with reading(reader_source) as reader:
        await reader.nothing_more()
        assert reader_source.trouble is None
    assert (await reader_source.resolve(Choice.NEXT, None, anew=False)).offset == 0
    async with reading(source(rabbit, stream), Position(1, 0, stream=stream)) as reader:
        coming = asyncio.ensure_future(reader.take(1))
        await asyncio.wait({coming}, timeout=0.1)
        assert not coming.done()
        await rabbit.apublish(numbered(0, 1), stream=stream)
        assert await coming == expected(0, 1)


async def test_another_stream_than_the_stored_one(rabbit: Broker, stream: str) -> None:
    error = await blocked(source(rabbit, stream), Position(1, 5, stream="another"))
    assert error.anew
    assert "'another'" in str(error)


async def test_messages_that_retention_has_removed(rabbit: Broker) -> None:
    stream = await asyncio.to_thread(rabbit.fresh, SMALL)
    await rabbit.apublish(numbered(0, 30, 500), stream=stream, batch=5)
    stored = await position_after(rabbit, stream, 10)
    first = await asyncio.to_thread(rabbit.truncate, stored.offset + 20, FILLER, stream=stream)
    for anchor in (stored.anchor, None):
        reader_source = source(rabbit, stream)
        error = await blocked(reader_source, replace(stored, anchor=anchor))
        assert not error.anew
        assert f"messages {stored.offset} to {first - 1} are gone" in str(error)
    decided = await reader_source.resolve(Choice.FIRST, stored, anew=error.anew)
    assert decided == Position(stored.incarnation, first, stream=stream)
    async with reading(reader_source, decided) as reader:
        assert (await reader.take(1))[0][0] == first
    # A first start takes what there is.
    async with reading(source(rabbit, stream)) as reader:
        assert (await reader.take(1))[0][0] == first
    # The first message that is left may be the next to read: then nothing is missing.
    async with reading(source(rabbit, stream), Position(1, first, stream=stream, anchor="0" * 64)) as reader:
        assert (await reader.take(1))[0][0] == first


async def test_a_reader_that_retention_overtakes(rabbit: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "WINDOW_BYTES", 4000)
    stream = await asyncio.to_thread(rabbit.fresh, SMALL)
    await rabbit.apublish(numbered(0, 40, 500), stream=stream, batch=10)
    async with reading(source(rabbit, stream)) as reader:
        begun = await reader.take(1)
        first = await asyncio.to_thread(rabbit.truncate, 200, FILLER, stream=stream)
        with pytest.raises(BlockedError, match="removed by retention") as raised:
            await reader.take(1 << 30)
    assert reader.position is not None
    assert f"messages {reader.position.offset} to {first - 1} are gone" in str(raised.value)
    offsets = [message.offset for message in reader.messages]
    assert offsets == list(range(begun[0][0], reader.position.offset))


async def test_an_offset_beyond_the_end(rabbit: Broker, stream: str) -> None:
    await rabbit.apublish(numbered(0, 5), stream=stream)
    for offset, anchor in itertools.product((6, 7, 1000), (None, "0" * 64)):
        error = await blocked(source(rabbit, stream), Position(1, offset, stream=stream, anchor=anchor))
        assert error.anew
        assert f"offset {offset} is stored, and the stream holds messages 0 to 4" in str(error)
    async with reading(source(rabbit, stream), Position(1, 5, stream=stream)) as reader:
        await reader.nothing_more()


async def test_a_stream_made_anew(rabbit: Broker, stream: str) -> None:
    await rabbit.apublish(numbered(0, 10), stream=stream)
    stored = await position_after(rabbit, stream, 10)
    await asyncio.to_thread(rabbit.recreate, stream)
    for count in (0, 5, 10, 25):
        # Empty, shorter, as long, longer.
        if count:
            await rabbit.apublish([(10, b"new %d" % count)] * (count // 2 + count % 2), stream=stream)
        error = await blocked(source(rabbit, stream), stored)
        assert error.anew, count
    assert "message 9 is not the one that was read last" in str(error)
    reader_source = source(rabbit, stream)
    decided = await reader_source.resolve(Choice.FIRST, stored, anew=True)
    assert decided.offset == 0
    assert decided.incarnation > stored.incarnation
    async with reading(reader_source, decided) as reader:
        assert (await reader.take(1))[0] == (0, b"new 5")


async def test_the_places_that_a_person_may_choose(rabbit: Broker, stream: str) -> None:
    await rabbit.apublish(numbered(0, 5), stream=stream)
    here, stored = source(rabbit, stream), Position(7, 3, stream=stream, anchor="a")
    place = Position(7, 0, stream=stream)
    assert await here.resolve(Choice.STORED, stored, anew=True) == stored
    for choice, offset in ((Choice.FIRST, 0), (Choice.NEXT, 5), (0, 0), (4, 4), (5, 5)):
        assert await here.resolve(choice, stored, anew=False) == replace(place, offset=offset)
        assert (await here.resolve(choice, stored, anew=True)).incarnation > 1_700_000_000_000_000
        assert (await here.resolve(choice, replace(stored, stream="other"), anew=False)).incarnation > 7
        assert (await here.resolve(choice, None, anew=False)).incarnation > 7
    late = Position(1 << 62, 3, stream=stream)
    assert (await here.resolve(0, late, anew=True)).incarnation == late.incarnation + 1
    for wrong in (6, -1):
        with pytest.raises(BlockedError, match=f"offset {wrong} is not in the stream: it holds messages 0 to 4"):
            await here.resolve(wrong, stored, anew=False)
    with pytest.raises(BlockedError, match="no offset is stored"):
        await here.resolve(Choice.STORED, None, anew=False)
    with pytest.raises(LinkError, match="does not exist"):
        await source(rabbit, "no-such-stream").resolve(Choice.FIRST, stored, anew=False)


async def note(rabbit: Broker, stream: str, offset: int) -> None:
    """Have the broker write down an offset of somebody else's, into the stream itself."""
    async with rabbit._client() as client:
        await client.store_offset(stream, "somebody", offset)
        # When it is there it has a number of its own.
        async with asyncio.timeout(20):
            while True:
                try:
                    if await client.query_offset(stream, "somebody") == offset:
                        return
                except ServerError:
                    await asyncio.sleep(0.01)


async def test_the_brokers_own_notes_are_no_gap(
    rabbit: Broker, stream: str, grouped: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Position | None] = []
    session = RabbitMQSource._session

    def counted(self: RabbitMQSource, position: Position | None) -> AsyncGenerator[Batch]:
        opened.append(position)
        return session(self, position)

    monkeypatch.setattr(RabbitMQSource, "_session", counted)
    for number in range(4):
        await rabbit.apublish(numbered(3 * number, 3 * number + 3), stream=stream)
        await note(rabbit, stream, number)
    grouped(2)
    positions: list[Position] = []
    async with reading(source(rabbit, stream)) as reader:
        for count in range(1, 13):
            await reader.take(count)
            assert reader.position is not None
            positions.append(reader.position)
        await reader.nothing_more()
    found = [(message.offset, bytes(message.body)) for message in reader.messages]
    assert [body for _, body in found] == [body for _, body in expected(0, 12)]
    assert found[-1][0] > 11, "the broker has not noted anything"
    assert len(opened) == 1
    # Going on from anywhere, also from one of the notes, with and without knowing what came before.
    for position in {position.offset: position for position in positions}.values():
        for known in (position, replace(position, anchor=None)):
            rest = [one for one in found if one[0] >= position.offset]
            async with reading(source(rabbit, stream), known) as reader:
                assert await reader.take(len(rest)) == rest
                if not rest:
                    await reader.nothing_more(0.1)
    for offset in range(found[-1][0] + 2):
        async with reading(source(rabbit, stream), Position(1, offset, stream=stream)) as reader:
            rest = [one for one in found if one[0] >= offset]
            assert await reader.take(len(rest)) == rest


async def test_a_note_where_the_last_message_was_shows_that_the_stream_was_made_anew(
    rabbit: Broker, stream: str
) -> None:
    await rabbit.apublish(numbered(0, 4), stream=stream)
    stored = await position_after(rabbit, stream, 4)
    await asyncio.to_thread(rabbit.recreate, stream)
    await rabbit.apublish(numbered(0, 3), stream=stream)
    await note(rabbit, stream, 1)
    await rabbit.apublish(numbered(3, 6), stream=stream)
    error = await blocked(source(rabbit, stream), stored)
    assert error.anew
    assert "message 3 was read last, and there is none" in str(error)


async def test_the_lag_of_one_who_is_far_behind(
    rabbit: Broker, stream: str, grouped: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "WINDOW_BYTES", 5000)
    monkeypatch.setattr(source_module, "_LOOK_S", 0.0)
    await rabbit.apublish(numbered(0, 200, 1000), stream=stream, batch=10)
    grouped(10)
    reader_source = source(rabbit, stream)
    assert await reader_source.lag(Position(1, 0)) == Lag(messages=None)
    async with reading(reader_source) as reader:
        for count in (10, 20, 100):
            await reader.take(count)
        await reader.take(101)
        assert reader.position is not None
        lag = await reader_source.lag(reader.position)
        assert lag.messages == 200 - reader.position.offset
        assert lag.seconds is not None
        assert 0 < lag.seconds < 60
        assert await reader.take(200) == expected(0, 200, 1000)


# What goes wrong on the way.


async def test_a_connection_that_is_cut_anywhere(rabbit: Broker, stream: str, proxy: Proxy) -> None:
    proxy.upstream = (rabbit.host, rabbit.port)
    host, port = proxy.address
    seed = int(os.environ.get("AZAION_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"AZAION_SEED={seed}")
    rng = random.Random(seed)
    for start, compression in ((0, None), (300, "gzip"), (600, None)):
        await rabbit.apublish(numbered(start, start + 300, 200), stream=stream, batch=20, sub_batch=compression)
    # Through the handshake byte by byte, then through the chunks.
    cuts = [*range(1, 700, 37), *(rng.randrange(700, 30_000) for _ in range(40))]
    async with reading(source(rabbit, stream, host=host, port=port, load_balancer=True)) as reader:
        for cut in cuts:
            if len(reader.messages) >= 900:
                break
            before = proxy.cuts
            proxy.cut()
            proxy.cut_after(cut)
            coming = asyncio.ensure_future(reader.take(len(reader.messages) + 1))
            await eventually(lambda: proxy.cuts > before + 1 or coming.done(), "a cut, or messages")  # noqa: B023
            await coming
        proxy.cut()
        assert await reader.take(900) == expected(0, 900, 200)
        await reader.nothing_more()


async def test_a_broker_that_is_killed(victim: Broker) -> None:
    stream = await asyncio.to_thread(victim.fresh)
    await victim.apublish(numbered(0, 30), stream=stream, batch=10)
    reader_source = source(victim, stream)
    async with reading(reader_source) as reader:
        await reader.take(30)
        coming = asyncio.ensure_future(reader.take(60))
        await asyncio.to_thread(victim.kill)
        await eventually(lambda: "cannot be reached" in (reader_source.trouble or ""), "the end is noticed")
        await asyncio.to_thread(victim.start)
        await victim.apublish(numbered(30, 60), stream=stream)
        assert await coming == expected(0, 60)
        assert reader_source.trouble is None


async def test_a_broker_that_is_stopped_in_its_own_way(victim: Broker) -> None:
    stream = await asyncio.to_thread(victim.fresh)
    await victim.apublish(numbered(0, 3), stream=stream)
    reader_source = source(victim, stream)
    async with reading(reader_source) as reader:
        await reader.take(3)
        coming = asyncio.ensure_future(reader.take(6))
        await asyncio.to_thread(victim.stop)
        await eventually(lambda: reader_source.trouble is not None, "the end is noticed")
        await asyncio.to_thread(victim.start)
        await victim.apublish(numbered(3, 6), stream=stream)
        assert await coming == expected(0, 6)


async def test_a_broker_that_falls_silent(victim: Broker) -> None:
    stream = await asyncio.to_thread(victim.fresh)
    await victim.apublish(numbered(0, 3), stream=stream)
    reader_source = source(victim, stream, heartbeat=1)
    async with reading(reader_source) as reader:
        await reader.take(3)
        coming = asyncio.ensure_future(reader.take(6))
        victim.pause()
        paused = time.monotonic()
        await eventually(lambda: reader_source.trouble is not None, "the silence is noticed")
        noticed = time.monotonic() - paused
        assert "silent for 2 s" in (reader_source.trouble or "")
        victim.resume()
        await victim.apublish(numbered(3, 6), stream=stream)
        assert await coming == expected(0, 6)
    print(f"noticed after {noticed:.2f} s")
    assert noticed < 2.5


async def test_an_idle_connection_stays_with_a_heartbeat_of_a_second(rabbit: Broker, stream: str) -> None:
    reader_source = source(rabbit, stream, heartbeat=1)
    async with reading(reader_source) as reader:
        coming = asyncio.ensure_future(reader.take(1))
        await eventually(lambda: reader_source.trouble is None, "it is connected")
        until = time.monotonic() + 4.5
        await eventually(lambda: reader_source.trouble is not None or time.monotonic() > until, "time passes")
        assert reader_source.trouble is None
        await rabbit.apublish(numbered(0, 1), stream=stream)
        assert await coming == expected(0, 1)


async def test_a_stream_that_is_deleted_while_it_is_read(rabbit: Broker) -> None:
    stream = await asyncio.to_thread(rabbit.fresh)
    await rabbit.apublish(numbered(0, 5), stream=stream)
    reader_source = source(rabbit, stream)
    told: list[str] = []
    async with reading(reader_source) as reader:
        await reader.take(5)
        coming = asyncio.ensure_future(reader.take(6))
        await asyncio.to_thread(rabbit.delete, stream)

        def hears() -> bool:
            if reader_source.trouble is not None and reader_source.trouble not in told:
                told.append(reader_source.trouble)
            return any("create it, or mend RABBITMQ_QUEUE_NAME" in one for one in told)

        await eventually(hears, "it is told that the stream does not exist")
        assert not coming.done()
        await asyncio.to_thread(rabbit.create, stream)
        with pytest.raises(BlockedError) as raised:
            await coming
    assert raised.value.anew
    await asyncio.to_thread(rabbit.delete, stream)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"secret": "wrong"}, "mend RABBITMQ_USER or RABBITMQ_PASSWORD"),
        ({"user": "stranger"}, "mend RABBITMQ_USER or RABBITMQ_PASSWORD"),
        ({"vhost": "elsewhere"}, "mend RABBITMQ_VHOST or the user's permissions"),
        ({"vhost": "/"}, "mend RABBITMQ_VHOST or the user's permissions"),
        ({"queue_name": "no-such-stream"}, "the stream does not exist: create it"),
        ({"user": "nobody"}, "may not read the stream: give it the permission"),
        ({"host": "broker.invalid"}, "broker.invalid:"),
        ({"tls": True}, "is RABBITMQ_TLS right?"),
    ],
)
async def test_what_is_wrong_is_told(
    victim: Broker, changed: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_CONNECT_S", 1.0)
    here = {"queue_name": victim.stream} | changed
    assert problem in await troubled(source(victim, here.pop("queue_name"), **here), problem)


async def test_tls(victim: Broker, tmp_path: Path) -> None:
    stream = await asyncio.to_thread(victim.fresh)
    await victim.apublish(numbered(0, 3), stream=stream)
    private: dict[str, Any] = {"port": victim.tls_port, "tls": True, "tls_ca": victim.ca}
    for host in ("127.0.0.1", "localhost"):
        async with reading(source(victim, stream, **private, host=host)) as reader:
            assert await reader.take(3) == expected(0, 3)
    advice = "is RABBITMQ_TLS_CA right, and the certificate made for this host?"
    assert "CERTIFICATE_VERIFY_FAILED" in await troubled(source(victim, stream, **private | {"tls_ca": None}), advice)
    # Resolves to the broker's address, and stands in no certificate.
    assert "127.1" in await troubled(source(victim, stream, **private, host="127.1"), advice)
    await troubled(source(victim, stream, **private | {"tls_ca": tmp_path / "none.pem"}), "RABBITMQ_TLS_CA")
    # The wrong port for what is spoken.
    await troubled(source(victim, stream, port=victim.tls_port), "RABBITMQ_TLS right?")


async def test_behind_a_load_balancer(victim: Broker, proxy: Proxy) -> None:
    stream = await asyncio.to_thread(victim.fresh)
    await victim.apublish(numbered(0, 3), stream=stream)
    proxy.upstream = (victim.host, victim.port)
    host, port = proxy.address
    async with reading(source(victim, stream, host=host, port=port, load_balancer=True)) as reader:
        assert await reader.take(3) == expected(0, 3)


async def test_a_node_that_fails_does_not_keep_it_from_the_others(
    rabbit: Broker, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rabbit.apublish(numbered(0, 1), stream=stream)
    asked: list[bool] = []
    connected = link_module.connected

    @asynccontextmanager
    async def through(settings: RabbitMQ, password: str, *, leader: bool) -> AsyncIterator[Link]:
        asked.append(leader)
        if not leader:
            raise LinkError("the replica is broken")
        async with connected(settings, password, leader=leader) as link:
            yield link

    monkeypatch.setattr(source_module, "connected", through)
    async with reading(source(rabbit, stream)) as reader:
        assert await reader.take(1) == expected(0, 1)
    assert asked == [False, True]


async def test_a_damaged_chunk_stops_it_only_when_it_is_reached(
    rabbit: Broker, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in range(0, 30, 10):
        await rabbit.apublish(numbered(start, start + 10), stream=stream)
    checked: list[int] = []
    check = Chunk.check

    def fails(self: Chunk) -> None:
        check(self)
        checked.append(self.first)
        if self.end > 20:
            raise ChunkError("the chunk is damaged")

    monkeypatch.setattr(Chunk, "check", fails)
    reader_source = source(rabbit, stream)
    async with reading(reader_source) as reader:
        with pytest.raises(BlockedError, match="3 times over: it is damaged on the broker's disk"):
            await reader.take(30)
    assert [message.offset for message in reader.messages] == list(range(20))
    # A person may go on behind it.
    monkeypatch.undo()
    decided = await reader_source.resolve(25, reader.position, anew=False)
    async with reading(reader_source, decided) as reader:
        assert await reader.take(5) == expected(25, 30)


async def test_no_log_holds_the_password(
    rabbit: Broker, stream: str, proxy: Proxy, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    await rabbit.apublish(numbered(0, 3), stream=stream)
    caplog.clear()
    proxy.upstream = (rabbit.host, rabbit.port)
    host, port = proxy.address
    async with reading(source(rabbit, stream, host=host, port=port)) as reader:
        await reader.take(3)
        proxy.cut()
        await rabbit.apublish(numbered(3, 4), stream=stream)
        await reader.take(4)
    await troubled(source(rabbit, stream, secret="wrong-secret"), "RABBITMQ_PASSWORD")  # noqa: S106
    written = "".join([caplog.text, *capsys.readouterr()])
    assert "disconnected" in written
    for secret in (rabbit.password, "wrong-secret", "SaslAuthenticate"):
        assert secret not in written


# How much it takes.

#: Reads a stream and tells its peak of memory beyond that of the start, the longest time that the event loop was held,
#: and how many messages came.
MEASURE: Final = """
import asyncio, json, sys, time
from pathlib import Path
from azaion.annotations.rabbitmq import RabbitMQSource
from azaion.settings import RabbitMQ

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10

async def main():
    told = json.loads(sys.argv[1])
    password, count, held, found = told.pop("secret"), told.pop("count"), 0.0, 0
    async def watch():
        nonlocal held
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.001)
            held = max(held, time.monotonic() - began - 0.001)
    before = peak()
    watching = asyncio.create_task(watch())
    batches = RabbitMQSource(RabbitMQ(**told), lambda: password).batches(None)
    while found < count:
        batch = await anext(batches)
        assert batch.messages[0].offset == found, (batch.messages[0].offset, found)
        assert all(message.problem is None for message in batch.messages)
        found += len(batch.messages)
        # As long as a commit takes.
        await asyncio.sleep(0.01)
    await batches.aclose()
    watching.cancel()
    print(json.dumps([peak() - before, held, found]))

asyncio.run(main())
"""


async def measured(rabbit: Broker, stream: str, count: int) -> tuple[float, float]:
    """The memory in MiB and the longest hold of the event loop in milliseconds for a stream of so many messages."""
    here = settings(rabbit, stream)
    told = {name: getattr(here, name) for name in here.__dataclass_fields__}
    told |= {"secret": rabbit.password, "count": count}
    arguments = [sys.executable, "-c", MEASURE, json.dumps(told)]
    result = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    memory, held, found = json.loads(result.stdout.splitlines()[-1])
    assert found == count
    print(f"{count} messages: {memory / (1 << 20):.0f} MiB, held for {1000 * held:.0f} ms")
    return memory / (1 << 20), 1000 * held


async def chunks(rabbit: Broker, stream: str) -> list[int]:
    """The sizes of the stream's chunks."""
    sizes: list[int] = []
    async with link_module.connected(settings(rabbit, stream), rabbit.password, leader=True) as link:
        await link.subscribe_from(stream, 0)
        await link.has_chunk(stream)
        while link.chunks or link.behind:
            await link.wait()
            sizes.append(len(link.chunks.popleft().data))
            await link.release(sizes[-1])
            await link.has_chunk(stream)
    return sizes


async def test_a_chunk_of_a_hundred_megabytes(victim: Broker) -> None:
    stream = await asyncio.to_thread(victim.fresh)
    small: list[Publication] = [(10, b"s")] * 96
    large: list[Publication] = [(10, os.urandom(1 << 20)) for _ in range(100)]
    # In one frame, of which the broker makes chunks of 32, 64 and 128 messages at most.
    await victim.apublish(small + large, stream=stream, batch=200)
    await victim.apublish(large[:30], stream=stream)
    sizes = await chunks(victim, stream)
    print("chunks in MiB:", [size >> 20 for size in sizes])
    assert max(sizes) > 50 << 20
    memory, held = await measured(victim, stream, 226)
    # The chunk and what may be read beyond it; it is not held twice.
    assert memory < max(sizes) / (1 << 20) + 2 * 32 + 30
    # On a busy machine the system alone takes some.
    # What it is on an idle machine, the benchmark tells.
    assert held < 250


async def test_many_small_chunks(rabbit: Broker, stream: str) -> None:
    await rabbit.apublish(numbered(0, 1500), stream=stream, batch=1)
    memory, held = await measured(rabbit, stream, 1500)
    assert memory < 30
    assert held < 250


async def test_whoever_stops_at_any_moment_leaves_nothing_behind(rabbit: Broker, stream: str) -> None:
    await rabbit.apublish(numbered(0, 100, 1000), stream=stream, batch=10)
    positions = [None, Position(1, 50, stream=stream)]
    for number, position in enumerate(positions * 20):
        batches = source(rabbit, stream).batches(position)
        coming = asyncio.ensure_future(anext(batches))
        # The first steps are the most.
        deadline = time.monotonic() + 0.0005 * number
        while time.monotonic() < deadline and not coming.done():  # noqa: ASYNC110 - any moment is right
            await asyncio.sleep(0)
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await batches.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()
