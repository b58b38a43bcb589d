"""Annotations from a RabbitMQ stream: finds its place, stays connected, and blocks rather than lose or mix anything."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from hashlib import sha256
from typing import Final

import structlog
from rstream.constants import OffsetType

from azaion import backoff
from azaion.annotations.errors import BlockedError, LinkError
from azaion.annotations.link import Link, connected
from azaion.annotations.offset import Position
from azaion.annotations.stream import GROUP_BYTES, GROUP_COUNT, Batch, Choice, Form, Lag, Message
from azaion.annotations.wire import Chunk, ChunkError
from azaion.errors import AzaionError
from azaion.settings import RabbitMQ

#: A connection that lived this long, or brought something, was a good one.
_HEALTHY_S: Final = 10.0
#: A chunk may be damaged on its way; one that is damaged so often is so on the broker's disk.
_DAMAGES: Final = 3
#: How often the end of the stream is looked for while we are behind it.
_LOOK_S: Final = 10.0

_CONNECTING: Final = "connecting"

_log = structlog.get_logger("azaion.rabbitmq")


class RabbitMQSource:
    """A stream of the broker.

    Args:
        settings: where it is.
        password: finds the password; called at every attempt, since it may be changed.
    """

    def __init__(self, settings: RabbitMQ, password: Callable[[], str]) -> None:
        self._settings = settings
        self._password = password
        self._stream = settings.queue_name
        self.name = settings.queue_name if settings.vhost == "/" else f"{settings.vhost}/{settings.queue_name}"
        self.trouble: str | None = _CONNECTING
        self._leader = False
        self._damages = 0
        self._end: int | None = None
        self._taker: _Taker | None = None

    async def batches(self, position: Position | None) -> AsyncGenerator[Batch]:
        """See `Source`."""
        if position is not None and position.stream is not None and position.stream != self.name:
            raise BlockedError(
                f"offset {position.offset} of the stream {position.stream!r} is stored, and this is {self.name!r}",
                anew=True,
            )
        self._end = None
        self.trouble = _CONNECTING
        delays = backoff.delays()
        while True:
            began, was = time.monotonic(), position
            try:
                async with aclosing(self._session(position)) as batches:
                    async for batch in batches:
                        yield batch
                        position = batch.position
            except (LinkError, ChunkError) as error:
                self._note(error)
            if position is not was or time.monotonic() - began > _HEALTHY_S:
                delays = backoff.delays()
            pause = next(delays)
            _log.warning("disconnected", reason=self.trouble, again_in_s=round(pause, 1))
            await asyncio.sleep(pause)

    async def lag(self, position: Position) -> Lag:
        """See `Source`."""
        if self._end is None:
            return Lag(messages=None)
        taker = self._taker
        behind = max(0, self._end - position.offset, taker.arrived - position.offset if taker is not None else 0)
        if not behind and self.trouble is not None:
            # What has come since it was cut off nobody knows.
            return Lag(messages=None)
        since = taker.waiting_since if taker is not None else None
        return Lag(messages=behind, seconds=max(0.0, time.time() - since) if behind and since is not None else None)

    async def resolve(self, choice: Choice | int, position: Position | None, *, anew: bool) -> Position:
        """See `Source`."""
        if choice is Choice.STORED:
            if position is None:
                raise BlockedError("no offset is stored: choose another place")
            return position
        async with connected(self._settings, self._secret(), leader=True) as link:
            first, end = await _ends(link, self._stream)
        offset = {Choice.FIRST: first, Choice.NEXT: end}.get(choice) if isinstance(choice, Choice) else choice
        if offset is None or not first <= offset <= end:
            raise BlockedError(f"offset {offset} is not in the stream: it holds {_span(first, end)}")
        if position is None or anew or position.stream not in {None, self.name}:
            incarnation = max(_now(), position.incarnation + 1 if position is not None else 0)
        else:
            incarnation = position.incarnation
        return Position(incarnation, offset, stream=self.name)

    # One connection.

    async def _session(self, position: Position | None) -> AsyncGenerator[Batch]:
        async with connected(self._settings, self._secret(), leader=self._leader) as link:
            fresh = position is None
            if position is None:
                await link.subscribe_from(self._stream, OffsetType.FIRST)
                position = Position(_now(), 0, stream=self.name)
                await link.has_chunk(self._stream)
            else:
                await self._find(link, position)
            if not link.chunks:
                self._end = max(self._end or 0, position.offset)
            self._leader = False
            self.trouble = None
            _log.info("connected", host=link.host, port=link.port, stream=self.name, offset=position.offset)
            taker = self._taker = _Taker(link.chunks, position)
            looked = -_LOOK_S
            try:
                while True:
                    if not taker.busy:
                        await link.wait()
                        if taker.gap is not None:
                            if fresh:
                                _log.warning("retention has already removed the beginning", first=taker.gap.stop)
                            else:
                                await self._explain(link, taker.gap)
                            taker.leap()
                        fresh = False
                    batch, done = await asyncio.to_thread(taker.take)
                    self._end = max(self._end or 0, taker.end)
                    if batch is not None:
                        yield batch
                        self._damages = 0
                    await link.release(done)
                    # Not before something has been read: where the last chunk is beyond what the broker may send, it
                    # hangs up.
                    if time.monotonic() - looked >= _LOOK_S and link.behind:
                        await self._look(link)
                        looked = time.monotonic()
            finally:
                self._taker = None

    async def _find(self, link: Link, position: Position) -> None:
        """Subscribe at a position, once it is sure that it belongs to the stream and that nothing is missing there.

        The message before it, if it is known, is asked for too: it shows that the stream is still the same. Numbers
        alone do not, and neither does a hole in them: the broker's own notes in the stream have numbers too.
        """
        offset = position.offset
        known = position.anchor is not None and offset > 0
        asked = offset - 1 if known else offset
        await link.subscribe_from(self._stream, asked)
        chunk = link.chunks[0] if await link.has_chunk(self._stream) else None
        if chunk is not None and chunk.first <= asked < chunk.end:
            if known and not await asyncio.to_thread(_holds, chunk, position):
                held = _told(offset, *await _ends(link, self._stream))
                self._doubt(
                    f"message {asked} is not the one that was read last, so the stream has been made anew: {held}",
                    anew=True,
                )
            return
        ends = await _ends(link, self._stream)
        held = _told(offset, *ends)
        if ends[0] > offset:
            self._doubt(f"messages {offset} to {ends[0] - 1} are gone, removed by retention: {held}", anew=False)
        if ends[1] < offset:
            self._doubt(f"the stream has been made anew, or has lost messages: {held}", anew=True)
        if ends[0] <= asked < ends[1] and known:
            if chunk is None:
                raise LinkError(f"message {asked} has come too late; {held}")
            self._doubt(f"message {asked} was read last, and there is none: the stream has been made anew", anew=True)

    async def _explain(self, link: Link, gap: range) -> None:
        """Make sure that what is missing between two chunks are numbers of the broker's own notes.

        A reader that is overtaken by retention is given what is left, without a word.
        """
        found = await link.probe(self._stream, OffsetType.FIRST)
        if found is None or found[0] > gap.start:
            raise LinkError(f"messages {gap.start} to {gap.stop - 1} have not come")

    def _doubt(self, problem: str, *, anew: bool) -> None:
        """Block, but only on the word of the leader: a replica may be late."""
        if not self._leader:
            raise LinkError(f"{problem}; asking the leader")
        raise BlockedError(problem, anew=anew)

    async def _look(self, link: Link) -> None:
        """See where the stream ends. Its last chunk is sent for that, so it is not done often."""
        found = await link.probe(self._stream, OffsetType.LAST)
        if found is not None:
            self._end = max(self._end or 0, found[1])

    def _note(self, error: AzaionError) -> None:
        """Note why a session has ended, or was none."""
        # Who did not come as far as to read asks another node next time.
        self._leader = self.trouble is not None and not self._leader
        self.trouble = str(error)
        self._damages = self._damages + 1 if isinstance(error, ChunkError) else 0
        if self._damages >= _DAMAGES:
            raise BlockedError(f"{error}, {self._damages} times over: it is damaged on the broker's disk")

    def _secret(self) -> str:
        try:
            return self._password()
        except AzaionError as error:
            raise LinkError(str(error)) from None


class _Taker:
    """Cuts chunks into groups of messages. Its work is for a thread: it checks, unpacks and hashes."""

    def __init__(self, chunks: deque[Chunk], position: Position) -> None:
        self._chunks = chunks
        self._position = position
        self._chunk: Chunk | None = None
        self._messages: Iterator[Message] = iter(())
        self._damage: ChunkError | None = None
        self._taken: float | None = None
        self.end = position.offset

    @property
    def busy(self) -> bool:
        """Whether a chunk has been begun."""
        return self._chunk is not None

    @property
    def waiting_since(self) -> float | None:
        """When the broker took the oldest chunk that is not done."""
        chunk = self._chunk
        with suppress(IndexError):
            return (chunk or self._chunks[0]).taken
        # The group in hand is the rest of the last one.
        return self._taken

    @property
    def arrived(self) -> int:
        """The offset after the last message that has come."""
        with suppress(IndexError):
            return self._chunks[-1].end
        return self.end

    @property
    def gap(self) -> range | None:
        """The numbers that are missing before the next chunk, if any are."""
        if self._chunk is None and self._chunks and self._chunks[0].first > self.end:
            return range(self.end, self._chunks[0].first)
        return None

    def leap(self) -> None:
        """Go on behind the gap."""
        self.end = self._chunks[0].first

    def take(self) -> tuple[Batch | None, int]:
        """The next group, and how many bytes of chunks it leaves done; it ends at a gap.

        Raises:
            ChunkError: the next message is in a chunk that is damaged; what comes before it has been given.
        """
        messages: list[Message] = []
        size = done = 0
        if self._damage is not None:
            raise self._damage
        try:
            while len(messages) < GROUP_COUNT and size < GROUP_BYTES:
                if self._chunk is None:
                    if not self._chunks or self.gap is not None:
                        break
                    self._begin(self._chunks.popleft())
                message = next(self._messages, None)
                if message is not None:
                    messages.append(message)
                    size += len(message.body)
                elif self._chunk is not None:
                    done += len(self._chunk.data)
                    self._chunk = None
        except ChunkError as error:
            if not messages:
                raise
            self._damage = error
        if not messages:
            return None, done
        last = messages[-1]
        self._position = replace(self._position, offset=last.offset + last.count, anchor=_anchor(last))
        return Batch(messages=messages, position=self._position), done

    def _begin(self, chunk: Chunk) -> None:
        self._chunk = chunk
        self._taken = chunk.taken
        chunk.check()
        self._messages = chunk.messages(self._position.offset)
        self.end = max(self.end, chunk.end)


def _anchor(message: Message) -> str | None:
    """What tells a message from another; None for one that may be read otherwise one day."""
    if message.problem is not None or message.form is not Form.BODY:
        return None
    return sha256(message.body).hexdigest()


def _holds(chunk: Chunk, position: Position) -> bool:
    """Whether the message before a position is the one that was read."""
    chunk.check()
    message = next(chunk.messages(position.offset - 1), None)
    return message is not None and _anchor(message) in {None, position.anchor}


async def _ends(link: Link, stream: str) -> tuple[int, int]:
    """The first offset of the stream, and the one after its last."""
    first, last = await link.probe(stream, OffsetType.FIRST), await link.probe(stream, OffsetType.LAST)
    return (first[0], last[1]) if first is not None and last is not None else (0, 0)


def _told(offset: int, first: int, end: int) -> str:
    return f"offset {offset} is stored, and the stream holds {_span(first, end)}"


def _span(first: int, end: int) -> str:
    return f"messages {first} to {end - 1}" if end > first else "no message"


def _now() -> int:
    """An incarnation greater than all that were given before."""
    return time.time_ns() // 1000
