"""What the demo trains on: aerial photographs of tree crowns, or drawn shapes where those cannot be had."""

import random
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from PIL import Image, ImageDraw

#: Pixels on a side of the tiles that the photographs are cut into.
TILE = 224
#: A tile with fewer crowns teaches little.
FEWEST = 3
#: A crown that is cut at a tile's edge counts if this much of it lies inside.
INSIDE = 0.5
MOST_TILES = 64
#: The large photographs in the package, each with boxes in Pascal VOC's XML.
PHOTOGRAPHS = (
    "2019_YELL_2_528000_4978000_image_crop2",
    "2019_YELL_2_541000_4977000_image_crop",
    "OSBS_029",
    "SOAP_061",
)


@dataclass(frozen=True)
class Box:
    """In pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def within(self, x: int, y: int, size: int) -> "Box":
        """The part that lies in a square, in the square's own coordinates."""
        return Box(
            max(self.left - x, 0.0), max(self.top - y, 0.0), min(self.right - x, size), min(self.bottom - y, size)
        )


def tree_crowns(target: Path, cache: Path, lock: Path) -> list[str] | None:
    """Write tiles and labels into ``target``; returns the names of the classes, or None where there is no package."""
    cache.mkdir(parents=True, exist_ok=True)
    if not list(cache.glob("deepforest-*.whl")):
        fetched = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--require-hashes"),
                *("--dest", cache, "--requirement", lock),
            ],
            capture_output=True,
            check=False,
        )
        if fetched.returncode:
            return None
    with zipfile.ZipFile(next(cache.glob("deepforest-*.whl"))) as package:
        for name in PHOTOGRAPHS:
            with package.open(f"deepforest/data/{name}.png") as stream:
                photograph = Image.open(stream).convert("RGB")
            boxes = _boxes(package.read(f"deepforest/data/{name}.xml"))
            _cut(photograph, boxes, target, name)
    tiles = sorted(target.glob("*.jpg"))
    for tile in tiles[MOST_TILES:]:
        tile.unlink()
        tile.with_suffix(".txt").unlink()
    return ["tree crown"]


def _boxes(xml: bytes) -> list[Box]:
    # The file comes out of a package whose hash is pinned.
    root = ET.fromstring(xml)  # noqa: S314
    edges = ("xmin", "ymin", "xmax", "ymax")
    return [Box(*(float(found.findtext(f"bndbox/{edge}", "0")) for edge in edges)) for found in root.iter("object")]


def _cut(photograph: Image.Image, boxes: list[Box], target: Path, name: str) -> None:
    for y in range(0, photograph.height - TILE + 1, TILE):
        for x in range(0, photograph.width - TILE + 1, TILE):
            parts = [(box, box.within(x, y, TILE)) for box in boxes]
            inside = [part for box, part in parts if part.area > INSIDE * box.area > 0]
            if len(inside) >= FEWEST:
                stem = f"{name}-{x:04d}-{y:04d}"
                photograph.crop((x, y, x + TILE, y + TILE)).save(target / f"{stem}.jpg", quality=92)
                _write_labels(target / f"{stem}.txt", [(0, box) for box in inside], TILE)


def shapes(target: Path, count: int = 48) -> list[str]:
    """Draw coloured squares and discs, with their labels; returns the names of the classes."""
    dice = random.Random(7)  # noqa: S311 - the same pictures each time
    for number in range(count):
        picture = Image.new("RGB", (TILE, TILE), (dice.randint(60, 110),) * 3)
        draw = ImageDraw.Draw(picture)
        labels = []
        for _ in range(dice.randint(3, 6)):
            size = dice.randint(24, 56)
            x, y = dice.randint(0, TILE - size), dice.randint(0, TILE - size)
            kind = dice.randint(0, 1)
            (draw.rectangle if kind == 0 else draw.ellipse)((x, y, x + size, y + size), fill=(200, 60 + 120 * kind, 40))
            labels.append((kind, Box(x, y, x + size, y + size)))
        picture.save(target / f"shapes-{number:03d}.jpg", quality=92)
        _write_labels(target / f"shapes-{number:03d}.txt", labels, TILE)
    return ["square", "disc"]


def _write_labels(path: Path, labels: list[tuple[int, Box]], size: int) -> None:
    lines = []
    for kind, box in labels:
        centre_x, centre_y = (box.left + box.right) / 2 / size, (box.top + box.bottom) / 2 / size
        width, height = (box.right - box.left) / size, (box.bottom - box.top) / size
        lines.append(f"{kind} {centre_x:.6f} {centre_y:.6f} {width:.6f} {height:.6f}\n")
    path.write_text("".join(lines), encoding="ascii")
