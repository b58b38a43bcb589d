"""Whether the broker takes part in the stream protocol: as little of it as shows that the consumer could log in.

The daemon has no client library of the broker's, which would be most of its memory; these are eight frames.
https://github.com/rabbitmq/rabbitmq-server/blob/main/deps/rabbitmq_stream/docs/PROTOCOL.adoc
"""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import IntEnum
from typing import Final

from azaion.errors import AzaionError
from azaion.settings import RabbitMQ
from supervisor.health import words
from supervisor.health.looks import Seen
from supervisor.health.model import Verdict

#: So long a broker may take to accept a connection, and for each answer.
CONNECT_S: Final = 5.0
_ANSWER_S: Final = 5.0
_OK: Final = 1
_RESPONSE: Final = 0x8000
_MAX_FRAME: Final = 1 << 20
#: What the broker says, by its code.
_REFUSALS: Final = {
    2: "there is no such stream",
    6: "the stream is not available",
    8: "it refuses the user or the password",
    9: "it refuses the user or the password",
    12: "there is no such virtual host",
    16: "the user may not read there",
}


class _Key(IntEnum):
    METADATA = 0x0F
    PEER_PROPERTIES = 0x11
    SASL_HANDSHAKE = 0x12
    SASL_AUTHENTICATE = 0x13
    TUNE = 0x14
    OPEN = 0x15
    CLOSE = 0x16


class BrokerError(Exception):
    """The broker cannot be used; the message says why. `silent` if it merely does not answer."""

    def __init__(self, reason: str, advice: str, *, silent: bool = False) -> None:
        super().__init__(reason)
        self.advice: Final = advice
        self.silent: Final = silent


async def greet(settings: RabbitMQ, password: str, context: ssl.SSLContext | None) -> None:
    """Log in as the consumer does, ask for the stream, and leave.

    Raises:
        BrokerError: that is not possible.
    """
    async with _connected(settings, context) as call:
        await call(_Key.PEER_PROPERTIES, struct.pack(">i", 1) + _text("product") + _text("azaion health"))
        await call(_Key.SASL_HANDSHAKE, b"")
        plain = f"\0{settings.user}\0{password}".encode()
        await call(_Key.SASL_AUTHENTICATE, _text("PLAIN") + struct.pack(">i", len(plain)) + plain)
        await call(_Key.TUNE, struct.pack(">II", _MAX_FRAME, 0))
        await call(_Key.OPEN, _text(settings.vhost))
        await call(_Key.METADATA, struct.pack(">i", 1) + _text(settings.queue_name))
        with suppress(BrokerError):
            await call(_Key.CLOSE, struct.pack(">H", _OK) + _text("done"))


@asynccontextmanager
async def _connected(settings: RabbitMQ, context: ssl.SSLContext | None) -> AsyncIterator["_Conversation"]:
    where = f"{settings.host}:{settings.port}"
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(settings.host, settings.port, ssl=context)
    except TimeoutError:
        raise BrokerError(
            f"{where} has not answered within {CONNECT_S:g} s", "check the network and its firewalls", silent=True
        ) from None
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or str(error)
        raise BrokerError(f"{where} speaks no TLS that can be trusted: {reason}", "check RABBITMQ_TLS_CA") from None
    except OSError as error:
        raise BrokerError(
            f"{where} cannot be reached: {words.reason(error)}",
            "start RabbitMQ there, or check RABBITMQ_HOST, RABBITMQ_PORT and the network",
        ) from None
    try:
        yield _Conversation(reader, writer, where)
    finally:
        writer.transport.abort()


class _Conversation:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: str) -> None:
        self._reader = reader
        self._writer = writer
        self._where = where

    async def __call__(self, key: _Key, body: bytes) -> bytes:
        """Send a frame; returns the broker's answer."""
        asks = key is not _Key.TUNE
        try:
            async with asyncio.timeout(_ANSWER_S):
                if asks:
                    self._send(key, struct.pack(">I", key) + body)
                answer = await self._answer(key)
        except TimeoutError:
            raise BrokerError(
                f"{self._where} accepts connections and does not answer", "restart RabbitMQ there", silent=True
            ) from None
        except (OSError, asyncio.IncompleteReadError, struct.error):
            raise BrokerError(
                f"{self._where} has hung up at {key.name.lower().replace('_', ' ')}",
                "is it the port of RabbitMQ Streams (RABBITMQ_PORT, 5552 by default), and does RABBITMQ_TLS fit?",
            ) from None
        if not asks:
            # The broker speaks first, and wants to hear the same.
            self._send(key, body)
            return answer
        code = self._code(key, answer)
        if code != _OK:
            raise BrokerError(
                f"{self._where}: {_REFUSALS.get(code, f'it refuses with code {code}')}",
                "check RABBITMQ_USER, RABBITMQ_PASSWORD, RABBITMQ_VHOST and RABBITMQ_QUEUE_NAME",
            )
        return answer

    def _code(self, key: _Key, answer: bytes) -> int:
        try:
            return _status_of_stream(answer[4:]) if key is _Key.METADATA else struct.unpack_from(">4xH", answer)[0]
        except struct.error:
            raise BrokerError(
                f"{self._where} answers what is no answer", "is RabbitMQ there of a known version?"
            ) from None

    def _send(self, key: _Key, body: bytes) -> None:
        self._writer.write(struct.pack(">IHH", len(body) + 4, key, 1) + body)

    async def _answer(self, key: _Key) -> bytes:
        while True:
            (size,) = struct.unpack(">I", await self._reader.readexactly(4))
            if not 4 <= size <= _MAX_FRAME:  # noqa: PLR2004 - its key and its version
                raise OSError
            frame = await self._reader.readexactly(size)
            (found,) = struct.unpack_from(">H", frame)
            if found & ~_RESPONSE == key:
                return frame[4:]


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">h", len(data)) + data


def _status_of_stream(metadata: bytes) -> int:
    """The code of the one stream in an answer to METADATA, behind the list of brokers."""
    (count,) = struct.unpack_from(">i", metadata)
    place = 4
    for _ in range(count):
        (length,) = struct.unpack_from(">h", metadata, place + 2)
        place += 2 + 2 + max(0, length) + 4
    (length,) = struct.unpack_from(">h", metadata, place + 4)
    (code,) = struct.unpack_from(">H", metadata, place + 6 + length)
    return int(code)


class BrokerLook:
    """The look at the broker.

    Args:
        settings: where it is.
        secret: finds the password.
    """

    def __init__(self, settings: RabbitMQ, secret: Callable[[], str]) -> None:
        self._settings = settings
        self._secret = secret

    async def __call__(self) -> list[Seen]:
        """Greet it."""
        try:
            await greet(self._settings, self._secret(), await self._context())
        except BrokerError as error:
            return [Seen(verdict=Verdict.CRITICAL, text=str(error), advice=error.advice, sure=not error.silent)]
        except AzaionError as error:
            return [Seen(verdict=Verdict.CRITICAL, text=str(error), advice="azaionctl config check")]
        where = f"{self._settings.host}:{self._settings.port}"
        return [Seen(verdict=Verdict.OK, text=f"{where} answers, stream {self._settings.queue_name} is there")]

    async def _context(self) -> ssl.SSLContext | None:
        """Made anew each time: it is large, and the certificates may have been changed."""
        if not self._settings.tls:
            return None
        authority = str(self._settings.tls_ca) if self._settings.tls_ca else None
        try:
            return await asyncio.to_thread(ssl.create_default_context, cafile=authority)
        except OSError as error:
            raise BrokerError(f"{authority} cannot be used: {error}", "check RABBITMQ_TLS_CA") from None
