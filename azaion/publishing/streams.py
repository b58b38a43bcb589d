"""What passes through a stream is counted and hashed on the way, a piece at a time."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import msgspec
from msgspec import Meta

from azaion import files

#: Told how many bytes of how many are done. What it raises ends what is being done.
Progress = Callable[[int, int], None]

#: Measured: larger pieces fall out of the processor's cache between the hash and the cipher.
PIECE_BYTES: Final = 64 << 10


class Readable(Protocol):
    """Gives at most so many bytes, less only at its end."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""


class Writable(Protocol):
    """Takes all that it is given."""

    def write(self, data: bytes, /) -> int:
        """Take it."""

    def flush(self) -> None:
        """Let go of what is held back."""


def unseen(_done: int, _size: int) -> None:
    """Nobody wants to know."""


class Measure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What tells one content from another: how many bytes, and their SHA-256 in hex."""

    size: Annotated[int, Meta(ge=0)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


def measured(path: Path) -> Measure:
    """The measure of a file.

    Raises:
        OSError: it cannot be read.
        FileError: it is no regular file.
    """
    with files.opened(path) as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return Measure(size=stream.tell(), sha256=digest.hexdigest())


class Tap(io.RawIOBase):
    """A stream that measures what is read from it.

    Attributes:
        trouble: what went wrong here; a library in between may make something else of it.
    """

    def __init__(self, stream: Any, size: int = 0, on_progress: Progress = unseen) -> None:
        super().__init__()
        self.trouble: BaseException | None = None
        self._stream = stream
        self._size = size
        self._on_progress = on_progress
        self._done = 0
        self._digest = hashlib.sha256()

    @property
    def measure(self) -> Measure:
        """What has been read so far."""
        return Measure(size=self._done, sha256=self._digest.hexdigest())

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read, and measure."""
        try:
            count: int = self._stream.readinto(buffer) or 0
            self._digest.update(memoryview(buffer)[:count])
            self._done += count
            self._on_progress(self._done, self._size)
        except BaseException as error:
            self.trouble = error
            raise
        return count


class Sink:
    """Writes to a stream in large pieces, and measures what it writes.

    Attributes:
        trouble: as `Tap` has it.
    """

    def __init__(self, stream: io.RawIOBase) -> None:
        self.trouble: BaseException | None = None
        self._stream = stream
        self._held = bytearray()
        self._done = 0
        self._digest = hashlib.sha256()

    @property
    def measure(self) -> Measure:
        """What has been written; right after a `flush`."""
        return Measure(size=self._done, sha256=self._digest.hexdigest())

    def write(self, data: bytes) -> int:
        """Take all of it."""
        self._held += data
        if len(self._held) >= PIECE_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Write what is held back."""
        data = bytes(self._held)
        self._held.clear()
        try:
            self._digest.update(data)
            self._done += len(data)
            left = memoryview(data)
            while left:
                left = left[self._stream.write(left) or 0 :]
        except BaseException as error:
            self.trouble = error
            raise
