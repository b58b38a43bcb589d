"""Trees of annotations for tests: small images with labels and records, as the consumer leaves them."""

import hashlib
import io
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image

from azaion import files
from azaion.layout import Layout

CLASSES = '[{"Id": 0, "Name": "tree crown"}, {"Id": 1, "Name": "red shape"}]'

LABEL = "0 0.5 0.5 0.2 0.2\n1 0.25 0.25 0.1 0.1\n"


def tree(root: Path, *, classes: str = CLASSES) -> Layout:
    """An empty tree below ``root``, with classes."""
    layout = Layout(root=root / "azaion", state=root / "state", spool=root / "spool", socket=root / "socket")
    layout.root.mkdir(parents=True)
    for folder in layout.folders():
        files.make_folder(folder)
    layout.classes.write_text(classes)
    return layout


@cache
def picture(colour: int = 0, kind: str = "JPEG", size: int = 16) -> bytes:
    """A small picture; another ``colour`` is another content."""
    stream = io.BytesIO()
    Image.new("RGB", (size, size), (colour % 256, colour // 256 % 256, colour // 65536)).save(stream, kind)
    return stream.getvalue()


def annotate(
    layout: Layout,
    name: str,
    *,
    media: str | None = None,
    label: str | bytes | None = LABEL,
    image: bytes | None = None,
    extension: str = "jpg",
    record: bool = True,
) -> Path:
    """Put one validated annotation into the tree and return its image."""
    data = picture(int.from_bytes(hashlib.sha256(name.encode()).digest()[:3])) if image is None else image
    path = layout.data.images / f"{name}.{extension}"
    path.write_bytes(data)
    if label is not None:
        (layout.data.labels / f"{name}.txt").write_bytes(label.encode() if isinstance(label, str) else label)
    if record:
        facts = {
            "name": name,
            "media": media,
            "extension": extension,
            "image_sha256": hashlib.sha256(data).hexdigest(),
            "image_bytes": len(data),
        }
        (layout.records / f"{name}.json").write_text(json.dumps(facts))
    return path


def annotate_many(layout: Layout, names: Iterable[str]) -> None:
    """Annotations each of a media of its own."""
    for name in names:
        annotate(layout, name, media=f"{name}.mp4")


def content(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
