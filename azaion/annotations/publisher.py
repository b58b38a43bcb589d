"""A folder of images and labels, published to the broker's stream as the platform's own producer would.

A frame holds one entry of the stream, and the next one is sent when the broker has confirmed it. So nothing piles up,
here or at the broker, every confirmation is known to be of the last frame, and no chunk of the stream becomes larger
than what its readers must be able to take anyway.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from rstream import AMQPMessage, exceptions, schema
from rstream.compression import CompressionHelper, CompressionType

from azaion.annotations.errors import AnnotationError, LinkError
from azaion.annotations.importer import Folder, Imported, Made, Options, Problem
from azaion.annotations.link import Link, connected, explained, quiet
from azaion.annotations.message import STATUS_PROPERTY
from azaion.settings import RabbitMQ

#: A broker that has taken nothing for so long takes nothing any more.
CONFIRM_S: Final = 30
#: A sub-batch has no more messages, and no more bytes before it is packed, whatever the broker would take.
_BATCH_COUNT: Final = 64
_BATCH_BYTES: Final = 1 << 20
#: Room for what surrounds an entry in a frame, for the broker's readers as for us, and for what gzip adds to
#: data that it cannot make smaller.
_MARGIN_BYTES: Final = 1024
#: Where a broker sets no limit. The protocol has none beyond it.
_UNLIMITED_BYTES: Final = (1 << 31) - 1
_PUBLISHER: Final = 0
#: The bit that tells a sub-batch; its codec stands in the bits below.
_SUB_BATCH: Final = 0x80
_LENGTH_BYTES: Final = 4
#: rstream wants a limit also for what has another one, or ends with the connection.
_FOREVER_S: Final = 1 << 30


class Compression(StrEnum):
    """How sub-batches are packed."""

    NONE = "none"
    GZIP = "gzip"


_CODECS: Final = {Compression.NONE: CompressionType.No, Compression.GZIP: CompressionType.Gzip}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A frame with one entry of the stream.

    Attributes:
        frame: it.
        number: its number for the broker, who confirms it by that.
        count: how many messages it holds.
        done: with it, so many of the folder's images are done.
    """

    frame: schema.Publish | schema.PublishSubBatching
    number: int
    count: int
    done: int


@dataclass(frozen=True, slots=True)
class _Message:
    image: Path
    number: int
    data: bytes


def publish_folder(
    settings: RabbitMQ,
    password: str,
    folder: Path,
    options: Options,
    compression: Compression,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Send the images of a folder, as `azaion.annotations.importer.Folder` finds them, to the stream.

    When it returns, the broker has confirmed every annotation that it counts. A file that cannot be taken is told and
    left out. Publishing a folder again is harmless: the consumer applies each annotation once.

    Raises:
        AnnotationError: there is no such folder, or no image in it; or the broker cannot be reached, refuses, or has
            ceased to confirm: how many it has confirmed by then is told.
    """
    quiet()
    return asyncio.run(_publish(settings, password, Folder(folder, options), compression, progress))


def entries(folder: Folder, frame_max: int, compression: Compression) -> Iterator[Entry]:
    """The frames that carry a folder's messages, each made when its turn comes.

    Messages go in sub-batches as large as the frame allows. One for which no frame is large enough becomes a problem of
    the folder.
    """
    capacity = (frame_max or _UNLIMITED_BYTES) - _MARGIN_BYTES
    for number, batch in enumerate(_batches(folder.messages(), min(capacity, _BATCH_BYTES) - _MARGIN_BYTES)):
        frame = _frame(number, [message.data for message in batch], capacity, compression)
        if frame is not None:
            yield Entry(frame=frame, number=number, count=len(batch), done=batch[-1].number)
            continue
        # Several always fit.
        (message,) = batch
        reason = (
            f"its message of {len(message.data)} bytes does not fit into a frame of the broker, which has {frame_max} "
            f"bytes (its stream.frame_max)"
        )
        folder.problems.append(Problem(path=message.image, reason=reason))


async def _publish(
    settings: RabbitMQ,
    password: str,
    folder: Folder,
    compression: Compression,
    progress: Callable[[int, int], None] | None,
) -> Imported:
    confirmed = 0
    try:
        async with connected(settings, password, leader=True) as link, _declared(link, settings) as publisher:
            frames = entries(folder, link.frame_max, compression)
            # In a thread: reading and packing must not keep the heartbeats waiting.
            while (entry := await asyncio.to_thread(next, frames, None)) is not None:
                await publisher.send(entry)
                confirmed += entry.count
                if progress is not None:
                    progress(entry.done, len(folder))
            if progress is not None:
                progress(len(folder), len(folder))
    except LinkError as error:
        raise AnnotationError(
            f"{error}; the broker has confirmed {confirmed} of {len(folder)} annotations. Running it again is "
            f"harmless, for the consumer applies each one once"
        ) from None
    return Imported(sent=confirmed, problems=tuple(folder.problems))


class _Publisher:
    """A publisher on a connection.

    Args:
        link: the connection.
        refused: what the broker says if it does not take an entry.
    """

    def __init__(self, link: Link, refused: asyncio.Future[schema.PublishError]) -> None:
        self._link = link
        self._refused = refused

    async def send(self, entry: Entry) -> None:
        """Send an entry; returns when the broker has confirmed it.

        Raises:
            LinkError: it does not.
        """
        confirmed = asyncio.ensure_future(self._link.wait_frame(schema.PublishConfirm, timeout=_FOREVER_S))
        answers: list[asyncio.Future[Any]] = [confirmed, self._refused]
        try:
            with explained():
                await self._link.send_frame(entry.frame)
            done, _ = await asyncio.wait(answers, timeout=CONFIRM_S, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise LinkError(f"the broker has confirmed nothing for {CONFIRM_S} s")
            if self._refused in done:
                (error, *_) = (await self._refused).errors
                reason = exceptions.ServerError.from_code(error.response_code).__name__
                raise LinkError(f"the broker does not take the message: {reason}")
            if entry.number not in (await confirmed).publishing_ids:
                raise LinkError("the broker has confirmed what was not sent")
        finally:
            await _drop(confirmed)


@asynccontextmanager
async def _declared(link: Link, settings: RabbitMQ) -> AsyncIterator[_Publisher]:
    """Declare a publisher.

    Raises:
        LinkError: the broker refuses.
    """
    # One waiter for all: while an error is nobody's answer, it may come at any time.
    refused = asyncio.ensure_future(link.wait_frame(schema.PublishError, timeout=_FOREVER_S))
    try:
        with explained():
            try:
                await link.declare_publisher(settings.queue_name, None, _PUBLISHER)
            except exceptions.AccessRefused:
                raise LinkError(
                    f"the user {settings.user!r} may not write to the stream: give it the permission"
                ) from None
        yield _Publisher(link, refused)
    finally:
        await _drop(refused)


async def _drop(future: asyncio.Future[Any]) -> None:
    """Give up a future whose result, be it an error, nobody needs any more."""
    future.cancel()
    await asyncio.gather(future, return_exceptions=True)


def _batches(messages: Iterable[Made], limit: int) -> Iterator[list[_Message]]:
    """Messages that may share an entry; one that is larger than the limit is alone."""
    batch: list[_Message] = []
    size = 0
    for made in messages:
        data = bytes(AMQPMessage(body=made.body, application_properties={STATUS_PROPERTY: made.status}))
        message = _Message(made.image, made.number, data)
        if batch and (len(batch) == _BATCH_COUNT or size + len(data) + _LENGTH_BYTES > limit):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += len(data) + _LENGTH_BYTES
    if batch:
        yield batch


def _frame(
    number: int, messages: list[bytes], capacity: int, compression: Compression
) -> schema.Publish | schema.PublishSubBatching | None:
    """A frame with the messages; None if there is none that is large enough."""
    if len(messages) > 1 or compression is not Compression.NONE:
        packed = CompressionHelper.compress(messages, _CODECS[compression])
        if packed.compressed_size() <= capacity:
            return schema.PublishSubBatching(
                publisher_id=_PUBLISHER,
                number_of_root_messages=1,
                publishing_id=number,
                compress_type=_SUB_BATCH | packed.compression_type() << 4,
                subbatching_message_count=packed.messages_count(),
                uncompressed_data_size=packed.uncompressed_size(),
                compressed_data_size=packed.compressed_size(),
                messages=packed.data(),
            )
    (data,) = messages
    if len(data) > capacity:
        return None
    return schema.Publish(
        publisher_id=_PUBLISHER,
        messages=[schema.Message(publishing_id=number, filter_value=None, data=data)],
    )
