"""From a file to its encrypted form and back: measured on the way, durable, and there whole or not at all."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from azaion import failpoints, files
from azaion.publishing.errors import DamagedError
from azaion.publishing.streams import PIECE_BYTES, Measure, Progress, Readable, Sink, Tap, Writable, unseen
from azaion.settings import ModelFormat


class Sealing(Protocol):
    """A way to encrypt."""

    @property
    def format(self) -> ModelFormat:
        """What comes of it."""

    @property
    def ids(self) -> tuple[str, ...]:
        """By what the keys are known that it is encrypted with or for; nothing secret."""

    def encrypt(self, source: Readable, target: Writable) -> None:
        """Encrypt a stream."""


class Opening(Protocol):
    """A way to decrypt."""

    def decrypt(self, source: Readable, target: Writable) -> None:
        """Decrypt a stream."""


@dataclass(frozen=True, kw_only=True)
class Encrypted:
    """A file that was encrypted.

    Attributes:
        plain: the file as it was read.
        whole: what came of it.
    """

    plain: Measure
    whole: Measure


def encrypt(source: Path, target: Path, sealing: Sealing, *, on_progress: Progress = unseen) -> Encrypted:
    """Encrypt a file. Each time something else comes of it.

    Args:
        source: the file.
        target: where the encrypted form goes; what is there is replaced.
        sealing: how.
        on_progress: told the bytes that have been read, and the size.

    Raises:
        OSError: on a full disk and the like; the target is then as it was.
    """
    with files.opened(source) as stream, files.written(target) as made:
        plain, whole = _through(stream, made, sealing.encrypt, source.stat().st_size, on_progress)
    failpoints.hit("encryption.written")
    return Encrypted(plain=plain, whole=whole)


def decrypt(
    source: io.BufferedIOBase | io.RawIOBase,
    target: Path,
    opening: Opening,
    *,
    plain: Measure,
    on_progress: Progress = unseen,
) -> None:
    """Decrypt a stream into a file that only its owner can read.

    Args:
        source: the encrypted form.
        target: where it goes; what is there is replaced.
        opening: how.
        plain: what must come of it.
        on_progress: told the bytes that have been read; the size is that of what comes of them.

    Raises:
        DamagedError: something else comes of it; the target is then as it was.
        KeysError: it is encrypted for others; the same.
        OSError: on a full disk and the like; the same.
    """
    with files.written(target, mode=0o600) as made:
        _, found = _through(source, made, opening.decrypt, plain.size, on_progress)
        if found != plain:
            raise DamagedError(
                f"what it decrypts to is not what was published: {found.size} bytes with SHA-256 "
                f"{found.sha256[:16]}..., not {plain.size} with {plain.sha256[:16]}...: publish the model again"
            )


def _through(
    source: io.BufferedIOBase | io.RawIOBase,
    target: io.RawIOBase,
    transform: Callable[[Readable, Writable], None],
    size: int,
    on_progress: Progress,
) -> tuple[Measure, Measure]:
    """Have one stream become the other; returns the measure of each."""
    come, gone = Tap(source, size, on_progress), Sink(target)
    try:
        transform(io.BufferedReader(come, PIECE_BYTES), gone)
        gone.flush()
    except Exception as error:
        # A library makes errors of its own of what goes wrong in a stream: tell what it was.
        trouble = come.trouble or gone.trouble
        if trouble is None or trouble is error:
            raise
        raise trouble from None
    return come.measure, gone.measure
