import io

import pytest
from PIL import Image

from azaion import pictures
from azaion.pictures import PictureError


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "BMP", "TIFF", "WEBP"])
def test_every_kind_of_picture_is_one(kind: str) -> None:
    stream = io.BytesIO()
    more = {"save_all": True, "append_images": [Image.new("RGB", (20, 10))]} if kind == "MPO" else {}
    Image.new("RGB", (20, 10)).save(stream, kind, **more)
    assert pictures.look(io.BytesIO(stream.getvalue())) == (20, 10)


@pytest.mark.parametrize("kind", ["GIF", "PPM", "PDF", "ICO"])
def test_no_other_kind_is(kind: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (20, 20)).save(stream, kind)
    with pytest.raises(PictureError):
        pictures.look(io.BytesIO(stream.getvalue()))


@pytest.mark.parametrize(
    "data", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF", b"BM" * 50]
)
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(PictureError):
        pictures.look(io.BytesIO(data))


def test_a_tiny_one_is_told() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (9, 500)).save(stream, "PNG")
    with pytest.raises(PictureError, match="9 x 500 pixels are too few"):
        pictures.look(stream)
