"""One connection to the broker: the adapter on rstream. This module and `connection` are all that knows its insides.

rstream's own listener logs whole frames (the password among them, at DEBUG), reads 256 bytes at a time, copies a chunk
four times, dies in silence of a bad frame and takes no notice of a broker that has fallen silent. So this class keeps
rstream's commands and frames, and replaces how bytes become frames and how a connection ends. It is written for the
release that pyproject.toml pins; ``tests/unit/test_link.py`` fails when what it replaces has changed.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

from rstream import exceptions, schema
from rstream.client import FT, Client
from rstream.connection import ConnectionClosed
from rstream.constants import OffsetType
from rstream.encoding import encode_frame

from azaion.annotations.connection import READ_BYTES, ChunkConnection
from azaion.annotations.errors import AnnotationError, LinkError
from azaion.annotations.wire import Chunk
from azaion.settings import RabbitMQ

#: So much may wait to be worked on before nothing more is asked for.
WINDOW_BYTES: Final = 32 << 20
#: With small chunks so much may be under way; more than that is asked for only by the chunk.
_UNDER_WAY_BYTES: Final = 4 << 20
_MAX_CREDIT: Final = 8
#: An answer may be behind a chunk that takes minutes to come. In so many seconds heartbeats alone are fewer bytes.
_ANSWER_S: Final = 10.0
_TRICKLE_BYTES: Final = 1024
_CLOSE_S: Final = 0.5
_LOAD_BALANCER_TRIES: Final = 50
#: What is asked for is bounded by what the broker offers.
_ANY_SIZE: Final = 0x7FFFFFFF

#: Numbers of subscriptions: the one that is read, and those that only look.
_MAIN: Final = 0
_MAX_PROBE: Final = 100


class Link(Client):
    """A connection to one node of the broker, with at most one subscription.

    It keeps the chunks that have come in ``chunks``, and stops reading when they become too much.
    """

    def __init__(self, settings: RabbitMQ, context: ssl.SSLContext | None, host: str, port: int) -> None:
        super().__init__(
            host=host,
            port=port,
            ssl_context=context,
            frame_max=_ANY_SIZE,
            heartbeat=settings.heartbeat,
            connection_name="azaion",
        )
        self.chunks: deque[Chunk] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._heartbeat_wanted = settings.heartbeat
        self._stream = settings.queue_name
        self._waiting_bytes = 0
        self._last_bytes = READ_BYTES
        self._credit_left = 0
        self._probe = 0
        self._probed: asyncio.Future[tuple[int, int]] | None = None
        self._failure: LinkError | None = None

    # What the source asks for.

    async def subscribe_from(self, stream: str, offset: OffsetType | int) -> None:
        """Have chunks delivered, from the one that holds the offset."""
        self._credit_left = 1
        with explained():
            await self.subscribe(stream, _MAIN, _specification(offset), initial_credit=1)

    async def has_chunk(self, stream: str) -> bool:
        """Whether a chunk has come of what the stream held when this was called; it waits for no other."""
        arrived = asyncio.ensure_future(self._arrived.wait())
        try:
            with explained():
                await self._sent(stream, arrived)
        finally:
            arrived.cancel()
            await asyncio.gather(arrived, return_exceptions=True)
        if not self.chunks:
            self._check()
        return bool(self.chunks)

    async def wait(self) -> None:
        """Wait until there is a chunk.

        Raises:
            LinkError: the connection has ended, and every chunk that came over it has been taken.
        """
        await self._arrived.wait()
        if not self.chunks:
            self._check()

    async def release(self, done: int) -> None:
        """Say that chunks of so many bytes are done with, which makes room for others."""
        self._waiting_bytes -= done
        if not self.chunks and self._failure is None:
            self._arrived.clear()
        if self._waiting_bytes < WINDOW_BYTES:
            self._room.set()
        await self._ask()

    @property
    def behind(self) -> bool:
        """Whether the broker may have more than has come: it has none if it may send a chunk and does not."""
        return self._failure is None and (self._waiting_bytes > 0 or self._credit_left == 0)

    async def probe(self, stream: str, offset: OffsetType) -> tuple[int, int] | None:
        """The first offset of the chunk at an end of the stream, and the offset after its last; None if it is empty."""
        self._probed = asyncio.get_running_loop().create_future()
        self._probe = self._probe % _MAX_PROBE + 1
        try:
            with explained():
                await self.subscribe(stream, self._probe, schema.OffsetSpec(offset), initial_credit=1)
                await self._sent(stream, self._probed)
                await self.unsubscribe(self._probe)
            return self._probed.result() if self._probed.done() else None
        finally:
            self._probed = None

    async def _sent(self, stream: str, chunk: asyncio.Future[Any]) -> None:
        """Wait for a chunk for as long as the broker may still send one.

        It sends what a subscription's credit allows before it looks at the next command: when that one is answered and
        no chunk has come, there was none.
        """
        answered = asyncio.ensure_future(self.stream_exists(stream))
        try:
            await asyncio.wait({answered, chunk}, return_when=asyncio.FIRST_COMPLETED)
            if not chunk.done():
                await answered
        finally:
            answered.cancel()
            await asyncio.gather(answered, return_exceptions=True)

    # Instead of rstream's own.

    async def start(self) -> None:
        """Connect, and begin to read."""
        connection = ChunkConnection(self.host, self.port, self._ssl_context, 2.0 * self._heartbeat)
        await connection.open()
        self._conn = connection
        self.start_task("listener", self._listener())

    async def peer_properties(self) -> dict[str, str]:
        """What the broker says of itself; nothing is asked before."""
        try:
            return await super().peer_properties()
        except (LinkError, TimeoutError) as error:
            problem = str(error) or "the broker does not answer"
            raise LinkError(
                f"{problem}; is RABBITMQ_PORT the one for RabbitMQ Streams, and RABBITMQ_TLS right?"
            ) from None

    async def sync_request(self, frame: schema.Frame, resp_schema: type[FT], raise_exception: bool = True) -> FT:  # noqa: FBT001, FBT002 - rstream's
        """Send a request and wait for its answer, as long as anything comes.

        Raises:
            TimeoutError: nothing but heartbeats comes.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        key = resp_schema.key, frame.corr_id
        self._waiters[key] = answer
        try:
            await self.send_frame(frame)
            # It may be behind chunks for which there is no room.
            self._room.set()
            while not answer.done():
                before = self._connection.received
                await asyncio.wait({answer}, timeout=_ANSWER_S)
                if not answer.done() and self._connection.received - before < _TRICKLE_BYTES:
                    raise TimeoutError
        finally:
            self._waiters.pop(key, None)
        response: FT = answer.result()
        response.check_response_code(raise_exception=raise_exception)
        return response

    async def send_frame(self, frame: schema.Frame, version: int = 1) -> None:
        """Send a frame; unlike rstream's it is not logged, and an error is one."""
        self._check()
        connection = self._connection
        try:
            await connection.send(encode_frame(frame, version))
        except OSError as error:
            raise self._fail(LinkError(f"the connection is gone: {error}")) from None

    async def _listener(self) -> None:
        connection = self._connection
        try:
            while True:
                await self._room.wait()
                # Of a probe's chunk only the header is wanted.
                frame = await connection.receive(_MAIN)
                if isinstance(frame, tuple):
                    await self._deliver(*frame)
                else:
                    self._hear(frame)
        except ConnectionClosed:
            self._fail(LinkError("the broker has closed the connection"))
        except OSError as error:
            self._fail(LinkError(f"the connection is gone: {error}"))
        except LinkError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - whatever a bad frame does to rstream, another connection may do better
            self._fail(LinkError(f"the broker sent what cannot be read: {type(error).__name__}: {error}"[:500]))

    async def _deliver(self, subscription: int, chunk: Chunk) -> None:
        if subscription != _MAIN:
            if self._probed is not None and not self._probed.done():
                self._probed.set_result((chunk.first, chunk.end))
            return
        self._credit_left -= 1
        self._last_bytes = len(chunk.data)
        self._waiting_bytes += len(chunk.data)
        self.chunks.append(chunk)
        self._arrived.set()
        if self._waiting_bytes >= 2 * WINDOW_BYTES and not self._waiters:
            self._room.clear()
        await self._ask()

    async def _ask(self) -> None:
        """Ask for as many chunks as there is room for: one, or some small ones, as each costs a way there and back."""
        if self._failure is not None or self._waiting_bytes >= WINDOW_BYTES:
            return
        wanted = max(1, min(_MAX_CREDIT, _UNDER_WAY_BYTES // max(1, self._last_bytes)))
        if (more := wanted - self._credit_left) > 0:
            self._credit_left += more
            await self.credit(_MAIN, more)

    def _hear(self, frame: schema.Frame) -> None:
        match frame:
            case schema.Heartbeat() | schema.Credit() | schema.CreditResponse():
                return
            case schema.Close(reason=reason):
                raise LinkError(f"the broker has closed the connection: {reason}{_advice(reason)}")
            case schema.MetadataUpdate(metadata_info=told):
                raise LinkError(f"the stream {told.stream!r} has been moved or deleted")
        future = self._waiters.pop((frame.key, frame.corr_id), None)
        if future is not None and not future.done():
            future.set_result(frame)

    def _fail(self, error: LinkError) -> LinkError:
        """End the connection; everyone who waits hears of it."""
        self._is_not_closed = False
        if self._failure is None:
            self._failure = error
        self._arrived.set()
        waiting: list[asyncio.Future[Any] | None] = [*self._waiters.values(), self._probed]
        for future in waiting:
            if future is not None and not future.done():
                future.set_exception(self._failure)
                # It may be that nobody waits for it.
                future.exception()
        return self._failure

    async def close(self) -> None:
        """Say goodbye if there is somebody to hear it, and end the connection."""
        try:
            if self._failure is None and self.is_started:
                with suppress(AnnotationError, TimeoutError, exceptions.ServerError):
                    async with asyncio.timeout(_CLOSE_S):
                        goodbye = schema.Close(self._corr_id_seq.next(), code=1, reason="OK")
                        await self.sync_request(goodbye, resp_schema=schema.CloseResponse)
        finally:
            # Who is cancelled here leaves nothing behind either: all is ended before anything is waited for.
            self._fail(LinkError("the connection has been closed"))
            tasks, connection = [*self._tasks.values()], self._conn
            self._tasks.clear()
            self._conn = None
            for task in tasks:
                task.cancel()
            if isinstance(connection, ChunkConnection):
                await connection.close()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _connection(self) -> ChunkConnection:
        if not isinstance(self._conn, ChunkConnection):
            raise LinkError("the connection has been closed")
        return self._conn

    def _check(self) -> None:
        if self._failure is not None:
            raise LinkError(str(self._failure))

    async def _heartbeat_sender(self) -> None:
        """Tell the broker that we live; one that sends no heartbeats itself is made to answer, so that it is heard."""
        with suppress(AnnotationError, TimeoutError, exceptions.ServerError):
            while True:
                if self._heartbeat:
                    await self.send_frame(schema.Heartbeat())
                else:
                    await self.stream_exists(self._stream)
                await asyncio.sleep(self._heartbeat or self._heartbeat_wanted)


@asynccontextmanager
async def connected(settings: RabbitMQ, password: str, *, leader: bool) -> AsyncIterator[Link]:
    """A connection to a node that has the stream: a replica, to spare the leader, unless it must be that one.

    Raises:
        LinkError: there is none, with the reason and what to do.
    """
    context = ssl_context(settings)
    with explained():
        link = await _open(settings, password, context, settings.host, settings.port)
    try:
        with explained():
            leading, replicas = await link.query_leader_and_replicas(settings.queue_name)
        node = leading if leader or not replicas else replicas[0]
        if not _is(link, node):
            await link.close()
            with explained():
                link = await _reach(settings, password, context, node)
        yield link
    finally:
        await link.close()


def ssl_context(settings: RabbitMQ) -> ssl.SSLContext | None:
    """How to verify the broker; None where TLS is off.

    Raises:
        LinkError: the certificates of the authority cannot be read.
    """
    if not settings.tls:
        return None
    try:
        return ssl.create_default_context(cafile=None if settings.tls_ca is None else str(settings.tls_ca))
    except OSError as error:
        raise LinkError(f"RABBITMQ_TLS_CA: {settings.tls_ca} cannot be used: {error}") from None


async def _open(settings: RabbitMQ, password: str, context: ssl.SSLContext | None, host: str, port: int) -> Link:
    link = Link(settings, context, host, port)
    try:
        await link.start()
        await link.authenticate(settings.vhost, settings.user, password)
    except (exceptions.AuthenticationFailure, exceptions.SASLAuthenticationFailureLoopback):
        await link.close()
        raise LinkError(
            f"the broker refuses the user {settings.user!r}: mend RABBITMQ_USER or RABBITMQ_PASSWORD"
        ) from None
    except exceptions.VirtualHostAccessFailure:
        await link.close()
        raise LinkError(
            f"the user {settings.user!r} may not use the virtual host {settings.vhost!r}: mend RABBITMQ_VHOST or the "
            f"user's permissions"
        ) from None
    except BaseException:
        await link.close()
        raise
    return link


async def _reach(settings: RabbitMQ, password: str, context: ssl.SSLContext | None, node: schema.Broker) -> Link:
    """Connect to a node: straight, or through the load balancer again and again until it is that one."""
    if not settings.load_balancer:
        try:
            with explained():
                return await _open(settings, password, context, node.host, node.port)
        except LinkError as error:
            raise LinkError(
                f"{error} (the broker says that the stream is at {node.host}:{node.port}; if only "
                f"{settings.host}:{settings.port} can be reached from here, set RABBITMQ_LOAD_BALANCER=true)"
            ) from None
    for _ in range(_LOAD_BALANCER_TRIES):
        link = await _open(settings, password, context, settings.host, settings.port)
        if _is(link, node):
            return link
        await link.close()
    raise LinkError(
        f"the load balancer {settings.host}:{settings.port} did not lead to {node.host}:{node.port} in "
        f"{_LOAD_BALANCER_TRIES} attempts: does it know that node, and does the node advertise itself by that name?"
    )


def _is(link: Link, node: schema.Broker) -> bool:
    properties = link.server_properties or {}
    return (properties.get("advertised_host"), properties.get("advertised_port")) == (node.host, str(node.port))


def _specification(offset: OffsetType | int) -> schema.OffsetSpec:
    if isinstance(offset, OffsetType):
        return schema.OffsetSpec(offset)
    return schema.OffsetSpecOffset(OffsetType.OFFSET, offset)


def _advice(reason: str) -> str:
    if "frame" in reason.lower() and "large" in reason.lower():
        return " (a chunk of the stream is larger than the broker's stream.frame_max: raise that)"
    return ""


@contextmanager
def explained() -> Iterator[None]:
    """Turn what rstream, the system and TLS raise into a `LinkError` that says what to do."""
    try:
        yield
    except exceptions.StreamDoesNotExist:
        raise LinkError("the stream does not exist: create it, or mend RABBITMQ_QUEUE_NAME or RABBITMQ_VHOST") from None
    except exceptions.AccessRefused:
        raise LinkError("the user may not read the stream: give it the permission") from None
    except (exceptions.ServerError, exceptions.ClientError) as error:
        raise LinkError(f"the broker refuses: {type(error).__name__} {error}".rstrip()) from None
    except TimeoutError:
        raise LinkError("the broker does not answer") from None
    except ssl.SSLError as error:
        raise LinkError(f"TLS: {error}; is RABBITMQ_TLS_CA right, and the certificate made for this host?") from None
    except OSError as error:
        raise LinkError(f"the broker cannot be reached: {error}") from None
    except (ArithmeticError, AssertionError, LookupError, ValueError) as error:
        # Without its text: some of rstream's quote the frame, and with it the password.
        raise LinkError(f"rstream and the broker do not understand each other: {type(error).__name__}") from None


def quiet() -> None:
    """Keep rstream from logging frames, which hold the password and the messages, whatever the level of the root."""
    logging.getLogger("rstream").setLevel(logging.WARNING)
