"""Where messages come from."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final, Protocol

from azaion.annotations.errors import BlockedError
from azaion.annotations.offset import Position
from azaion.annotations.spool import Message, Spool

#: A group of messages ends with either; what is in hand is then committed together.
GROUP_COUNT: Final = 256
GROUP_BYTES: Final = 32 << 20
#: How often an exhausted spool is looked at.
_LOOK_S: Final = 0.1


class Source(Protocol):
    """A stream of messages."""

    def batches(self, position: Position | None) -> AsyncGenerator[tuple[int, list[Message]]]:
        """Messages from ``position`` on (None: from the beginning), in order, with their stream's incarnation.

        It waits for more without end, and takes no more from the stream than one batch ahead.

        Raises:
            BlockedError: the position does not belong to the stream.
        """
        ...

    async def lag(self, offset: int) -> int:
        """How many messages there are from ``offset`` on."""
        ...


class SpoolSource:
    """The embedded stream."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    async def batches(self, position: Position | None) -> AsyncGenerator[tuple[int, list[Message]]]:
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
                raise BlockedError(
                    f"the spool has become another stream ({spool.incarnation}) than the one that was read "
                    f"({incarnation}): restore the old spool, or remove offset.yaml to read the new one",
                )
            yield incarnation, found
            offset = found[-1].offset + 1

    async def _incarnation(self, position: Position | None) -> int:
        """Which stream it is, once it is one."""
        while (incarnation := self._spool.incarnation) is None:
            if position is not None:
                raise BlockedError(
                    f"offset {position.offset} of stream {position.incarnation} is stored, but the spool is empty: "
                    f"is its disk mounted, is AZAION_SPOOL_DIR right?",
                )
            await asyncio.sleep(_LOOK_S)
        if position is not None and position.incarnation != incarnation:
            raise BlockedError(
                f"the spool is another stream ({incarnation}) than the one whose offset {position.offset} is stored "
                f"({position.incarnation}): restore the old spool, or remove offset.yaml to read the new one",
            )
        return incarnation

    async def _wait(self, offset: int) -> None:
        """Wait for a message."""
        spool = self._spool
        while not spool.has(offset):
            # Asked in this order: both may have come since we looked.
            if spool.has(offset + 1) and not spool.has(offset):
                raise BlockedError(f"message {offset} of the spool is missing, but there are later ones: restore it")
            await asyncio.sleep(_LOOK_S)

    async def lag(self, offset: int) -> int:
        """See `Source`."""
        return max(0, await asyncio.to_thread(self._spool.end) - offset)
