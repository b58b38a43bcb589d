"""What a stream gives, whoever keeps it: numbered messages, not yet understood."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from azaion.annotations.offset import Position

#: A group of messages ends with either; what is in hand is then committed together.
GROUP_COUNT: Final = 256
GROUP_BYTES: Final = 16 << 20


class Form(StrEnum):
    """What the bytes of a message are."""

    BODY = "body"  # what `azaion.annotations.message.decode` takes
    AMQP = "amqp"  # an AMQP 1.0 message that could not be read
    BATCH = "batch"  # an entry of a chunk with many messages, which could not be unpacked
    FILE = "file"  # a file of the spool that could not be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A numbered message.

    Attributes:
        offset: its number in the stream.
        status: the property ``AnnotationStatus``.
        body: the body; the raw bytes if ``form`` says so.
        form: what ``body`` is.
        problem: why there is no body to speak of; such a message can only be quarantined.
        path: the file that is the problem.
        count: how many messages of the stream it stands for.
    """

    offset: int
    status: int | str | None = None
    body: bytes | memoryview = b""
    form: Form = Form.BODY
    problem: str | None = None
    path: Path | None = None
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Messages that came together, in order.

    Attributes:
        messages: at least one.
        position: where to go on after them.
    """

    messages: list[Message]
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far the reader is behind.

    Attributes:
        messages: how many are still to be read; None if nobody knows.
        seconds: how long the next of them has been waiting; None if nobody knows.
    """

    messages: int | None
    seconds: float | None = None


class Choice(StrEnum):
    """Where a person lets a blocked reader go on; a number is the other way to say it."""

    FIRST = "first"  # at the first message that there is
    STORED = "stored"  # where it was: the stream has been mended
    NEXT = "next"  # after the last message that there is


class Source(Protocol):
    """A stream of messages.

    Attributes:
        name: what it is called in ``offset.yaml``; another name is another stream.
        trouble: why nothing comes at the moment, for people; None if all is well.
    """

    name: str
    trouble: str | None

    def batches(self, position: Position | None) -> AsyncGenerator[Batch]:
        """Messages from ``position`` on (None: from the beginning), in order.

        It waits for more without end, comes back by itself whatever the stream's server does, and takes no more from
        the stream than it can hold.

        Raises:
            BlockedError: the position does not belong to the stream.
        """
        ...

    async def lag(self, position: Position) -> Lag:
        """How much there is from ``position`` on."""
        ...

    async def resolve(self, choice: Choice | int, position: Position | None, *, anew: bool) -> Position:
        """The position that a person's choice means.

        Args:
            choice: where to go on.
            position: where the reader is.
            anew: whether the stream is another one than the one that was read.

        Raises:
            BlockedError: there is no such place in the stream.
        """
        ...
