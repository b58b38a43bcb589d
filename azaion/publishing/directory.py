"""The target ``directory``: a folder, for development and for disks that are carried about."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from azaion import files
from azaion.publishing.errors import DamagedError, MissingError, RefusedError, UnreachableError
from azaion.publishing.streams import Progress
from azaion.publishing.target import MAX_SMALL_BYTES

_READ_BYTES: Final = 1 << 20


class Directory:
    """A folder as a target; see `azaion.publishing.target.Target`.

    Args:
        folder: the folder.
        make: whether it may be made. One that somebody has named may lie on a disk that is not mounted.

    Raises:
        UnreachableError: it is absent.
    """

    name = "directory"

    def __init__(self, folder: Path, *, make: bool) -> None:
        self.place = str(folder)
        self._folder = folder
        if make:
            with self._plainly("the folder cannot be made"):
                files.make_folder(folder)
        elif not folder.is_dir():
            raise UnreachableError(f"AZAION_PUBLISH_DIR: {folder} is absent: mount its disk, or make the folder")

    def send(self, key: str, path: Path, *, sha256: str, record: Path, on_progress: Progress) -> None:
        """Copy it; nothing is remembered of a copy that was broken off."""
        del record
        temporary = self._path(f"{files.TEMPORARY_PREFIX}{sha256[:32]}")
        with self._plainly(f"{key} cannot be written"):
            try:
                _copy(path, temporary, on_progress)
                files.fsync_file(temporary)
                files.rename(temporary, self._path(key))
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def abandon(self, record: Path) -> None:
        """There is nothing to give up."""
        record.unlink(missing_ok=True)

    def verify(self, key: str, *, size: int, sha256: str, on_progress: Progress) -> None:
        """Read it."""
        digest, done = hashlib.sha256(), 0
        with self._plainly(f"{key} cannot be read"), files.opened(self._path(key)) as stream:
            while piece := stream.read(_READ_BYTES):
                digest.update(piece)
                done += len(piece)
                on_progress(done, size)
        if (done, digest.hexdigest()) != (size, sha256):
            raise DamagedError(f"{key} in {self.place} is not what was sent: publish it again")

    def holds(self, key: str, *, size: int, sha256: str) -> bool:
        """A folder remembers no digest, so it is read after all."""
        try:
            self.verify(key, size=size, sha256=sha256, on_progress=lambda _done, _size: None)
        except (MissingError, DamagedError):
            return False
        return True

    def download(self, key: str, path: Path, *, size: int, sha256: str, on_progress: Progress) -> None:
        """Copy it here."""
        temporary = files.temporary_for(path)
        try:
            with self._plainly(f"{key} cannot be read"):
                _copy(self._path(key), temporary, on_progress)
            if (temporary.stat().st_size, files.sha256(temporary)) != (size, sha256):
                raise DamagedError(f"{key} in {self.place} is not what it should be: have it published again")
            files.fsync_file(temporary)
            files.rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, key: str) -> None:
        """Remove the file."""
        with self._plainly(f"{key} cannot be removed"):
            self._path(key).unlink(missing_ok=True)

    def put(self, name: str, path: Path) -> None:
        """Replace the file."""
        data = path.read_bytes()
        with self._plainly(f"{name} cannot be written"):
            files.replace(self._path(name), data)

    def get(self, name: str) -> bytes:
        """Read the file."""
        with self._plainly(f"{name} cannot be read"):
            try:
                return files.read_small(self._path(name), limit=MAX_SMALL_BYTES)
            except files.FileError as error:
                raise DamagedError(f"{error}: have it published again") from None

    def _path(self, name: str) -> Path:
        if Path(name).name != name:
            raise RefusedError(f"{name!r} is no name of a file in {self.place}")
        return self._folder / name

    @contextmanager
    def _plainly(self, doing: str) -> Iterator[None]:
        """Say what an error of the folder means. A full disk is the machine's affair, and stays what it is."""
        try:
            yield
        except FileNotFoundError as error:
            if not self._folder.is_dir():
                raise UnreachableError(f"{doing}: {self.place} is absent: mount its disk, or make the folder") from None
            raise MissingError(f"{doing}: there is no {Path(str(error.filename)).name} in {self.place}") from None
        except (NotADirectoryError, FileExistsError):
            raise RefusedError(f"{doing}: {self.place} is no folder; name another in AZAION_PUBLISH_DIR") from None
        except PermissionError as error:
            raise RefusedError(
                f"{doing}: user {os.getuid()} may not do that in {self.place} ({error.strerror})"
            ) from None


def _copy(source: Path, target: Path, on_progress: Progress) -> None:
    size, done = source.stat().st_size, 0
    with source.open("rb") as reading, target.open("wb") as writing:
        while piece := reading.read(_READ_BYTES):
            writing.write(piece)
            done += len(piece)
            on_progress(done, size)
