"""The embedded stream: an append-only folder with one file a message, numbered from 0, that needs no server.

A message is written under a temporary name, made durable, and then renamed to the next free number, under a lock: a
number is given once, and a file that has one is whole. Writers may be several processes.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from azaion import failpoints, files
from azaion.annotations.errors import AnnotationError, BadMessageError
from azaion.annotations.message import MAX_MESSAGE_BYTES
from azaion.annotations.stream import Form, Message

_SUFFIX: Final = ".msg"
_DIGITS: Final = 20
_INCARNATION: Final = "incarnation"
_VERSION: Final = 1
#: What surrounds a body in its file.
_OVERHEAD_BYTES: Final = 4096
_MAX_FILE_BYTES: Final = MAX_MESSAGE_BYTES + _OVERHEAD_BYTES


class _Entry(msgspec.Struct, array_like=True):
    version: int
    status: int | str | None
    body: bytes


_decoder: Final = msgspec.msgpack.Decoder(_Entry)
_encoder: Final = msgspec.msgpack.Encoder()


class Spool:
    """The folder of one embedded stream."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._end: int | None = None
        self._swept = False

    @property
    def incarnation(self) -> int | None:
        """Which stream this is: when it was made, in microseconds. None before the first message.

        Raises:
            AnnotationError: the file that says so is damaged.
        """
        path = self._folder / _INCARNATION
        try:
            text = files.read_small(path, limit=_OVERHEAD_BYTES).strip()
        except FileNotFoundError:
            return None
        except files.FileError as error:
            raise AnnotationError(f"{path} is damaged: {error}; restore it from a backup") from None
        if not text.isdigit() or len(text) > _DIGITS:
            raise AnnotationError(f"{path} is damaged: it holds no number; restore it from a backup")
        return int(text)

    def renew(self, after: int) -> int:
        """Have this stream count as another one, made later than ``after``; returns its incarnation."""
        with files.locked(self._folder / ".lock"):
            incarnation = max(time.time_ns() // 1000, after + 1)
            files.replace(self._folder / _INCARNATION, b"%d\n" % incarnation)
            return incarnation

    def first(self) -> int:
        """The lowest number that a message has; 0 if there is none."""
        try:
            with os.scandir(self._folder) as entries:
                numbers = [number for entry in entries if (number := _number(entry.name)) >= 0]
        except FileNotFoundError:
            return 0
        return min(numbers, default=0)

    def end(self) -> int:
        """The number that the next message will get. The folder is listed once; then it is only looked ahead."""
        end = self._end
        if not end or not self.has(end - 1):
            # Or somebody has emptied it since.
            try:
                with os.scandir(self._folder) as entries:
                    end = max((_number(entry.name) for entry in entries), default=-1) + 1
            except FileNotFoundError:
                return 0
        while self.has(end):
            end += 1
        self._end = end
        return end

    def settle(self) -> None:
        """Make the names of the messages durable: a reader must not go past one that a power loss could take back."""
        files.fsync_folder(self._folder)

    def has(self, offset: int) -> bool:
        """Whether there is a message of this number."""
        return os.path.lexists(self._path(offset))

    def append(self, messages: Iterable[tuple[int | str, bytes]]) -> int:
        """Add messages (property and body), durably; returns how many. Each is there completely or not at all.

        Raises:
            BadMessageError: a body is larger than a message may be.
            OSError: on a full disk and the like; those before it may have been added.
        """
        lock = self._folder / ".lock"
        if not os.path.lexists(lock):
            files.make_folder(self._folder)
        with files.locked(lock):
            self._begin()
            offset = self.end()
            count = 0
            for status, body in messages:
                if len(body) > MAX_MESSAGE_BYTES:
                    raise BadMessageError(f"a message has {len(body)} bytes, more than {MAX_MESSAGE_BYTES}")
                path = self._path(offset + count)
                temporary = files.write_temporary(path, _encoder.encode((_VERSION, status, body)))
                temporary.rename(path)
                failpoints.hit("spool.appended")
                count += 1
            files.fsync_folder(self._folder)
            return count

    def read(self, offset: int, *, count: int, size: int) -> list[Message]:
        """The messages from ``offset`` on: at most ``count``, and no further one once they have ``size`` bytes."""
        messages: list[Message] = []
        total = 0
        while len(messages) < count and total < size:
            message = self._read(offset + len(messages))
            if message is None:
                break
            messages.append(message)
            total += len(message.body)
        return messages

    def _read(self, offset: int) -> Message | None:
        path = self._path(offset)
        try:
            data = files.read_small(path, limit=_MAX_FILE_BYTES)
        except FileNotFoundError:
            return None
        except files.FileError as error:
            return Message(offset=offset, form=Form.FILE, problem=str(error), path=path)
        try:
            entry = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Message(offset=offset, body=data, form=Form.FILE, problem=f"{path.name} is damaged: {error}")
        if entry.version != _VERSION:
            return Message(
                offset=offset, body=data, form=Form.FILE, problem=f"{path.name} is of version {entry.version}"
            )
        return Message(offset=offset, status=entry.status, body=entry.body)

    def _begin(self) -> None:
        if not self._swept:
            # We hold the lock, so whoever wrote there is dead.
            files.remove_temporaries(self._folder)
            self._swept = True
        if self.incarnation is None:
            files.replace(self._folder / _INCARNATION, b"%d\n" % (time.time_ns() // 1000))

    def _path(self, offset: int) -> Path:
        return self._folder / f"{offset:0{_DIGITS}}{_SUFFIX}"


def _number(name: str) -> int:
    """The number of a message's file; -1 for any other name."""
    stem = name.removesuffix(_SUFFIX)
    return int(stem) if len(stem) == _DIGITS and name.endswith(_SUFFIX) and stem.isascii() and stem.isdecimal() else -1
