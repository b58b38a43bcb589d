"""The record of an annotation: where it came from, where it is, and the last event that was applied to it."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from azaion import files
from azaion.annotations.errors import AnnotationError

#: Ours have a few hundred.
_MAX_BYTES: Final = 1 << 20


class Folder(StrEnum):
    """Where an annotation lies."""

    SEED = "seed"
    DATA = "data"
    DELETED = "deleted"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an annotation.

    Attributes:
        name: of the annotation, and of its files.
        folder: where its files lie; for a name that only a bulk event has told of, where they will.
        incarnation: the stream of the last event.
        offset: of the last event.
        image_sha256: of the stored image; None as long as there is no content.
        created_sha256: of the image that it was created with, by which a repeated creation is known.
    """

    name: str
    folder: Folder
    incarnation: str
    offset: int
    status: str
    extension: str | None = None
    media: str = ""
    time: int = 0
    role: int | None = None
    email: str = ""
    source: int | None = None
    created: datetime | None = None
    image_sha256: str | None = None
    image_bytes: int | None = None
    created_sha256: str | None = None

    @property
    def has_content(self) -> bool:
        """Whether there are files, and not just a bulk event that told of them."""
        return self.image_sha256 is not None


_decoder: Final = msgspec.json.Decoder(Record)
_encoder: Final = msgspec.json.Encoder()


def read(path: Path) -> Record | None:
    """Read a record; None if there is none.

    Raises:
        AnnotationError: it is there and damaged.
    """
    try:
        return _decoder.decode(files.read_small(path, limit=_MAX_BYTES))
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, files.FileError) as error:
        raise AnnotationError(
            f"the record {path} is damaged: {error}. Restore it from a backup, or remove it: the next event of its "
            f"annotation makes a new one",
        ) from None


def encode(record: Record) -> bytes:
    """A record as it is stored."""
    return _encoder.encode(record) + b"\n"
