"""The record of an annotation: where it came from, where it is, and which events made it so."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from azaion import files
from azaion.annotations.errors import AnnotationError
from azaion.pictures import EXTENSIONS

#: Ours have less than a thousand.
_MAX_BYTES: Final = 1 << 20


class Place(NamedTuple):
    """Where an event stands: its stream, then its offset. Streams made later, and offsets further on, are greater."""

    incarnation: int
    offset: int


#: Before every event: what the system before this one has left.
LEFT_BEHIND: Final = Place(-1, -1)


class Folder(StrEnum):
    """Where an annotation lies."""

    SEED = "seed"
    DATA = "data"
    DELETED = "deleted"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an annotation.

    For each thing that an event can do there is the place of the last event that did it, so that events may come again,
    or late, and still end in the same.

    Attributes:
        name: of the annotation, and of its files.
        folder: where its files lie, or would, if there were any.
        incarnation: the stream of the last event.
        offset: the offset of the last event.
        status: what the last event was.
        created_at: the creation that counts.
        trusted: whether a validator created it.
        promoted_at: the last validation, or edit by a validator.
        deleted_at: the last deletion.
        image_at: which event the image is from; None as long as there is no image, and so no file at all.
        label_at: which event the label is from.
        created_sha256: of the image that it was created with; with ``created`` it tells a repeated creation.
    """

    name: str
    folder: Folder = Folder.SEED
    incarnation: int = -1
    offset: int = -1
    status: str = ""
    created_at: Place | None = None
    trusted: bool = False
    promoted_at: Place | None = None
    deleted_at: Place | None = None
    image_at: Place | None = None
    label_at: Place | None = None
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


_decoder: Final = msgspec.json.Decoder(Record)
_encoder: Final = msgspec.json.Encoder()


def read(path: Path) -> Record | None:
    """Read a record; None if there is none.

    Raises:
        AnnotationError: it is there and damaged.
    """
    try:
        record = _decoder.decode(files.read_small(path, limit=_MAX_BYTES))
        if record.name != path.stem or (record.image_at is not None and record.extension not in EXTENSIONS):
            # Both become paths.
            raise files.FileError("its name or its extension is another's")  # noqa: TRY301 - the same advice
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, files.FileError) as error:
        raise AnnotationError(
            f"the record {path} is damaged: {error}. Restore it from a backup, or remove it: the next event of its "
            f"annotation makes a new one",
        ) from None
    return record


def encode(record: Record) -> bytes:
    """A record as it is stored."""
    return _encoder.encode(record) + b"\n"
