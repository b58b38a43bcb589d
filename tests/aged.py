"""Installations with things in them that have grown old."""

import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from tests.installations import Installation

DAY = 86_400.0


def write(path: Path, content: str | bytes = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def ended_job(server: Installation, *, run: bool = True, script: str = "echo hello") -> int:
    """A job that has ended, perhaps with a run as a training has one. The daemon must answer."""
    number = server.submit(script)
    server.wait(number)
    if run:
        add_run(server, number)
    return number


def add_run(server: Installation, number: int) -> Path:
    run = folder(server, number) / "run"
    for name in ("train/weights/last.pt", "train/weights/best.pt", "train/results.csv", "dataset/train/images/1.jpg"):
        write(run / name, "x" * 5000)
    return run


def folder(server: Installation, number: int) -> Path:
    (found,) = server.layout.jobs.glob(f"{number}-*")
    return found


def age_jobs(server: Installation, days: float, *numbers: int) -> None:
    """As if jobs had ended so long ago; the daemon must not run."""
    connection = sqlite3.connect(server.layout.database)
    marks = ", ".join("?" * len(numbers))
    connection.execute(
        f"UPDATE jobs SET ended = ended - ? WHERE ended IS NOT NULL AND id IN ({marks})",  # noqa: S608 - marks only
        (days * DAY, *numbers),
    )
    connection.commit()
    connection.close()


def dataset(server: Installation, name: str, days: float = 100.0, key: str = "") -> Path:
    path = server.layout.datasets / name
    manifest = {"name": name, "key": key or name, "classes": ["a"], "splits": {}, "digest": "d", "format": 1}
    for split in ("train", "valid"):
        for number in range(3):
            write(path / split / "images" / f"{number}.jpg", "x" * 3000)
    write(path / "manifest.json", json.dumps(manifest))
    return aged(path / "manifest.json", days).parent


def whole(path: Path) -> bool:
    """Whether a dataset that `dataset` has made has all its files."""
    return len(list(path.rglob("*.jpg"))) == 6 and (path / "manifest.json").exists()


def corrupted(server: Installation, name: str, days: float = 100.0) -> Path:
    path = server.layout.corrupted / name
    write(path / name)
    write(path / "reason.json", "{}")
    return aged(path, days)


def model(server: Installation, name: str, **card: Any) -> Path:
    path = server.layout.models / name
    write(path / "azaion.pt")
    write(path / "model.json", json.dumps({"key": name, **card}))
    return path


def aged(path: Path, days: float) -> Path:
    when = time.time() - days * DAY
    os.utime(path, (when, when))
    return path
