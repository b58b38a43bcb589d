"""Which files are pictures, by their head alone."""

import warnings
from typing import IO, Final

from azaion.errors import AzaionError

# Pillow is imported where it is used: this module is imported by processes that must stay small.

#: The kinds of image files there may be, as they end.
EXTENSIONS: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

#: What Pillow may take a file for (JPEG is also MPO). Among its other plugins are some that start programs.
FORMATS: Final = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")

#: The trainer takes no smaller image.
_MIN_PIXELS: Final = 10


class PictureError(AzaionError):
    """It is no picture that can be trained on."""


def look(stream: IO[bytes]) -> tuple[int, int]:
    """The width and height of a picture, in pixels; its data is not decoded.

    Raises:
        PictureError: it is none, it is tiny, or it would decode to more than Pillow thinks sane.
    """
    from PIL import Image as pillow  # noqa: N813, PLC0415 see above
    from PIL import UnidentifiedImageError  # noqa: PLC0415 the same

    try:
        with warnings.catch_warnings():
            # Aerial photographs are large; Pillow refuses by itself what is twice as large as it warns about.
            warnings.simplefilter("ignore")
            with pillow.open(stream, formats=FORMATS) as image:
                width, height = image.size
                image.verify()
    except UnidentifiedImageError:
        raise PictureError("it is no image of a kind that we take") from None
    except Exception as error:  # noqa: BLE001 Pillow's plugins raise whatever comes on damaged files
        raise PictureError(f"{type(error).__name__}: {error}"[:200]) from None
    if min(width, height) < _MIN_PIXELS:
        raise PictureError(f"{width} x {height} pixels are too few")
    return width, height
