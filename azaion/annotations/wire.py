"""What RabbitMQ streams deliver: chunks of entries, each a message or a (compressed) batch of them.

The layout of a chunk is that of osiris, the log under the streams, and of the ``Deliver`` command in the stream
protocol's description (rabbitmq_stream/docs/PROTOCOL.adoc). Nothing is decompressed before its turn comes, and nothing
beyond the size that it declares.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import cramjam

from azaion.annotations import amqp
from azaion.annotations.errors import AnnotationError, BadMessageError
from azaion.annotations.stream import Form, Message

#: Subscription, magic and version, type, entries, records, milliseconds, epoch, first offset, CRC, bytes of data, bytes
#: of trailer, reserved.
HEADER: Final = struct.Struct(">BBBHIqQQIIII")
#: The bit of an entry's first byte that tells a batch, and the four bits of its codec.
_BATCH_BIT: Final = 0x80
#: The codec's number and the number of messages, then the sizes, unpacked and as it is.
_BATCH_HEADER: Final = struct.Struct(">BHII")
#: A batch that says it is larger is not unpacked. Producers keep it, packed, below a frame (1 MiB by default).
MAX_BATCH_BYTES: Final = 128 << 20


class ChunkError(AnnotationError):
    """A chunk is damaged as a whole: on its way, or on the broker's disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Entries that the broker has written together.

    Attributes:
        first: the offset of its first message.
        entries: how many entries it has.
        records: how many messages they hold.
        taken: when the broker took it, in seconds since 1970.
        crc: the CRC-32 that its data should have.
        data: the entries.
    """

    first: int
    entries: int
    records: int
    taken: float
    crc: int
    data: memoryview

    @property
    def end(self) -> int:
        """The offset after its last message."""
        return self.first + self.records

    def check(self) -> None:
        """Compare the checksum.

        Raises:
            ChunkError: it differs.
        """
        if zlib.crc32(self.data) != self.crc:
            raise ChunkError(f"the chunk of messages {self.first} to {self.end - 1} fails its checksum")

    def messages(self, start: int = 0) -> Iterator[Message]:
        """Its messages from the offset ``start`` on. What cannot be read comes with its problem.

        Raises:
            ChunkError: the chunk does not hold what its header says.
        """
        at, offset = 0, self.first
        try:
            for _ in range(self.entries):
                if self.data[at] & _BATCH_BIT:
                    _, count, _, size = _BATCH_HEADER.unpack_from(self.data, at)
                    end = at + _BATCH_HEADER.size + size
                else:
                    count, end = 1, at + 4 + struct.unpack_from(">I", self.data, at)[0]
                if end > len(self.data) or offset + count > self.end:
                    raise IndexError  # noqa: TRY301 - the same end for all that is cut off
                if offset + count > start:
                    entry = self.data[at:end]
                    if entry[0] & _BATCH_BIT:
                        yield from (message for message in unpack(entry, offset) if _last(message) >= start)
                    else:
                        yield plain(entry[4:], offset)
                at, offset = end, offset + count
        except (IndexError, struct.error):
            raise ChunkError(f"the chunk of messages {self.first} to {self.end - 1} is cut off at byte {at}") from None
        if offset != self.end:
            raise ChunkError(f"the chunk at {self.first} holds {offset - self.first} messages, not {self.records}")


def plain(data: memoryview, offset: int) -> Message:
    """A message of an entry by itself."""
    try:
        status, body = amqp.read(data)
    except BadMessageError as error:
        return Message(offset=offset, body=data, form=Form.AMQP, problem=str(error))
    return Message(offset=offset, status=status, body=body)


def unpack(entry: memoryview, offset: int) -> Iterator[Message]:
    """The messages of an entry with many of them; one that stands for all if they cannot be unpacked."""
    first, count, unpacked, _ = _BATCH_HEADER.unpack_from(entry)
    try:
        data = _decompress((first >> 4) & 0x7, entry[_BATCH_HEADER.size :], unpacked)
        bounds = list(_bounds(data, count))
    except BadMessageError as error:
        if count:
            yield Message(offset=offset, body=entry, form=Form.BATCH, count=count, problem=str(error))
        return
    for number, (start, end) in enumerate(bounds):
        # A copy: a view of one small body would hold the whole batch, which may be a thousand times what was sent.
        message = plain(data[start:end], offset + number)
        yield replace(message, body=bytes(message.body))


def expand(message: Message) -> Iterator[Message]:
    """Read a message anew that could not be read before; each comes with its problem if it still cannot be."""
    body = memoryview(message.body)
    match message.form:
        case Form.AMQP:
            yield plain(body, message.offset)
        case Form.BATCH if len(body) >= _BATCH_HEADER.size:
            yield from unpack(body, message.offset)
        case _:
            yield message


def _last(message: Message) -> int:
    return message.offset + message.count - 1


def _bounds(data: memoryview, count: int) -> Iterator[tuple[int, int]]:
    at = 0
    for number in range(count):
        if at + 4 > len(data):
            raise BadMessageError(f"the batch ends after {number} of its {count} messages")
        start = at + 4
        at = start + struct.unpack_from(">I", data, at)[0]
        if at > len(data):
            raise BadMessageError(f"message {number} of the batch is cut off")
        yield start, at
    if at != len(data):
        raise BadMessageError(f"the batch has {len(data) - at} bytes after its last message")


def _decompress(codec: int, data: memoryview, size: int) -> memoryview:
    """Unpack a batch that should have ``size`` bytes: no more are made, and no less are taken."""
    if codec == 0:
        return data
    if size > MAX_BATCH_BYTES:
        raise BadMessageError(f"the batch says that it has {size} bytes, more than {MAX_BATCH_BYTES}")
    if codec not in _CODECS:
        raise BadMessageError(f"the batch is compressed by the unknown codec {codec}")
    name, decompress = _CODECS[codec]
    try:
        made = decompress(data, size)
    except (cramjam.DecompressionError, zlib.error, ValueError) as error:
        raise BadMessageError(f"the batch is no good {name} of {size} bytes: {error}"[:500]) from None
    if len(made) != size:
        raise BadMessageError(f"the batch has {len(made)} bytes and not the {size} that it says")
    return memoryview(made)


def _gzip(data: memoryview, size: int) -> bytes:
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    made = inflate.decompress(data, size + 1)
    if not inflate.eof and len(made) <= size:
        raise ValueError("it is cut off")
    return made


def _snappy(data: memoryview, size: int) -> bytearray:
    # Of the platform's two kinds of client the one writes frames, the other a bare block.
    framed = bytes(data[:10]) == b"\xff\x06\x00\x00sNaPpY"
    return _into(cramjam.snappy.decompress_into if framed else cramjam.snappy.decompress_raw_into, data, size)


def _into(decompress: Callable[[Any, Any], int], data: memoryview, size: int) -> bytearray:
    """It fails where there is more than the room given."""
    made = bytearray(size)
    del made[decompress(bytes(data), made) :]
    return made


#: The numbers are those of the stream protocol.
_CODECS: Final[dict[int, tuple[str, Callable[[memoryview, int], bytes | bytearray]]]] = {
    1: ("gzip", _gzip),
    2: ("snappy", _snappy),
    3: ("lz4", lambda data, size: _into(cramjam.lz4.decompress_into, data, size)),
    4: ("zstd", lambda data, size: _into(cramjam.zstd.decompress_into, data, size)),
}
