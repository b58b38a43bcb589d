"""Durable writes. The only module that calls fsync (the shim, bare stdlib, excepted)."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from azaion import failpoints
from azaion.errors import AzaionError

#: Every name that begins so is a write that did not end; it is safe to remove when no process writes there.
TEMPORARY_PREFIX = ".tmp-"

#: Most small files are read in one piece.
_READ_BYTES: Final = 16 << 10

#: linux/falloc.h: FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE.
_PUNCH_HOLE: Final = 0x01 | 0x02

#: No state file of ours comes near it; a larger one is not ours.
MAX_JSON_BYTES = 64 << 20


class FileError(AzaionError):
    """A file could not be read or is not what it should be."""


def temporary_for(path: Path) -> Path:
    """A name beside ``path`` that nobody else uses."""
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")


def fsync_file(path: Path) -> None:
    """Make the content of ``path`` survive a power loss. A link is refused (ELOOP)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Make the names in ``path`` survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make ``path`` and its missing parents, each durable in its parent."""
    missing = []
    folder = path
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    with contextlib.suppress(PermissionError), os.scandir(folder) as entries:
        # Nobody has used it yet, and who made it may have died before its name was flushed.
        if next(entries, None) is None:
            fsync_folder(folder.parent)
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def write_temporary(path: Path, data: bytes | memoryview, *, mode: int = 0o644, durable: bool = True) -> Path:
    """Write ``data`` beside ``path`` and return the temporary file, to be renamed later. An error leaves nothing."""
    return Path(write_into(str(path.parent), data, mode=mode, durable=durable))


def write_into(folder: str, data: bytes | memoryview, *, mode: int = 0o644, durable: bool = True) -> str:
    """Write ``data`` into a temporary file in ``folder``; returns its path. As text, for those who write very many."""
    temporary = f"{folder}/{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        Path(temporary).unlink()
        raise
    return temporary


def replace(path: Path, data: bytes | memoryview, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace the content of ``path`` atomically: a reader, or a power loss, finds the old content or the new one.

    Args:
        path: the file; it need not exist yet.
        data: the new content.
        mode: the permissions of the file.
        durable: whether the new content has survived a power loss when this returns; otherwise it is only atomic.

    Raises:
        OSError: on a full disk and the like; the old content is then untouched.
    """
    temporary = write_temporary(path, data, mode=mode, durable=durable)
    try:
        failpoints.hit("files.replace.rename")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_folder(path.parent)


@contextlib.contextmanager
def written(path: Path, *, mode: int = 0o644) -> Iterator[io.FileIO]:
    """Write a large file in pieces: it is at ``path``, whole and durable, when the block has ended, or nothing is.

    The stream has no buffer of its own.

    Args:
        path: the file; what is there is replaced.
        mode: the permissions of the file.
    """
    temporary = temporary_for(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, mode)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as stream:
            yield stream
            os.fsync(descriptor)
        failpoints.hit("files.written.rename")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_json(path: Path, value: Any, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace ``path`` by ``value`` as JSON; see `replace`."""
    replace(path, json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n", mode=mode, durable=durable)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it is there and is not a JSON object (torn, hostile, a link, too large).
    """
    try:
        data = read_small(path, limit=MAX_JSON_BYTES)
        value = json.loads(data, parse_float=_finite, parse_constant=_finite)
        if b"\\u" in data:
            # Half a character can be read, but neither shown nor written, by whoever gets it.
            value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is not a JSON file: {error}") from None
    if not isinstance(value, dict):
        raise FileError(f"{path} holds {type(value).__name__}, not a JSON object")
    return value


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number that JSON has")
    return number


@contextlib.contextmanager
def opened(path: Path, *, follow_links: bool = False) -> Iterator[io.BufferedReader]:
    """Open a regular file for reading; never blocks on a pipe, never follows a link unless told to.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it is there and is a link, a folder, a pipe, a device.
    """
    descriptor = _open_regular(path, follow_links=follow_links)
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)


def read_small(path: Path | str, *, limit: int, follow_links: bool = False) -> bytes:
    """Read a whole regular file of at most ``limit`` bytes; see `opened` for the errors."""
    # Without a stream: datasets are read by the hundred thousand files.
    descriptor = _open_regular(path, follow_links=follow_links)
    try:
        data = os.read(descriptor, limit + 1 if limit < _READ_BYTES else _READ_BYTES)
        while len(data) <= limit and (more := os.read(descriptor, limit + 1 - len(data))):
            data += more
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise FileError(f"{path} is larger than {limit} bytes, so it is not what it should be")
    return data


def _open_regular(path: Path | str, *, follow_links: bool) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise FileError(f"{path} is {'a link' if error.errno == errno.ELOOP else 'a socket'}, not a file") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileError(f"{path} is not a regular file")
    return descriptor


def rename(source: Path, target: Path) -> None:
    """Rename durably. Both lie in one filesystem; an existing target is replaced, a folder only if it is empty."""
    source.rename(target)
    fsync_folder(target.parent)
    if source.parent != target.parent:
        fsync_folder(source.parent)


def switch_link(link: Path, target: str) -> None:
    """Point ``link`` at ``target`` atomically and durably."""
    temporary = temporary_for(link)
    temporary.symlink_to(target)
    try:
        failpoints.hit("files.switch_link.rename")
        temporary.replace(link)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(link.parent)


def fsync_tree(path: Path) -> None:
    """Make a folder with all it holds survive a power loss."""
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            if not file.is_symlink():
                fsync_file(file)
        fsync_folder(Path(folder))


def sync_filesystem(path: Path) -> None:
    """Make everything that was written to the filesystem of ``path`` survive a power loss.

    For a hundred thousand new files this takes a second, where an fsync of each takes minutes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def give_back(path: Path, length: int, start: int = 0) -> None:
    """Give the disk back what ``length`` bytes of a file take, from ``start`` on.

    They read as zeros; its size stays as it is. Whoever appends to the file notices nothing.

    Raises:
        OSError: EOPNOTSUPP where the filesystem cannot do that; the file is then untouched.
        FileError: it is not a regular file.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileError(f"{path} is not a regular file")
        library = ctypes.CDLL(None, use_errno=True)
        library.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        if library.fallocate(descriptor, _PUNCH_HOLE, start, length) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


#: Why a hard link may be refused where a copy is not: another filesystem, one without links, another's file, too many.
NO_LINK: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES})


def link_or_copy(source: str, target: str) -> bool:
    """Make ``target`` a hard link to ``source``, or a copy where the filesystem allows no link; True if it is a link.

    A copy has the times of its ``source``. A ``source`` that is a symbolic link is never followed.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        shutil.copyfile(source, target, follow_symlinks=False)
        told = os.lstat(source)
        os.utime(target, ns=(told.st_atime_ns, told.st_mtime_ns), follow_symlinks=False)
        return False
    return True


def fsync_folders(folders: Iterable[Path]) -> None:
    """Fsync each of ``folders`` once."""
    for folder in sorted(set(folders)):
        fsync_folder(folder)


def remove_temporaries(folder: Path) -> None:
    """Remove the files and links in ``folder`` that dead writers have left; only where no living one writes now.

    Folders stay: what is made as one is removed by whoever makes it again.
    """
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a folder and all it holds; a missing one is fine. Links are removed, never followed."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[int]:
    """Hold the advisory lock of ``path`` (flock) and yield its descriptor; the kernel gives it back when we die.

    Raises:
        BlockingIOError: ``wait`` is false and another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)
