"""From a stream to the store, group by group, until asked to stop."""

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from enum import StrEnum
from typing import Any, Final

import structlog

from azaion import files
from azaion.annotations import offset as offsets
from azaion.annotations.errors import AnnotationError
from azaion.annotations.offset import Position
from azaion.annotations.sources import Source
from azaion.annotations.spool import Message
from azaion.annotations.store import AnnotationStore
from azaion.layout import Layout

#: Over how long the rate is counted.
_RATE_S: Final = 60.0
_TELL_S: Final = 1.0
_LOCK_S: Final = 0.1
_BACKOFF_S: Final = 0.5
_BACKOFF_CAP_S: Final = 30.0

_log = structlog.get_logger("azaion.consumer")


class ConsumerState(StrEnum):
    """What a consumer is doing."""

    STARTING = "starting"
    WAITING_FOR_LOCK = "waiting-for-lock"
    CONSUMING = "consuming"
    RETRYING = "retrying"  # the disk refuses
    BLOCKED = "blocked"  # a person must decide
    FAILED = "failed"  # a defect of ours
    STOPPED = "stopped"


class Consumer:
    """The one consumer of a root.

    Args:
        layout: where the annotations lie.
        source: where they come from.
        name: of the stream, for people.
        stop: set it, and what is in hand is committed and `run` returns.
    """

    def __init__(self, layout: Layout, source: Source, name: str, stop: asyncio.Event) -> None:
        self._layout = layout
        self._source = source
        self._name = name
        self._stop = stop
        self._store = AnnotationStore(layout)
        self._state = ConsumerState.STARTING
        self._position: Position | None = None
        self._lag = 0
        self._applied = 0
        self._quarantined = 0
        self._error: str | None = None
        self._recent: deque[tuple[float, int]] = deque()
        self._began = time.monotonic()
        self._dirty = True

    async def run(self) -> None:
        """Consume until asked to stop."""
        with ExitStack() as held:
            if await self._alone(held):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._tell_regularly())
                    await self._consume()
                # Told while we hold the lock: afterwards it is for the next one to tell.
                self._become(ConsumerState.STOPPED)

    # Consuming.

    async def _alone(self, held: ExitStack) -> bool:
        """Take the tree's lock; a predecessor that is just ending is waited for. False if asked to stop meanwhile."""
        while not self._stop.is_set():
            try:
                held.enter_context(files.locked(self._layout.tree_lock, wait=False))
            except BlockingIOError:
                self._become(ConsumerState.WAITING_FOR_LOCK)
                await self._pause(_LOCK_S)
            else:
                return True
        return False

    async def _consume(self) -> None:
        try:
            await asyncio.to_thread(self._store.clean)
            self._quarantined = await asyncio.to_thread(self._store.quarantine.count)
            self._position = offsets.read(self._layout.offset)
            self._become(ConsumerState.CONSUMING)
            async with aclosing(self._source.batches(self._position)) as batches:
                while (batch := await self._next(batches)) is not None:
                    if not await self._commit(*batch):
                        return
        except AnnotationError as error:
            self._error = str(error)
            self._become(ConsumerState.BLOCKED)
            _log.error("blocked", reason=str(error))
            await self._stop.wait()
        except Exception as error:
            self._error = f"{type(error).__name__}: {error}"
            self._become(ConsumerState.FAILED)
            raise

    async def _next(self, batches: AsyncGenerator[tuple[int, list[Message]]]) -> tuple[int, list[Message]] | None:
        """The next batch; None when asked to stop."""
        coming = asyncio.ensure_future(anext(batches))
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                return None
            return coming.result()
        finally:
            for future in (coming, stopping):
                future.cancel()
            await asyncio.gather(coming, stopping, return_exceptions=True)

    async def _commit(self, incarnation: int, messages: list[Message]) -> bool:
        """Commit a group, again and again while the disk refuses; false if asked to stop before it was done."""
        pause = _BACKOFF_S
        while True:
            try:
                done = await asyncio.to_thread(self._commit_group, incarnation, messages)
            except BlockingIOError:
                # A dataset is being taken. Who asks us to stop meanwhile does not wait for its end.
                await self._pause(_LOCK_S)
                if self._stop.is_set():
                    return False
                continue
            except OSError as error:
                self._error = f"{error}; trying again"
                self._become(ConsumerState.RETRYING)
                _log.error("cannot commit", first=messages[0].offset, error=str(error))
                await self._pause(pause)
                pause = min(2 * pause, _BACKOFF_CAP_S)
                if self._stop.is_set():
                    return False
                continue
            self._applied += done[0]
            self._quarantined += done[1]
            self._recent.append((time.monotonic(), len(messages)))
            if self._state is not ConsumerState.CONSUMING:
                self._error = None
                self._become(ConsumerState.CONSUMING)
            self._dirty = True
            return True

    def _commit_group(self, incarnation: int, messages: list[Message]) -> tuple[int, int]:
        position = Position(incarnation, messages[-1].offset + 1)
        with files.locked(self._layout.commit_lock, wait=False):
            done = self._store.apply(messages, incarnation)
            offsets.write(self._layout.offset, position, self._name)
        self._position = position
        return done.applied, done.quarantined

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    # Telling.

    def _become(self, state: ConsumerState) -> None:
        if state is not self._state:
            self._state = state
            self._tell()

    async def _tell_regularly(self) -> None:
        while not self._stop.is_set():
            # The rate of the last minute goes down though nothing comes.
            if (self._dirty or self._recent) and self._position is not None:
                self._dirty = False
                self._lag = await self._source.lag(self._position.offset)
                self._tell()
            await self._pause(_TELL_S)

    def _tell(self) -> None:
        now = time.monotonic()
        while self._recent and now - self._recent[0][0] > _RATE_S:
            self._recent.popleft()
        told: dict[str, Any] = {
            "state": self._state,
            "pid": os.getpid(),
            "source": self._name,
            "incarnation": self._position.incarnation if self._position else None,
            "offset": self._position.offset if self._position else 0,
            "lag": self._lag,
            "rate": sum(count for _, count in self._recent) / max(1.0, min(_RATE_S, now - self._began)),
            "applied": self._applied,
            "quarantined": self._quarantined,
            "last_error": self._error,
            "updated": time.time(),
        }
        try:
            files.write_json(self._layout.consumer_status, told, durable=False)
        except OSError as error:
            self._dirty = True
            _log.error("cannot tell", error=str(error))
