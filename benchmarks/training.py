"""What supervision costs a training: the daemon's trainer against ultralytics alone, by turns, on the same data."""

import csv
import json
import os
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure
from tests.installations import Installation, installation
from tests.training_runs import QUICK, draw_shapes

#: Both sides get the same. Plots are off on both: they are drawn once, after the last epoch.
ARGUMENTS: dict[str, Any] = {**QUICK, "epochs": 8, "batch": 8, "imgsz": 320, "workers": 0}

PLAIN = """
import json, sys
from pathlib import Path
from azaion.layout import RunFolder
from workers.training import environment, nms
folder, data, model, arguments = Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
run = RunFolder(path=folder)
environment.prepare(run)
nms.provide()
environment.settle(run)
from ultralytics import YOLO
YOLO(model).train(data=data, project=str(folder), name="plain", device="cpu", amp=False, save_period=1, **arguments)
"""


def epoch_times(results: Path) -> list[float]:
    """Seconds of each epoch but the first two, from ultralytics' own curve.

    In them caches are filled, and the first checkpoint takes the dataset that was just formed along to the disk.
    """
    with results.open(newline="", encoding="utf-8") as stream:
        ends = [float(row["time"]) for row in csv.DictReader(stream)]
    return [later - earlier for earlier, later in pairwise(ends[1:])]


def ours(server: Installation) -> tuple[list[float], str]:
    """The epochs of a job under the daemon, and the data.yaml that it trained on."""
    overrides = {name: value for name, value in ARGUMENTS.items() if name in QUICK}
    body = {"kind": "train", "save_period": 1, "overrides": overrides}
    number = server.client.post("/v1/jobs", body | {name: ARGUMENTS[name] for name in ("epochs", "batch", "imgsz")})[
        "id"
    ]
    # As `azaionctl wait` does: asking a hundred times a second would itself slow the training down.
    job = server.client.get(f"/v1/jobs/{number}/wait", {"timeout": 30})
    while job["state"] == "running":
        job = server.client.get(f"/v1/jobs/{number}/wait", {"timeout": 30})
    assert job["state"] == "succeeded", job
    run = server.attempt(number).path.parent / "run"
    return epoch_times(run / "train" / "results.csv"), str(run / "dataset" / "data.yaml")


def plain(server: Installation, data: str, turn: int) -> list[float]:
    """The epochs of the plain call of ultralytics."""
    folder = server.folder / f"plain-{turn}"
    model = next(server.layout.jobs.glob("*/run/model.yaml"))
    subprocess.run(
        [sys.executable, "-c", PLAIN, str(folder), data, str(model), json.dumps(ARGUMENTS)],
        env={**os.environ, "PYTHONPATH": str(server.code)},
        cwd=server.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return epoch_times(folder / "plain" / "results.csv")


def run(*, quick: bool) -> list[Figure]:
    turns = 1 if quick else 3
    supervised: list[float] = []
    alone: list[float] = []
    with installation() as server:
        draw_shapes(server.layout, images=160, size=320)
        server.start()
        for turn in range(turns):
            times, data = ours(server)
            supervised += times
            alone += plain(server, data, turn)
    ratio = statistics.median(supervised) / statistics.median(alone)
    return [
        Figure(name="reference: epoch of ultralytics alone", values=tuple(alone), goal="", unit="s"),
        Figure(name="epoch under the daemon", values=tuple(supervised), goal="", unit="s"),
        Figure(name="ratio of the medians", values=(ratio,), goal="<= 1.01", unit=""),
    ]
