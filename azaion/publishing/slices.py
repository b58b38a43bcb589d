"""A part of a file, read as a file of its own, which takes no memory."""

import hashlib
import io
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Final

_READ_BYTES: Final = 256 << 10


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a file. S3 counts them from 1."""

    number: int
    start: int
    size: int


@contextmanager
def sliced(path: Path, part: Part, stop: Event, deadline: float) -> Iterator["io.BufferedReader[_Slice]"]:
    """Open a part of a file.

    Args:
        path: the file.
        part: which part of it.
        stop: set when nobody wants it any more.
        deadline: when it must have been read, by `time.monotonic`.

    Reading raises:
        CancelledError: it is not wanted any more, or is read too late. boto3 lets it pass at once, as no other error.
    """
    with (
        path.open("rb", buffering=0) as stream,
        io.BufferedReader(_Slice(stream, part, stop, deadline), _READ_BYTES) as body,
    ):
        yield body


def md5(body: "io.BufferedReader[Any]") -> bytes:
    """The MD5 of it all, by which S3 checks what it gets; the next reader begins at its beginning."""
    body.seek(0)
    digest = hashlib.file_digest(body, lambda: hashlib.md5(usedforsecurity=False)).digest()
    body.seek(0)
    return digest


class _Slice(io.RawIOBase):
    def __init__(self, stream: io.FileIO, part: Part, stop: Event, deadline: float) -> None:
        super().__init__()
        self._stream = stream
        self._part = part
        self._stop = stop
        self._deadline = deadline
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._part.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._stop.is_set() or time.monotonic() > self._deadline:
            raise CancelledError
        room = memoryview(buffer).cast("B")
        self._stream.seek(self._part.start + self._at)
        count = self._stream.readinto(room[: max(0, self._part.size - self._at)]) or 0
        self._at += count
        return count
