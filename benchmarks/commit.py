"""How a group of annotations is best made durable: an fsync of each file, one syncfs, or a journal first.

Each way writes the same files (image, label, record) of a group and ends when all of it would survive a power loss:

=======  ===========================================================================================================
each     the files under temporary names, fsync of each, renames, fsync of the folders
syncfs   the same with one syncfs instead of the fsyncs of the files
journal  one file with all of it and an fsync; then the files, without one. What a consumer with a journal would do
         before it goes on, though not the syncfs that it owes before it may forget the journal
=======  ===========================================================================================================
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from azaion import files
from benchmarks.consumer import slow_disk

GROUPS: Final = (1, 4, 16, 64, 256)
_LABEL: Final = b"0 0.5 0.5 0.2 0.2\n1 0.25 0.25 0.1 0.1\n"
_RECORD: Final = b"{" + b" " * 500 + b"}\n"


def _write(root: Path, first: int, count: int, image: bytes) -> list[tuple[str, Path]]:
    return [
        (files.write_into(str(root / folder), data, durable=False), root / folder / f"{number:09}{suffix}")
        for number in range(first, first + count)
        for folder, suffix, data in (
            ("images", ".jpg", image),
            ("labels", ".txt", _LABEL),
            ("records", ".json", _RECORD),
        )
    ]


def _rename(root: Path, written: list[tuple[str, Path]], *, durable: bool) -> None:
    for temporary, target in written:
        os.replace(temporary, target)  # noqa: PTH105 - as the product does
    if durable:
        files.fsync_folders([root / "images", root / "labels", root / "records"])


def each(root: Path, first: int, count: int, image: bytes) -> None:
    """An fsync of each file."""
    written = _write(root, first, count, image)
    for temporary, _ in written:
        files.fsync_file(Path(temporary))
    _rename(root, written, durable=True)


def syncfs(root: Path, first: int, count: int, image: bytes) -> None:
    """One sync of the filesystem."""
    written = _write(root, first, count, image)
    files.sync_filesystem(root)
    _rename(root, written, durable=True)


def journal(root: Path, first: int, count: int, image: bytes) -> None:
    """One file, then the others."""
    path = root / "journal"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, b"".join([image + _LABEL + _RECORD] * count))
        files.fsync_file(path)
    finally:
        os.close(descriptor)
    _rename(root, _write(root, first, count, image), durable=False)


WAYS: Final[dict[str, Callable[[Path, int, int, bytes], None]]] = {"each": each, "syncfs": syncfs, "journal": journal}


def measure(kilobytes: int, rounds: int) -> list[list[str]]:
    """Annotations a second for each way and group, medians of ``rounds`` groups, by turns."""
    image = os.urandom(1024 * kilobytes)
    rows = [["IMAGE", "GROUP", *(f"{way}/s" for way in WAYS), "SYNCFS/EACH", "JOURNAL/SYNCFS"]]
    for count in GROUPS:
        with tempfile.TemporaryDirectory(prefix="az-bench-") as folder:
            roots = {way: Path(folder, way) for way in WAYS}
            for root in roots.values():
                for name in ("images", "labels", "records"):
                    (root / name).mkdir(parents=True)
            times: dict[str, list[float]] = {way: [] for way in WAYS}
            for number in range(rounds):
                for way, run in WAYS.items():
                    # What the others have left to write is not this one's.
                    files.sync_filesystem(Path(folder))
                    began = time.perf_counter()
                    run(roots[way], number * count, count, image)
                    times[way].append(time.perf_counter() - began)
            rate = {way: count / statistics.median(found) for way, found in times.items()}
            rows.append(
                [
                    f"{kilobytes} KB",
                    str(count),
                    *(f"{rate[way]:.0f}" for way in WAYS),
                    f"{rate['syncfs'] / rate['each']:.2f}",
                    f"{rate['journal'] / rate['syncfs']:.2f}",
                ]
            )
    return rows


def main() -> None:
    """Run the benchmark, for the slow disk in a process of its own."""
    from supervisor.commands.text import table  # noqa: PLC0415 - only to print

    parser = argparse.ArgumentParser(prog="python -m benchmarks.commit", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=50, help="KB of an image")
    parser.add_argument("--fsync-ms", type=float, default=0.0, help="how much slower every fsync is made")
    arguments = parser.parse_args()
    if not arguments.fsync_ms:
        print(table(measure(arguments.size, arguments.rounds)))
        return
    folder = Path(tempfile.mkdtemp())
    try:
        environment = os.environ | slow_disk(folder, arguments.fsync_ms)
        again = ["--rounds", str(arguments.rounds), "--size", str(arguments.size)]
        subprocess.run([sys.executable, "-m", "benchmarks.commit", *again], env=environment, check=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
