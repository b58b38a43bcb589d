"""Images: whether one can be trained on, and the repair of a JPEG that the trainer would else write anew."""

import hashlib
import io
import os
import stat
import warnings
from dataclasses import dataclass
from typing import Final

from azaion import pictures
from azaion.dataset.errors import CorruptedError, Reason

# Pillow is imported where it is used: most images are vouched for by their records and need none of it, and this module
# is imported by processes that must stay small.

_JPEG_BEGIN: Final = b"\xff\xd8\xff"
_JPEG_END: Final = b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class Vouched:
    """What the record of an annotation says of its image, which was looked at when it came in.

    Attributes:
        sha256: of the image.
        size: of the image, in bytes.
        time_ns: when this was written down. A younger image is another one: the consumer brings images to their places
            before their records, and may have died in between.
    """

    sha256: str
    size: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Image:
    """A good image.

    Attributes:
        sha256: of the file as it is.
        size: of the file as it is.
        repaired: what should stand in a dataset instead of it.
    """

    sha256: str
    size: int
    repaired: bytes | None = None


def inspect(path: str, vouched: Vouched | None = None) -> Image:
    """Look at an image. One that is ``vouched`` for, and of the right size and age, is not read but for its ends.

    Raises:
        CorruptedError: it is no image that can be trained on.
        OSError: it cannot be read for a reason that lies not in itself.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CorruptedError(Reason.NOT_A_FILE)
        size = status.st_size
        cut = os.pread(descriptor, 3, 0) == _JPEG_BEGIN and os.pread(descriptor, 2, size - 2) != _JPEG_END
        known = vouched is not None and vouched.size == size and status.st_mtime_ns <= vouched.time_ns
        if known and not cut and vouched is not None:
            return Image(vouched.sha256, size)
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            digest = (
                vouched.sha256 if known and vouched is not None else hashlib.file_digest(stream, "sha256").hexdigest()
            )
            _check(stream)
            if not cut:
                return Image(digest, size)
            stream.seek(0)
            return Image(digest, size, repaired=_repair(stream.read()))
    finally:
        os.close(descriptor)


def _check(stream: io.BufferedReader) -> None:
    """Look at the head of an image."""
    stream.seek(0)
    try:
        pictures.look(stream)
    except pictures.PictureError as error:
        raise CorruptedError(Reason.IMAGE, str(error)) from None


def _repair(data: bytes) -> bytes:
    """Give a JPEG its end marker, if that is all it lacks; its pixels stay what they were.

    Where picture data is lacking too, a decoder invents grey. Whether it does is seen from more data before the
    marker: it changes the picture only if the decoder was still hungry.
    """
    picture = data.removesuffix(_JPEG_END[:1])
    whole = picture + _JPEG_END
    padding = b"\x55" * 64
    try:
        complete = _pixels(whole) == _pixels(picture + padding + _JPEG_END)
    except Exception as error:  # noqa: BLE001 Pillow's plugins raise whatever comes on damaged files
        raise CorruptedError(Reason.IMAGE, f"{type(error).__name__}: {error}"[:200]) from None
    if not complete:
        raise CorruptedError(Reason.IMAGE, "the JPEG is cut short")
    return whole


def _pixels(data: bytes) -> bytes:
    from PIL import Image as pillow  # noqa: N813, PLC0415 see above

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pillow.open(io.BytesIO(data), formats=pictures.FORMATS) as image:
            return hashlib.sha256(image.tobytes()).digest()
