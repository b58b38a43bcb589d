"""An encrypted file in two parts: a small one that goes by the API, and the rest."""

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from azaion import failpoints, files
from azaion.publishing.errors import DamagedError
from azaion.publishing.streams import PIECE_BYTES, Measure, Sink, measured

#: The small part has so many bytes, or a fifth of the whole where that is less.
SMALL_BYTES: Final = 3 << 10


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Both parts."""

    small: Measure
    big: Measure


def small_size(whole: int) -> int:
    """How many of so many bytes the small part has."""
    return min(SMALL_BYTES, whole // 5)


def split(whole: Path, small: Path, big: Path) -> Parts:
    """Copy the beginning of a file into one file, and the rest into another. Each is durable; ``whole`` stays.

    Raises:
        OSError: on a full disk and the like.
    """
    with files.opened(whole) as stream:
        first = _copied(stream, small, small_size(whole.stat().st_size))
        failpoints.hit("parts.small")
        rest = _copied(stream, big, None)
    failpoints.hit("parts.big")
    return Parts(small=first, big=rest)


@contextmanager
def joined(small: Path, big: Path, expected: Parts) -> Iterator[io.RawIOBase]:
    """Both parts as one stream, once it is known that they are what they should be.

    Raises:
        DamagedError: one is not; says which.
        OSError: one cannot be read.
    """
    for name, path, wanted in (("small", small, expected.small), ("big", big, expected.big)):
        # A wrong size is seen at once; a hash takes seconds.
        size = path.stat().st_size
        if size != wanted.size:
            raise DamagedError(f"the {name} part has {size} bytes, and {wanted.size} were published: fetch it again")
        if measured(path) != wanted:
            raise DamagedError(f"the {name} part is not the one that was published (SHA-256): fetch it again")
    with ExitStack() as stack:
        yield _Chain([stack.enter_context(files.opened(path)) for path in (small, big)])


class _Chain(io.RawIOBase):
    """Streams, one after another."""

    def __init__(self, streams: list[io.BufferedReader]) -> None:
        super().__init__()
        self._streams = streams

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._streams:
            if count := self._streams[0].readinto(buffer):
                return count
            self._streams.pop(0)
        return 0


def _copied(stream: io.BufferedReader, target: Path, size: int | None) -> Measure:
    """Copy so many bytes, or all that is left."""
    with files.written(target) as made:
        sink = Sink(made)
        left = size
        while piece := stream.read(PIECE_BYTES if left is None else min(PIECE_BYTES, left)):
            sink.write(piece)
            if left is not None:
                left -= len(piece)
        sink.flush()
    return sink.measure
