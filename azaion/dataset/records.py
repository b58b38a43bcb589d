"""What the record of an annotation says that a dataset wants to know."""

import json
import os
import re
from dataclasses import dataclass
from typing import Final

from azaion import files
from azaion.dataset.errors import CorruptedError, Reason
from azaion.dataset.images import Vouched

#: Ours have a few hundred.
_MAX_BYTES: Final = 1 << 20

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Record:
    """Where an annotation came from.

    Attributes:
        media: name of the video or photograph; None if nobody said.
        extension: of its image, with or without a dot.
        image: the image as it came in.
    """

    media: str | None = None
    extension: str | None = None
    image: Vouched | None = None


#: What is known of an annotation that the old product left behind.
NO_RECORD: Final = Record()


def read(path: str) -> Record:
    """Read a record; `NO_RECORD` if there is none.

    Raises:
        CorruptedError: it is damaged. Its image must not be taken all the same: without its media it might change
            sides.
        OSError: it cannot be read for a reason that lies not in itself.
    """
    try:
        value = json.loads(files.read_small(path, limit=_MAX_BYTES))
        written_ns = os.lstat(path).st_mtime_ns
    except FileNotFoundError:
        return NO_RECORD
    except (ValueError, RecursionError, files.FileError):
        raise CorruptedError(Reason.RECORD, "it is no JSON file") from None
    if not isinstance(value, dict):
        raise CorruptedError(Reason.RECORD, "it is no JSON object")
    media, extension = value.get("media"), value.get("extension")
    sha256, size = value.get("image_sha256"), value.get("image_bytes")
    if not isinstance(media, str | None) or not isinstance(extension, str | None):
        raise CorruptedError(Reason.RECORD, "media or extension is not text")
    vouched = (
        Vouched(sha256, size, written_ns)
        if isinstance(sha256, str)
        and _SHA256.fullmatch(sha256)
        and isinstance(size, int)
        and not isinstance(size, bool)
        else None
    )
    return Record(media or None, extension, vouched)
