"""The connection to the broker, against a broker made of a few lines; and what of rstream it is built on."""

import asyncio
import hashlib
import inspect
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import pytest
import rstream
from rstream import client, connection, encoding, schema
from rstream.constants import Key, OffsetType
from rstream.encoding import encode_frame

from azaion.annotations import link as link_module
from azaion.annotations.errors import LinkError
from azaion.annotations.link import Link, connected, explained
from azaion.annotations.wire import HEADER
from azaion.settings import RabbitMQ

#: The release of rstream that azaion/annotations/link.py was written for, and what it replaces or relies on.
RELEASE: Final = "1.1.1"
PINNED: Final = {
    "BaseClient.__init__": "d84a049623823adc",
    "BaseClient.start_task": "1d839a0f3006c9aa",
    "BaseClient.send_frame": "871fa305f1360013",
    "BaseClient.wait_frame": "d25928028d5e0c1d",
    "BaseClient.sync_request": "41fa0c8db23eca57",
    "BaseClient.start": "dcac06db8544fb00",
    "BaseClient._listener": "28e6993cc1ea0641",
    "BaseClient.close": "45df8c3afc3b1814",
    "BaseClient._start_heartbeat": "f5c2ee83df3dd640",
    "BaseClient._heartbeat_sender": "11b9b11a530cc827",
    "BaseClient.is_connection_alive": "fc51136998f806f1",
    "Client.close": "7c953a28d62286ce",
    "Client.peer_properties": "37b2f128bba49775",
    "Client.open": "1298e3b3600e6f60",
    "Client.authenticate": "dbba3b537c3cc316",
    "Client.stream_exists": "65842c3e6c749549",
    "Client.query_leader_and_replicas": "30129dcf30e8a7fe",
    "Client.subscribe": "d311c8015e5a9e2b",
    "Client.unsubscribe": "029f2f5334347a3f",
    "Client.credit": "74a343bd35eed363",
    "Client.declare_publisher": "114d44f674fecd9a",
    "Connection": "cdd6f43b37427708",
    "encode_frame": "899be7363d521ce7",
    "_encode_field": "b111682a4330cea2",
    "_encode_struct": "06daf437eae8ea48",
    "decode_frame": "14069b0b92795580",
    "_decode_field": "7bc3a46140eaec41",
    "_decode_struct": "3e907ec638191246",
    "schema.Frame": "561f44279f874976",
    "schema.Struct": "62ba88dd5ab6cd4d",
    "schema.Property": "536fcd199ce5dbf6",
    "schema.PeerProperties": "46b7dc4eadcdd2ec",
    "schema.PeerPropertiesResponse": "e4c01d3205154881",
    "schema.SaslHandshake": "74d1ad227cc45996",
    "schema.Tune": "0cc793d8cdb5341f",
    "schema.Open": "857738eba44866f0",
    "schema.SaslHandshakeResponse": "53378da1240321d0",
    "schema.SaslAuthenticate": "45807deb1d172a6c",
    "schema.SaslAuthenticateResponse": "693db1d5a8e7d9e2",
    "schema.OpenResponse": "1a284493a26a7cca",
    "schema.Heartbeat": "620c83d2a54b5bcf",
    "schema.Metadata": "f282714a4b875104",
    "schema.MetadataResponse": "44187a62ef925746",
    "schema.StreamMetadata": "79e77ca60f2dd7fe",
    "schema.Broker": "50837d51098f18e8",
    "schema.MetadataInfo": "26ef5b5422749d3a",
    "schema.MetadataUpdate": "13c3bf7a8ff828b4",
    "schema.Subscribe": "ac338032f4f4633c",
    "schema.OffsetSpec": "6f204bf437af84ac",
    "schema.OffsetSpecOffset": "7141f46fcb9241c5",
    "schema.SubscribeResponse": "6f7949f9dd3dec91",
    "schema.Unsubscribe": "3d583d72cce36017",
    "schema.UnsubscribeResponse": "c793f13a77fce98a",
    "schema.Credit": "2c010d5b5f06d8c7",
    "schema.CreditResponse": "e9a03f0130cdb859",
    "schema.Close": "27d1d06f373a0f15",
    "schema.CloseResponse": "c65a3dc9c848e34d",
    "schema.Publish": "dfa0ea92d3f7331b",
    "schema.PublishSubBatching": "4baeb6fcaddd8e9c",
    "schema.PublishConfirm": "f606fa92c592d88b",
    "schema.PublishError": "6bfd5cd5c1dee840",
    "schema.PublishingError": "cec90a86a3d9ef40",
    "schema.DeclarePublisher": "3680057b0a79d4a2",
    "schema.DeclarePublisherResponse": "ccc946037a727816",
    "schema.Message": "90d0d42fdcac28e9",
    "exceptions": "506b38254d26efa6",
    "constants": "dcf1e804d5828870",
}

ADVICE: Final = """
azaion/annotations/link.py replaces parts of rstream and relies on others; they are not what they were: {changed}.
Compare them with those of {release}, adapt link.py where they differ, let tests/integration/test_rabbitmq_source.py
pass against a real broker, and only then put these sums into PINNED (and the version into RELEASE and pyproject.toml):
{sums}
"""


def relied_on() -> dict[str, str]:
    """The SHA-256 of the source of all that link.py replaces or relies on."""
    clients = [
        *("__init__", "start_task", "send_frame", "wait_frame", "sync_request", "start", "_listener", "close"),
        *("_start_heartbeat", "_heartbeat_sender", "is_connection_alive"),
    ]
    commands = [
        *(
            "close",
            "peer_properties",
            "open",
            "authenticate",
            "stream_exists",
            "query_leader_and_replicas",
            "subscribe",
        ),
        *("unsubscribe", "credit", "declare_publisher"),
    ]
    frames = [
        *("Frame", "Struct", "Property", "PeerProperties", "PeerPropertiesResponse", "SaslHandshake", "Tune", "Open"),
        *("SaslHandshakeResponse", "SaslAuthenticate", "SaslAuthenticateResponse", "OpenResponse", "Heartbeat"),
        *("Metadata", "MetadataResponse", "StreamMetadata", "Broker", "MetadataInfo", "MetadataUpdate", "Subscribe"),
        *("OffsetSpec", "OffsetSpecOffset", "SubscribeResponse", "Unsubscribe", "UnsubscribeResponse", "Credit"),
        *(
            "CreditResponse",
            "Close",
            "CloseResponse",
            "Publish",
            "PublishSubBatching",
            "PublishConfirm",
            "PublishError",
        ),
        *("PublishingError", "DeclarePublisher", "DeclarePublisherResponse", "Message"),
    ]
    sources: dict[str, Any] = {
        **{f"BaseClient.{name}": getattr(client.BaseClient, name) for name in clients},
        **{f"Client.{name}": getattr(client.Client, name) for name in commands},
        "Connection": connection.Connection,
        **{name: getattr(encoding, name) for name in ("encode_frame", "_encode_field", "_encode_struct")},
        **{name: getattr(encoding, name) for name in ("decode_frame", "_decode_field", "_decode_struct")},
        **{f"schema.{name}": getattr(schema, name) for name in frames},
        "exceptions": rstream.exceptions,
        "constants": rstream.constants,
    }
    return {name: hashlib.sha256(inspect.getsource(of).encode()).hexdigest()[:16] for name, of in sources.items()}


def test_rstream_is_what_it_was() -> None:
    found = relied_on()
    changed = sorted(name for name in PINNED.keys() | found.keys() if PINNED.get(name) != found.get(name))
    if rstream.__version__ != RELEASE:
        changed.append(f"the version, {rstream.__version__}")
    sums = "".join(f'    "{name}": "{found[name]}",\n' for name in changed if name in found)
    assert not changed, ADVICE.format(changed=", ".join(changed), release=RELEASE, sums=sums)


PASSWORD: Final = "hunter2-of-the-tests"  # noqa: S105
STREAM: Final = "annotations"

Answer = bytes | Callable[["Fake", int, bytes], Awaitable[bytes | None]]


def response(frame: schema.Frame) -> bytes:
    """A frame as a broker sends it."""
    made = bytearray(encode_frame(frame))
    made[4] |= 0x80
    return bytes(made)


def delivery(
    data: bytes, *, subscription: int = 0, first: int = 0, records: int = 1, kind: int = 0, size: int | None = None
) -> bytes:
    length = len(data) if size is None else size
    header = HEADER.pack(
        subscription, 0x50, kind, 1, records, 1_700_000_000_000, 1, first, zlib.crc32(data), length, 0, 0
    )
    return struct.pack(">IHH", 4 + len(header) + len(data), Key.Deliver.value, 1) + header + data


def heartbeat() -> bytes:
    return encode_frame(schema.Heartbeat())


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - of what has no event
            await asyncio.sleep(0)


class Fake:
    """A broker that answers as a test likes."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.asked: list[Key] = []
        self.port = 0
        self.heartbeat = 60
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Fake"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()
            await server.wait_closed()
            await eventually(lambda: not self._writers)

    def settings(self, heartbeat: int = 5, **changed: Any) -> RabbitMQ:
        values: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "reader",
            "password": None,
            "queue_name": STREAM,
            "vhost": "/",
            "tls": False,
            "tls_ca": None,
            "load_balancer": False,
            "heartbeat": heartbeat,
        }
        return RabbitMQ(**values | changed)

    def send(self, data: bytes) -> None:
        self._writers[-1].write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while True:
                length, key, _ = struct.unpack(">IHH", await reader.readexactly(8))
                rest = await reader.readexactly(length - 4)
                await self._answer(Key(key & 0x7FFF), rest, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._writers.remove(writer)
            writer.close()

    async def _answer(self, key: Key, rest: bytes, writer: asyncio.StreamWriter) -> None:
        self.asked.append(key)
        number = int.from_bytes(rest[:4])
        answer = self.answers.get(key.name)
        if callable(answer):
            answer = await answer(self, number, rest)
        elif answer is None:
            answer = self._usual(key, number)
        if answer is not None:
            writer.write(answer)

    def _usual(self, key: Key, number: int) -> bytes | None:
        match key:
            case Key.PeerProperties:
                return response(schema.PeerPropertiesResponse(number, 1, []))
            case Key.SaslHandshake:
                return response(schema.SaslHandshakeResponse(number, 1, ["PLAIN"]))
            case Key.SaslAuthenticate:
                tune = encode_frame(schema.Tune(frame_max=1 << 20, heartbeat=self.heartbeat))
                return response(schema.SaslAuthenticateResponse(number, 1)) + tune
            case Key.Open:
                told = {"advertised_host": "127.0.0.1", "advertised_port": str(self.port)}
                return response(schema.OpenResponse(number, 1, [schema.Property(*pair) for pair in told.items()]))
            case Key.Metadata:
                return metadata(number, port=self.port)
            case Key.Subscribe:
                return response(schema.SubscribeResponse(number, 1))
            case Key.Unsubscribe:
                return response(schema.UnsubscribeResponse(number, 1))
            case Key.Close:
                return response(schema.CloseResponse(number, 1))
            case _:
                return None


def metadata(number: int, port: int, leader: int = 0, code: int = 1) -> bytes:
    nodes = [schema.Broker(0, "127.0.0.1", port)]
    return response(schema.MetadataResponse(number, nodes, [schema.StreamMetadata(STREAM, code, leader, [])]))


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def failing(fake: Fake, **changed: Any) -> str:
    """Why the connection cannot be made."""
    async with fake.serving():
        with pytest.raises(LinkError) as raised:
            async with connected(fake.settings(**changed), PASSWORD, leader=True):
                pass
    return str(raised.value)


async def ended(link: Link) -> str:
    """Why a connection has ended."""
    with pytest.raises(LinkError) as raised:
        await asyncio.wait_for(link.wait(), 10)
    return str(raised.value)


async def test_a_connection_begins_and_ends() -> None:
    fake = Fake()
    async with fake.serving(), connected(fake.settings(), PASSWORD, leader=True) as link:
        assert link.frame_max == 1 << 20
        assert not link.chunks
    assert fake.asked[-1] is Key.Close
    with pytest.raises(LinkError, match="has been closed"):
        await link.send_frame(schema.Heartbeat())
    await link.close()


async def code(_: Fake, number: int, __: bytes) -> bytes:
    return response(schema.SaslAuthenticateResponse(number, 11))


async def no_plain(_: Fake, number: int, __: bytes) -> bytes:
    return response(schema.SaslHandshakeResponse(number, 1, ["EXTERNAL"]))


async def no_leader(fake: Fake, number: int, _: bytes) -> bytes:
    return metadata(number, fake.port, leader=0xFFFF)


async def unknown_leader(fake: Fake, number: int, _: bytes) -> bytes:
    return metadata(number, fake.port, leader=7)


async def no_such_port(_: Fake, number: int, __: bytes) -> bytes:
    return metadata(number, 70_000)


async def unavailable(fake: Fake, number: int, _: bytes) -> bytes:
    return metadata(number, fake.port, code=6)


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"SaslAuthenticate": code}, "mend RABBITMQ_USER or RABBITMQ_PASSWORD"),
        ({"SaslHandshake": no_plain}, "do not understand each other: AssertionError"),
        ({"Metadata": no_leader}, "LeaderNotAvailable"),
        ({"Metadata": unknown_leader}, "do not understand each other: KeyError"),
        ({"Metadata": no_such_port}, "127.0.0.1:70000"),
        ({"Metadata": unavailable}, "StreamNotAvailable"),
        ({"PeerProperties": b"AMQP\x00\x00\x09\x01"}, "is RABBITMQ_PORT the one for RabbitMQ Streams"),
        ({"PeerProperties": b"HTTP/1.1 400 Bad Request\r\n\r\n"}, "is RABBITMQ_PORT the one for RabbitMQ Streams"),
        ({"PeerProperties": b"\x00\x00\x00\x04\x7f\xff\x00\x01"}, "what cannot be read"),
        ({"Open": encode_frame(schema.Close(1, 14, "frame too large"))}, "raise that"),
        ({"Open": encode_frame(schema.Close(1, 1, "maintenance"))}, "has closed the connection: maintenance"),
    ],
)
async def test_a_broker_that_will_not_have_us(answers: dict[str, Answer], problem: str) -> None:
    assert problem in await failing(Fake(**answers))


async def test_nobody_listens() -> None:
    fake = Fake()
    async with fake.serving():
        settings = fake.settings()
    with pytest.raises(LinkError, match=f"127.0.0.1:{settings.port} cannot be reached"):
        async with connected(settings, PASSWORD, leader=True):
            pass


async def test_the_broker_leads_to_where_nobody_listens() -> None:
    async def elsewhere(_: Fake, number: int, __: bytes) -> bytes:
        return metadata(number, 1)

    problem = await failing(Fake(Metadata=elsewhere))
    assert "127.0.0.1:1 cannot be reached" in problem
    assert "set RABBITMQ_LOAD_BALANCER=true" in problem
    problem = await failing(Fake(Metadata=elsewhere), load_balancer=True)
    assert "did not lead to 127.0.0.1:1 in 50 attempts" in problem


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"\xff\xff\xff\xff" + b"\x00" * 8, "a frame of 4294967295 bytes"),
        (b"\x00\x00\x00\x02" + b"\x00" * 8, "a frame of 2 bytes"),
        (struct.pack(">IHH", 4, 99, 1), "what cannot be read: ValueError"),
        (struct.pack(">IHH", 4, 0x8000 | Key.Credit.value, 1)[:-1], "has closed the connection"),
        (struct.pack(">IHH", 6, Key.Heartbeat.value, 1) + b"xx", "what cannot be read"),
        (struct.pack(">IHH", 9, Key.Deliver.value, 1) + b"short" + bytes(60), "a chunk of kind"),
        (delivery(b"data", kind=1), "a chunk of kind 1"),
        (delivery(b"data", size=5), "instead of 5"),
        (delivery(b"data")[:-1], "has closed the connection"),
        (encode_frame(schema.Close(1, 1, "shutting down")), "has closed the connection: shutting down"),
        (encode_frame(schema.MetadataUpdate(schema.MetadataInfo(6, STREAM))), "has been moved or deleted"),
        (b"", "has closed the connection"),
    ],
)
async def test_a_connection_that_goes_bad(sent: bytes, problem: str) -> None:
    fake = Fake()
    async with fake.serving(), connected(fake.settings(), PASSWORD, leader=True) as link:
        fake.send(sent)
        fake._writers[-1].write_eof()
        assert problem in await ended(link)
        with pytest.raises(LinkError, match=r"."):
            await link.subscribe_from(STREAM, 0)


async def test_what_came_before_the_end_is_given() -> None:
    fake = Fake(Subscribe=subscribed_to(delivery(b"one"), delivery(b"two", first=1), b"\xff" * 8))
    async with fake.serving(), connected(fake.settings(), PASSWORD, leader=True) as link:
        await link.subscribe_from(STREAM, 0)
        assert await link.has_chunk(STREAM)
        await eventually(lambda: link._failure is not None)
        for first in (0, 1):
            await link.wait()
            assert link.chunks.popleft().first == first
            await link.release(3)
        assert "a frame of" in await ended(link)


def subscribed_to(*sent: bytes, ends: bytes = b"") -> Answer:
    """What the subscription of the reader brings, and those that look for an end."""

    async def answer(_: Fake, number: int, rest: bytes) -> bytes:
        subscription = rest[4]
        found = b"".join(sent) if subscription == 0 else ends.replace(b"\xee", bytes([subscription]))
        return response(schema.SubscribeResponse(number, 1)) + found

    return answer


async def test_an_empty_stream_has_no_chunk() -> None:
    fake = Fake()
    async with fake.serving(), connected(fake.settings(), PASSWORD, leader=True) as link:
        await link.subscribe_from(STREAM, OffsetType.FIRST)
        assert not await link.has_chunk(STREAM)
        assert await link.probe(STREAM, OffsetType.LAST) is None
        assert not link.behind


async def test_the_end_is_looked_for_though_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "WINDOW_BYTES", 1000)
    last = delivery(b"l" * 50, subscription=0xEE, first=70, records=9)
    fake = Fake(Subscribe=subscribed_to(delivery(b"x" * 5000), ends=last))
    async with fake.serving(), connected(fake.settings(), PASSWORD, leader=True) as link:
        await link.subscribe_from(STREAM, 0)
        await link.has_chunk(STREAM)
        assert link.behind
        async with asyncio.timeout(5):
            assert await link.probe(STREAM, OffsetType.LAST) == (70, 79)
            assert await link.probe(STREAM, OffsetType.FIRST) == (70, 79)
        assert len(link.chunks) == 1


async def test_nothing_is_read_or_asked_for_that_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "WINDOW_BYTES", 1000)
    asked: list[int] = []

    async def credit(_: Fake, __: int, rest: bytes) -> None:
        asked.append(int.from_bytes(rest[1:3]))

    # Small chunks first: so several are asked for, and then they are large.
    chunks = [delivery(b"x")] + [delivery(bytes(700), first=first) for first in range(1, 9)]
    fake = Fake(Subscribe=subscribed_to(chunks[0]), Credit=credit)
    async with fake.serving(), connected(fake.settings(), PASSWORD, leader=True) as link:
        await link.subscribe_from(STREAM, 0)
        await link.has_chunk(STREAM)
        fake.send(b"".join(chunks[1:]))
        await eventually(lambda: not link._room.is_set())
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert len(link.chunks) == 4
        for first in range(9):
            await asyncio.wait_for(link.wait(), 5)
            chunk = link.chunks.popleft()
            assert chunk.first == first
            await link.release(len(chunk.data))
        assert link._credit_left > 0
        assert sum(asked) <= 8 + 9


async def test_an_answer_may_be_behind_a_chunk_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_ANSWER_S", 0.1)
    large = delivery(bytes(60_000))

    async def slowly(fake: Fake, number: int, _: bytes) -> None:
        fake.send(response(schema.SubscribeResponse(number, 1)))
        for at in range(0, len(large), 4000):
            fake.send(large[at : at + 4000])
            await asyncio.sleep(0.03)

    fake = Fake(Subscribe=slowly)
    async with fake.serving(), connected(fake.settings(), PASSWORD, leader=True) as link:
        await link.subscribe_from(STREAM, 0)
        assert await link.has_chunk(STREAM)


async def test_heartbeats_alone_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_ANSWER_S", 0.2)

    async def never(fake: Fake, _: int, __: bytes) -> None:
        for _ in range(50):
            fake.send(heartbeat())
            await asyncio.sleep(0.01)

    fake = Fake(Subscribe=never)
    async with fake.serving(), connected(fake.settings(), PASSWORD, leader=True) as link:
        with pytest.raises(LinkError, match="the broker does not answer"):
            await link.subscribe_from(STREAM, 0)


async def test_silence_ends_a_connection() -> None:
    fake = Fake()
    async with fake.serving(), connected(fake.settings(heartbeat=1), PASSWORD, leader=True) as link:
        began = asyncio.get_running_loop().time()
        assert "silent for 2 s" in await ended(link)
        assert asyncio.get_running_loop().time() - began < 2.5


async def test_a_broker_without_heartbeats_is_made_to_answer() -> None:
    fake = Fake()
    fake.heartbeat = 0
    async with fake.serving(), connected(fake.settings(heartbeat=1), PASSWORD, leader=True) as link:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(link.wait(), 2.6)
    assert fake.asked.count(Key.Metadata) >= 3
    assert Key.Heartbeat not in fake.asked


async def test_whoever_is_cancelled_leaves_nothing_behind() -> None:
    fake = Fake(Subscribe=subscribed_to(delivery(b"x" * 100)))

    async def use() -> None:
        async with connected(fake.settings(), PASSWORD, leader=True) as link:
            await link.subscribe_from(STREAM, 0)
            await link.has_chunk(STREAM)
            await link.probe(STREAM, OffsetType.LAST)

    async with fake.serving():
        before = asyncio.all_tasks()
        steps = 0
        while True:
            task = asyncio.create_task(use())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            # Again, while it is saying goodbye.
            again = task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await eventually(lambda: asyncio.all_tasks() == before)
            if not again and not task.cancelled():
                break
            steps += 1
    assert steps > 20


async def test_no_log_holds_the_password(caplog: pytest.LogCaptureFixture) -> None:
    link_module.quiet()
    caplog.set_level("DEBUG")
    for answers in ({}, {"SaslAuthenticate": code}, {"SaslAuthenticate": b"\x00\x00\x00\x02" + bytes(8)}):
        fake = Fake(**answers)
        async with fake.serving():
            with suppress(LinkError):
                async with connected(fake.settings(), PASSWORD, leader=True):
                    pass
    assert PASSWORD not in caplog.text
    assert "Sasl" not in caplog.text


def test_what_cannot_be_encoded_is_not_quoted() -> None:
    with pytest.raises(LinkError) as raised, explained():
        raise ValueError(PASSWORD)
    assert PASSWORD not in str(raised.value)
    assert raised.value.__suppress_context__
