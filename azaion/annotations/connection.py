"""The bytes of a connection to the broker: read in large pieces, a chunk of the stream straight to where it stays.

rstream reads 256 bytes at a time, copies a chunk four times, and does not notice a broker that has fallen silent.
"""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from rstream import schema
from rstream.connection import Connection, ConnectionClosed
from rstream.constants import Key
from rstream.encoding import decode_frame

from azaion.annotations.errors import LinkError
from azaion.annotations.wire import HEADER, Chunk

#: How much is read at once, and how much the kernel's data may pile up in the process.
READ_BYTES: Final = 256 << 10
#: No chunk of a sane broker is larger: one is written for at most some hundred thousand messages.
MAX_FRAME_BYTES: Final = 512 << 20
_CONNECT_S: Final = 10.0


class ChunkConnection(Connection):
    """The bytes of a connection, read in large pieces, a chunk straight to where it stays."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None, silence: float) -> None:
        super().__init__(host, port, context)
        self._silence = silence
        self._where = f"{host}:{port}"
        self._doubt = "" if context is None else "; is RABBITMQ_TLS right?"
        self.received = 0

    async def open(self) -> None:
        """Connect.

        Raises:
            LinkError: nobody answers there.
        """
        try:
            async with asyncio.timeout(_CONNECT_S):
                self._reader, self._writer = await asyncio.open_connection(
                    self.host, self.port, ssl=self._ssl_context, limit=READ_BYTES
                )
        except TimeoutError:
            raise LinkError(f"{self._where} does not answer within {_CONNECT_S:g} s{self._doubt}") from None
        except ConnectionResetError:
            raise LinkError(f"{self._where} has hung up{self._doubt}") from None
        except ssl.SSLError:
            raise
        except OSError as error:
            raise LinkError(f"{self._where} cannot be reached: {error}") from None

    async def send(self, data: bytes) -> None:
        """Send a frame, and wait while the broker does not take it."""
        assert self._writer is not None  # noqa: S101 - of the type; a connection is open as long as it is used
        self._writer.write(data)
        async with self._patience():
            await self._writer.drain()

    async def receive(self, wanted: int) -> schema.Frame | tuple[int, Chunk]:
        """The next frame; a chunk comes with its subscription, and without data if that is another than ``wanted``."""
        length, key, _ = struct.unpack(">IHH", await self._exactly(8))
        left = length - 4
        if not 0 <= left <= MAX_FRAME_BYTES:
            raise LinkError(f"the broker sent a frame of {length} bytes")
        if key != Key.Deliver.value:
            return decode_frame(struct.pack(">HH", key, 1) + await self._exactly(left))
        fields = HEADER.unpack(await self._exactly(HEADER.size))
        subscription, _, kind, entries, records, stamp, _, first, crc, size, _, _ = fields
        if kind != 0 or size != left - HEADER.size:
            raise LinkError(f"the broker sent a chunk of kind {kind} with {left - HEADER.size} bytes instead of {size}")
        data = await self._exactly(size) if subscription == wanted else await self._skip(size)
        chunk = Chunk(
            first=first,
            entries=entries,
            records=records,
            taken=stamp / 1000,
            crc=crc,
            data=memoryview(data),
        )
        return subscription, chunk

    async def _exactly(self, size: int) -> bytearray:
        """So many bytes. Room is made as they come: for a hundred megabytes at once it takes 50 ms."""
        data = bytearray()
        while len(data) < size:
            data += await self._some(min(size - len(data), READ_BYTES))
        return data

    async def _skip(self, size: int) -> bytearray:
        while size:
            size -= len(await self._some(min(size, READ_BYTES)))
        return bytearray()

    async def _some(self, size: int) -> bytes:
        assert self._reader is not None  # noqa: S101 - as above
        async with self._patience():
            piece = await self._reader.read(size)
        if not piece:
            raise ConnectionClosed
        self.received += len(piece)
        return piece

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        """A broker sends heartbeats: one that is silent for two of them is gone, or stopped."""
        try:
            async with asyncio.timeout(self._silence):
                yield
        except TimeoutError:
            raise LinkError(f"the broker has been silent for {self._silence:g} s") from None

    async def close(self) -> None:
        """End it at once."""
        if self._writer is not None:
            self._writer.transport.abort()
            with suppress(OSError):
                await self._writer.wait_closed()
