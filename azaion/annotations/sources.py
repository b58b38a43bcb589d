"""The embedded stream as a source."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from azaion.annotations.errors import BlockedError
from azaion.annotations.offset import Position
from azaion.annotations.spool import Spool
from azaion.annotations.stream import GROUP_BYTES, GROUP_COUNT, Batch, Choice, Lag

#: How often an exhausted spool is looked at.
_LOOK_S: Final = 0.1


class SpoolSource:
    """The embedded stream."""

    def __init__(self, spool: Spool, name: str) -> None:
        self._spool = spool
        self.name = name
        self.trouble: str | None = None

    async def batches(self, position: Position | None) -> AsyncGenerator[Batch]:
        """See `Source`."""
        spool = self._spool
        incarnation = await self._incarnation(position)
        offset = position.offset if position is not None else 0
        end = await asyncio.to_thread(spool.end)
        if offset < end and not spool.has(offset):
            raise BlockedError(f"message {offset} of the spool is missing, but there are later ones up to {end - 1}")
        if offset > end:
            raise BlockedError(
                f"offset {offset} is stored, but the spool ends at {end}: messages are missing; restore the spool",
            )
        while True:
            found = await asyncio.to_thread(spool.read, offset, count=GROUP_COUNT, size=GROUP_BYTES)
            if not found:
                await self._wait(offset)
                continue
            await asyncio.to_thread(spool.settle)
            if spool.incarnation != incarnation:
                raise BlockedError(_another(spool.incarnation, incarnation, offset), anew=True)
            offset = found[-1].offset + 1
            yield Batch(messages=found, position=Position(incarnation, offset, stream=self.name))

    async def _incarnation(self, position: Position | None) -> int:
        """Which stream it is, once it is one."""
        while (incarnation := self._spool.incarnation) is None:
            if position is not None:
                raise BlockedError(
                    f"offset {position.offset} of stream {position.incarnation} is stored, but the spool is empty: "
                    f"is its disk mounted, is AZAION_SPOOL_DIR right?",
                    anew=True,
                )
            await asyncio.sleep(_LOOK_S)
        if position is not None and position.incarnation != incarnation:
            raise BlockedError(_another(incarnation, position.incarnation, position.offset), anew=True)
        return incarnation

    async def _wait(self, offset: int) -> None:
        """Wait for a message."""
        spool = self._spool
        while not spool.has(offset):
            # Asked in this order: both may have come since we looked.
            if spool.has(offset + 1) and not spool.has(offset):
                raise BlockedError(f"message {offset} of the spool is missing, but there are later ones: restore it")
            await asyncio.sleep(_LOOK_S)

    async def lag(self, position: Position) -> Lag:
        """See `Source`."""
        return Lag(messages=max(0, await asyncio.to_thread(self._spool.end) - position.offset))

    async def resolve(self, choice: Choice | int, position: Position | None, *, anew: bool) -> Position:
        """See `Source`. A spool that is older than the stream that was read last counts as a later one from now on."""
        if choice is Choice.STORED:
            if position is None:
                raise BlockedError("no offset is stored: choose another place")
            return position
        incarnation = self._spool.incarnation
        if incarnation is None:
            raise BlockedError("the spool is empty: there is no place in it yet")
        first, end = await asyncio.to_thread(self._spool.first), await asyncio.to_thread(self._spool.end)
        offset = {Choice.FIRST: first, Choice.NEXT: end}[choice] if isinstance(choice, Choice) else choice
        if not first <= offset <= end:
            raise BlockedError(f"offset {offset} is not in the spool, which holds messages {first} to {end - 1}")
        if anew and position is not None and incarnation < position.incarnation:
            # Else all that comes from it now would lose against what is on record.
            incarnation = await asyncio.to_thread(self._spool.renew, position.incarnation)
        return Position(incarnation, offset, stream=self.name)


def _another(found: int | None, read: int, offset: int) -> str:
    return f"the spool is another stream ({found}) than the one that was read ({read}) up to offset {offset}"
