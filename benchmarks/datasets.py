"""Forming a dataset beside copies of the same files: ``python -m benchmarks.datasets [--images N] [--turns N]``.

===========  =========================================================================================================
records      a dataset of all annotations: links, checks, sides, list and manifest, flushed to the disk
no records   the same of annotations that the product before this one left: each image is read
again        the same with a dataset before it, which vouches for the images
cp -r        a plain copy of the same images and labels, and `sync` of its filesystem
cp -al       the same as hard links
===========  =========================================================================================================

By turns, in a folder of its own below ``--folder``, which should lie on the disk that matters. Memory is that of the
process that forms.
"""

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from azaion import config, files
from azaion.layout import Layout
from benchmarks.measure import machine
from supervisor.commands.text import table
from tests.training_runs import CLASSES, draw_shapes

#: One process for each forming, as in a training; it says how long it took and how large it became.
FORM: Final = """
import json, resource, sys, time
from datetime import date
from pathlib import Path
from azaion import dataset
from azaion.layout import Layout
root = Path(sys.argv[1])
layout = Layout(root=root, state=root / "state", spool=root / "state" / "spool", socket=root / "state" / "socket")
began = time.perf_counter()
dataset.form(layout, today=date.today(), key=sys.argv[2])
took = time.perf_counter() - began
print(json.dumps([took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""

#: In this order: the dataset of the second vouches for the images of the third.
FORMED: Final = ("records", "no records", "again")


def form(root: Path, key: str) -> tuple[float, float]:
    """Seconds, and MiB of memory at the most."""
    command = [sys.executable, "-c", FORM, str(root), key]
    took, peak = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return took, peak


def fill(layout: Layout, images: int, size: int) -> None:
    """So many annotations with records, as the consumer leaves them; each image differs, and none is drawn anew."""
    draw_shapes(layout, images=1, size=size)
    layout.classes.write_text(json.dumps(CLASSES))
    (image,), (label,) = list(layout.data.images.iterdir()), list(layout.data.labels.iterdir())
    picture, text = image.read_bytes(), label.read_bytes()
    image.unlink()
    label.unlink()
    for number in range(images):
        name = f"frame-{number:06}"
        # Behind the end of a JPEG anything may stand, but the end itself must come last.
        data = picture[:-2] + number.to_bytes(4, "big") + picture[-2:]
        (layout.data.images / f"{name}.jpg").write_bytes(data)
        (layout.data.labels / f"{name}.txt").write_bytes(text)
        record = {"media": f"flight-{number // 50}", "extension": ".jpg", "image_bytes": len(data)}
        record["image_sha256"] = hashlib.sha256(data).hexdigest()
        (layout.records / f"{name}.json").write_text(json.dumps(record))


def run(folder: Path, images: int, turns: int, size: int) -> list[list[str]]:
    root = Path(tempfile.mkdtemp(prefix="azaion-datasets-", dir=folder))
    try:
        layout = Layout(
            root=root, state=root / "state", spool=root / "state" / "spool", socket=root / "state" / "socket"
        )
        config.make_folders(layout)
        fill(layout, images, size)
        files.sync_filesystem(root)
        found: dict[str, list[float]] = {way: [] for way in ("records", "no records", "again", "cp -r", "cp -al")}
        memory: dict[str, list[float]] = {way: [] for way in FORMED}
        aside = root / "records-aside"
        for turn in range(turns):
            for way in FORMED:
                if way == "no records":
                    files.remove_tree(layout.datasets)
                    layout.records.rename(aside)
                    layout.records.mkdir()
                took, peak = form(root, f"{way} {turn}")
                found[way].append(took)
                memory[way].append(peak)
            files.remove_tree(layout.datasets)
            layout.records.rmdir()
            aside.rename(layout.records)
            for way, options in (("cp -r", "-r"), ("cp -al", "-al")):
                target = root / f"copy-{turn}{options}"
                began = time.perf_counter()
                subprocess.run(["/usr/bin/env", "cp", options, str(layout.data.path), str(target)], check=True)
                files.sync_filesystem(root)
                found[way].append(time.perf_counter() - began)
                shutil.rmtree(target)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    plain, links = statistics.median(found["cp -r"]), statistics.median(found["cp -al"])
    rows = [["WAY", "RUNS", "MEDIAN", "/ cp -r", "/ cp -al", "MEMORY"]]
    for way, values in found.items():
        median = statistics.median(values)
        peak_shown = f"{max(memory[way]):.0f} MiB" if way in memory else ""
        ratios = [f"{median / plain:.2f}", f"{median / links:.2f}"]
        rows.append([way, str(len(values)), f"{median:.2f} s", *ratios, peak_shown])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.datasets", description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--size", type=int, default=96, help="pixels; larger ones make larger files")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    print(machine())
    print(table(run(given.folder, given.images, given.turns, given.size)))


if __name__ == "__main__":
    main()
