"""The brokers of the tests do what they promise."""

import asyncio
import itertools
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rstream import (
    AMQPMessage,
    Consumer,
    ConsumerOffsetSpecification,
    MessageContext,
    OffsetType,
    ServerError,
    amqp_decoder,
)

from tests import brokers
from tests.brokers import Broker, Entry, Retention, broker, hang_up
from tests.proxies import Proxy
from tests.waiting import until

_ORPHAN = """
import sys
from tests.brokers import Broker
rabbit = Broker()
rabbit.launch()
rabbit.pause()
print(rabbit.pid, rabbit.folder, flush=True)
sys.stdin.read()
"""

Received = asyncio.Queue[tuple[int, AMQPMessage]]


@asynccontextmanager
async def consuming(options: dict[str, Any], stream: str, first: int = 0) -> AsyncIterator[Received]:
    """What rstream's own consumer gets."""
    received: Received = asyncio.Queue()

    def take(message: AMQPMessage, context: MessageContext) -> None:
        assert context.offset is not None
        received.put_nowait((context.offset, message))

    consumer = Consumer(**options, on_close_handler=lambda _: None)
    start = ConsumerOffsetSpecification(OffsetType.OFFSET, first)
    try:
        await consumer.subscribe(stream, take, decoder=amqp_decoder, offset_specification=start)
        yield received
    finally:
        # Its own `close` fails with a KeyError when the connection breaks meanwhile.
        for client in itertools.chain(*consumer._pool._clients.values()):
            await hang_up(client)


async def taken(received: Received, count: int) -> list[tuple[int, bytes]]:
    messages = [await asyncio.wait_for(received.get(), 20) for _ in range(count)]
    return [(offset, bytes(message.body)) for offset, message in messages]


def numbered(first: int, end: int) -> list[tuple[int, bytes]]:
    return [(number, str(number).encode()) for number in range(first, end)]


def sent(first: int, end: int) -> list[tuple[int, bytes]]:
    return [(10, body) for _, body in numbered(first, end)]


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with Proxy() as made:
        yield made


@pytest.fixture(scope="module")
def victim(proxy: Proxy) -> Iterator[Broker]:
    """A broker for all that the shared one must not suffer."""
    with broker(
        tls=True,
        vhost="platform",
        advertised=proxy.address,
        retention=Retention(segment_bytes=20_000, max_length_bytes=40_000),
    ) as made:
        proxy.upstream = (made.host, made.port)
        yield made


@pytest.mark.parametrize("compression", [None, "none", "gzip"])
async def test_what_is_published_is_read(rabbit: Broker, stream: str, compression: str | None) -> None:
    assert await rabbit.apublish(sent(0, 25), stream=stream, sub_batch=compression, batch=10) == 25
    async with consuming(rabbit.credentials, stream) as received:
        messages = [await asyncio.wait_for(received.get(), 20) for _ in range(25)]
    assert [(offset, bytes(message.body)) for offset, message in messages] == numbered(0, 25)
    assert {message.application_properties[b"AnnotationStatus"] for _, message in messages} == {10}


def test_a_message_need_not_be_amqp_nor_a_sub_batch_true(rabbit: Broker, stream: str) -> None:
    rabbit.publish([b"\x00nonsense", ("Created", b"body"), (None, b"")], stream=stream)
    (first, named, bare) = (body for _, body in rabbit.read(3, stream=stream))
    assert first == b"\x00nonsense"
    assert b"AnnotationStatus" in named
    assert b"Created" in named
    assert b"AnnotationStatus" not in bare
    rabbit.publish_entry(Entry(kind=1, content=b"no gzip", count=5, size=1 << 30), stream=stream)
    rabbit.publish([b"after it"], stream=stream)
    assert rabbit.read(1, first=8, stream=stream) == [(8, b"after it")]


def test_the_reader_may_not_write(rabbit: Broker, stream: str) -> None:
    rabbit.publish([(10, b"body")], stream=stream)

    user = {"username": rabbit.reader.name, "password": rabbit.reader.password}

    async def read() -> list[tuple[int, bytes]]:
        async with consuming(rabbit.credentials | user, stream) as received:
            return await taken(received, 1)

    assert asyncio.run(read()) == [(0, b"body")]

    async def write() -> None:
        async with rabbit._client(rabbit.reader) as client:
            await client.declare_publisher(stream, None, 0)

    with pytest.raises(ServerError) as refused:
        asyncio.run(write())
    assert type(refused.value).__name__ == "AccessRefused"


def test_a_stream_made_anew_is_empty(rabbit: Broker, stream: str) -> None:
    rabbit.publish(sent(0, 3), stream=stream)
    rabbit.recreate(stream)
    rabbit.publish([b"new"], stream=stream)
    assert rabbit.read(1, stream=stream) == [(0, b"new")]


def test_a_killed_broker_keeps_what_it_confirmed(victim: Broker) -> None:
    stream = victim.fresh()
    victim.publish(sent(0, 50), stream=stream)
    victim.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((victim.host, victim.port))
    victim.start()
    victim.publish(sent(50, 60), stream=stream)
    assert [offset for offset, _ in victim.read(60, stream=stream)] == list(range(60))


def test_a_paused_broker_is_silent_and_goes_on(victim: Broker) -> None:
    victim.pause()
    try:
        with socket.create_connection((victim.host, victim.port), timeout=0.3) as client:
            # A frame that any broker answers: the peer's properties, none of ours.
            client.sendall(bytes.fromhex("0000000c 0011 0001 00000001 00000000"))
            with pytest.raises(TimeoutError):
                client.recv(1)
            victim.resume()
            client.settimeout(20)
            assert client.recv(1)
    finally:
        victim.resume()


def test_retention_drops_the_first_messages(victim: Broker) -> None:
    victim.publish(sent(0, 10))
    first = victim.truncate(10)
    assert first >= 10
    assert victim.first_offset() == first


async def test_its_certificate_is_good(victim: Broker) -> None:
    trusting = ssl.create_default_context(cafile=victim.ca)
    _, writer = await asyncio.open_connection(victim.host, victim.tls_port, ssl=trusting)
    writer.close()
    await writer.wait_closed()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection(victim.host, victim.tls_port, ssl=ssl.create_default_context())


async def test_a_proxy_cuts_stalls_and_goes_on(victim: Broker, proxy: Proxy) -> None:
    stream = await asyncio.to_thread(victim.fresh)
    through = victim.credentials | {"port": proxy.address[1]}
    cuts = proxy.cuts
    async with consuming(victim.credentials, stream) as received:
        # It came by the front door and was sent to the proxy.
        await victim.apublish(sent(0, 1), stream=stream)
        await taken(received, 1)
        proxy.cut_after(1000)
        await victim.apublish([(10, bytes(5000))], stream=stream)
        await asyncio.to_thread(until, lambda: proxy.cuts > cuts, "the proxy cuts")
        assert received.empty()
    async with consuming(through, stream, first=1) as received:
        assert await taken(received, 1) == [(1, bytes(5000))]
        proxy.stall()
        await victim.apublish([(10, b"held back")], stream=stream)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(received.get(), 0.3)
        proxy.go_on()
        assert await taken(received, 1) == [(2, b"held back")]


def test_it_dies_with_a_killed_test_run() -> None:
    brokers.required()
    run = subprocess.Popen(
        [sys.executable, "-c", _ORPHAN], cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert run.stdin is not None
    assert run.stdout is not None
    with run.stdin, run.stdout:
        pid, folder = run.stdout.readline().decode().split()
        assert Path(folder, "home").is_dir()
        run.send_signal(signal.SIGKILL)
        run.wait()
    until(lambda: not Path("/proc", pid).exists(), "the broker is dead")
    until(lambda: not Path(folder).exists(), "its folder is gone")


def test_without_rabbitmq_tests_are_skipped_or_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brokers, "installed", lambda: None)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("AZAION_REQUIRE_RABBITMQ", raising=False)
    with pytest.raises(pytest.skip.Exception, match="rabbitmq-server"):
        Broker()
    monkeypatch.setenv("AZAION_REQUIRE_RABBITMQ", "1")
    with pytest.raises(pytest.fail.Exception, match="rabbitmq-server"):
        Broker()
