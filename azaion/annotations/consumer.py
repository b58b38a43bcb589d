"""From a stream to the store, group by group, until asked to stop."""

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, ParamSpec, TypeVar

import structlog

from azaion import backoff, files
from azaion.annotations import offset as offsets
from azaion.annotations.errors import AnnotationError, BlockedError
from azaion.annotations.offset import Position
from azaion.annotations.retries import retry_marked
from azaion.annotations.store import AnnotationStore, Applied, Group
from azaion.annotations.stream import Batch, Choice, Lag, Source
from azaion.layout import Layout

#: Over how long the rate is counted.
_RATE_S: Final = 60.0
_TELL_S: Final = 1.0
#: It tells at least this often that it lives.
_ALIVE_S: Final = 15.0
_SOON_S: Final = 0.05
_LOCK_S: Final = 0.1
_BEGINNING: Final = Position(0, 0)

_log = structlog.get_logger("azaion.consumer")

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ConsumerState(StrEnum):
    """What a consumer is doing."""

    STARTING = "starting"
    WAITING_FOR_LOCK = "waiting-for-lock"
    CONSUMING = "consuming"
    DISCONNECTED = "disconnected"  # from the broker; trying again
    RETRYING = "retrying"  # the disk refuses
    BLOCKED = "blocked"  # a person must decide
    FAILED = "failed"  # a defect of ours
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class _Ready:
    """A batch, and what has been made ready of it."""

    batch: Batch
    group: Group


class Consumer:
    """The one consumer of a root.

    Args:
        layout: where the annotations lie.
        source: where they come from.
        stop: set it, and what is in hand is committed and `run` returns.
    """

    def __init__(self, layout: Layout, source: Source, stop: asyncio.Event) -> None:
        self._layout = layout
        self._source = source
        self._stop = stop
        self._cleaned = asyncio.Event()
        self._store = AnnotationStore(layout)
        self._state = ConsumerState.STARTING
        self._position: Position | None = None
        self._lag = Lag(messages=None)
        self._applied = 0
        self._quarantined = 0
        self._error: str | None = None
        self._undecided = False
        self._refused: float | None = None
        self._recent: deque[tuple[float, int]] = deque()
        self._began = time.monotonic()
        self._shown = self._state
        self._since = time.time()
        self._dirty = True

    @property
    def offset(self) -> int:
        """The next message to read: all before it are on disk."""
        return self._position.offset if self._position is not None else 0

    async def run(self) -> None:
        """Consume until asked to stop."""
        with ExitStack() as held:
            if await self._alone(held):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._tell_regularly())
                    tasks.create_task(self._retry_regularly())
                    tasks.create_task(self._survey())
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
            except OSError as error:
                # Something else lies there, or the disk refuses: to end and be started again would not help.
                if self._error != (told := f"{error}: make it a file, or room for one"):
                    _log.error("cannot lock the tree", error=told)
                self._error = told
                self._become(ConsumerState.WAITING_FOR_LOCK)
                await self._pause(_LOCK_S)
            else:
                self._error = None
                return True
        return False

    async def _consume(self) -> None:
        """Consume until asked to stop; whenever it is blocked, until a person has decided where to go on."""
        try:
            await _thread(self._store.clean)
            self._cleaned.set()
            while not self._stop.is_set():
                self._position = None
                try:
                    self._position = offsets.read(self._layout.offset)
                    # A predecessor may have died between a decision's effect and its removal: somebody waits for that.
                    await asyncio.to_thread(self._decision)
                    # Told in a moment: by then it is connected, or is not.
                    self._state = ConsumerState.CONSUMING
                    self._dirty = True
                    async with aclosing(self._source.batches(self._position)) as batches:
                        await self._follow(batches)
                except AnnotationError as error:
                    await self._blocked(error)
        except Exception as error:
            self._error = f"{type(error).__name__}: {error}"
            self._become(ConsumerState.FAILED)
            raise

    async def _survey(self) -> None:
        """Have the store find out what makes it faster; without it, it is only slower."""
        await self._cleaned.wait()
        try:
            await _thread(self._store.survey, self._stop.is_set)
        except OSError as error:
            _log.warning("cannot look for files without a record", error=str(error))

    async def _follow(self, batches: AsyncGenerator[Batch]) -> None:
        """Commit group after group until asked to stop; while one is committed the next is made ready."""
        coming = asyncio.ensure_future(self._ready(batches))
        ready: _Ready | None = None
        try:
            while (ready := await coming) is not None:
                # Only a group that is ready lets the next one be made ready beside it.
                await _thread(self._prepare, ready.group)
                coming = asyncio.ensure_future(self._ready(batches))
                if not (await self._room() and await self._commit(ready)):
                    return
        finally:
            coming.cancel()
            (left,) = await asyncio.gather(coming, return_exceptions=True)
            for each in (ready, left):
                if isinstance(each, _Ready):
                    await _thread(self._store.discard, each.group)

    async def _ready(self, batches: AsyncGenerator[Batch]) -> _Ready | None:
        """The next batch, made ready; None when asked to stop."""
        if (batch := await self._next(batches)) is None:
            return None
        group = self._store.group(batch.messages, batch.position.incarnation)
        try:
            await _thread(self._prepare, group)
        except asyncio.CancelledError:
            await _thread(self._store.discard, group)
            raise
        return _Ready(batch, group)

    async def _next(self, batches: AsyncGenerator[Batch]) -> Batch | None:
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

    async def _commit(self, ready: _Ready) -> bool:
        """Commit a group, again and again while the disk refuses; false if asked to stop before it was done."""
        pauses = backoff.delays()
        while True:
            try:
                done = await _thread(self._commit_group, ready)
            except BlockingIOError:
                # A dataset is being taken. Who asks us to stop meanwhile does not wait for its end.
                await self._pause(_LOCK_S)
                if self._stop.is_set():
                    return False
                continue
            except OSError as error:
                self._error = f"{error}; trying again"
                self._become(ConsumerState.RETRYING)
                _log.error("cannot commit", first=ready.batch.messages[0].offset, error=str(error))
                await self._pause(next(pauses))
                if self._stop.is_set():
                    return False
                continue
            self._applied += done.applied
            self._recent.append((time.monotonic(), len(ready.batch.messages)))
            if self._state is not ConsumerState.CONSUMING:
                self._error = None
                self._become(ConsumerState.CONSUMING)
            self._dirty = True
            return True

    def _prepare(self, group: Group) -> None:
        # Nothing must be in quarantine before the stream that it is from has been noted, nor when it is full.
        if self._position is not None and self._store.quarantine.full() is None:
            self._store.prepare(group)

    def _commit_group(self, ready: _Ready) -> Applied:
        batch = ready.batch
        with files.locked(self._layout.commit_lock, wait=False):
            if self._position is None:
                # What is applied in part before a death must not come again as another stream's.
                start = replace(batch.position, offset=batch.messages[0].offset, anchor=None)
                offsets.write(self._layout.offset, start)
                self._position = start
            done = self._store.commit(ready.group)
            offsets.write(self._layout.offset, batch.position)
        self._position = batch.position
        return done

    async def _room(self) -> bool:
        """Wait while the quarantine is full; false if asked to stop meanwhile.

        What is bad goes there and nowhere else, so that the stream has to wait until somebody has looked.
        """
        while (full := await asyncio.to_thread(self._store.quarantine.full)) is not None:
            if self._error != full:
                self._error = full
                self._become(ConsumerState.BLOCKED)
                _log.error("blocked", reason=full)
            await self._pause(_TELL_S)
            if self._stop.is_set():
                return False
        return True

    # Being blocked.

    async def _blocked(self, error: AnnotationError) -> None:
        """Wait for a person's decision, and note it as the new position; return too when asked to stop."""
        self._error = str(error)
        self._undecided = True
        self._become(ConsumerState.BLOCKED)
        _log.error("blocked", reason=str(error))
        while not self._stop.is_set():
            if self._position is None and await self._restored():
                _log.warning("resumed", reason="the offset can be read again", now=self._position)
                self._resumed()
                return
            choice = await asyncio.to_thread(self._decision)
            if choice is None:
                await self._pause(_LOCK_S)
                continue
            try:
                anew = isinstance(error, BlockedError) and error.anew
                position = await self._source.resolve(choice, self._position, anew=anew)
                if position != self._position:
                    await asyncio.to_thread(offsets.write, self._layout.offset, position)
            except (AnnotationError, OSError) as refusal:
                self._error = f"{error}; cannot go on from {choice}: {refusal}"
                _log.error("still blocked", choice=str(choice), reason=str(refusal))
                self._refused = time.time()
                self._tell()
                self._decided()
                continue
            _log.warning("resumed", choice=str(choice), was=self._position, now=position)
            self._resumed()
            return

    async def _restored(self) -> bool:
        """Whether an offset that could not be read can be read now: its disk is back, or somebody has restored it."""
        try:
            self._position = await asyncio.to_thread(offsets.read, self._layout.offset)
        except (AnnotationError, OSError):
            return False
        return self._position is not None

    def _resumed(self) -> None:
        self._error = None
        self._undecided = False
        self._become(ConsumerState.STARTING)
        self._decided()

    def _decision(self) -> Choice | int | None:
        """What a person has decided, about this very position; what was decided about another one is forgotten."""
        try:
            asked = files.read_json(self._layout.consumer_request)
            choice, position = asked["from"], asked["position"]
            mine = None if self._position is None else [self._position.incarnation, self._position.offset]
            if position == mine:
                return choice if type(choice) is int else Choice(choice)
        except FileNotFoundError:
            return None
        except (OSError, files.FileError, KeyError, ValueError) as error:
            _log.error("a decision cannot be read", error=str(error))
        self._decided()
        return None

    def _decided(self) -> None:
        try:
            self._layout.consumer_request.unlink(missing_ok=True)
        except OSError as error:
            _log.error("cannot remove", path=str(self._layout.consumer_request), error=str(error))

    async def _retry_regularly(self) -> None:
        """Try again what people have taken out of the quarantine."""
        await self._cleaned.wait()
        while not self._stop.is_set():
            try:
                for name, reason in await _thread(retry_marked, self._store, self._layout):
                    _log.info("retried", message=name, reason=reason)
                    self._dirty = True
            except (AnnotationError, OSError) as error:
                _log.error("cannot retry", error=str(error))
            await self._pause(_TELL_S)

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
        trouble = None
        told = self._began
        while not self._stop.is_set():
            starting = self._shown is ConsumerState.STARTING
            if starting and self._source.trouble is not None and time.monotonic() - self._began < _TELL_S:
                # To be connecting is no trouble yet.
                await self._pause(_SOON_S)
                continue
            lag = self._lag
            # It grows though nothing is committed, as while a dataset is taken.
            try:
                self._lag = await self._source.lag(self._position or _BEGINNING)
            except (AnnotationError, OSError):
                # Whoever reads the stream meets the same, and says it.
                self._lag = Lag(messages=None)
            # The rate of the last minute goes down though nothing comes.
            changed = self._dirty or self._recent or self._source.trouble != trouble or self._lag != lag
            if changed or time.monotonic() - told >= _ALIVE_S:
                told = time.monotonic()
                self._dirty = False
                trouble = self._source.trouble
                self._tell()
            await self._pause(_SOON_S if starting else _TELL_S)

    def _tell(self) -> None:
        now = time.monotonic()
        while self._recent and now - self._recent[0][0] > _RATE_S:
            self._recent.popleft()
        sizes = [count for _, count in self._recent]
        state, error = self._state, self._error
        if state is ConsumerState.CONSUMING and self._source.trouble is not None:
            state, error = ConsumerState.DISCONNECTED, self._source.trouble
        if state is not self._shown:
            self._shown, self._since = state, time.time()
        try:
            self._quarantined = self._store.quarantine.count()
        except OSError as problem:
            error = error or f"the quarantine cannot be read: {problem}"
        told: dict[str, Any] = {
            "state": state,
            "since": self._since,
            "pid": os.getpid(),
            "source": self._source.name,
            "incarnation": self._position.incarnation if self._position else None,
            "offset": self.offset,
            "lag": self._lag.messages,
            "lag_s": self._lag.seconds,
            "rate": sum(sizes) / max(1.0, min(_RATE_S, now - self._began)),
            "batch": sum(sizes) / len(sizes) if sizes else None,
            "largest_batch": max(sizes, default=None),
            "applied": self._applied,
            "quarantined": self._quarantined,
            "undecided": self._undecided,
            "refused": self._refused,
            "last_error": error,
            "updated": time.time(),
        }
        try:
            files.write_json(self._layout.consumer_status, told, durable=False)
        except OSError as problem:
            self._dirty = True
            _log.error("cannot tell", error=str(problem))


async def _thread(function: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
    """Work in a thread. A thread cannot be stopped: whoever is cancelled waits until nobody works there any more."""
    working = asyncio.ensure_future(asyncio.to_thread(function, *arguments, **options))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.gather(working, return_exceptions=True)
        raise
