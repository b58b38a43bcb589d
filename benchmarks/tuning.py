"""What speeds a training up: ``python -m benchmarks.tuning DATASET.yaml [--model yolo26m.pt ...] [--smoke]``.

Beside ``yolo train`` as it stands, each choice alone and all that won together, by turns, so that a noisy moment meets
all of them. Each is a process of its own; the first epoch of each (caches, compilation) is told apart from the others.
A choice wins only if it is faster and its mAP50-95 is not worse than that of the plain ones among each other.

It says something on a GPU alone. ``--smoke`` runs it on whatever there is, on a few drawn shapes, to see that it works;
without what only a GPU has, and without compiling, which may take minutes.

==============  ======================================================================================================
plain           what `yolo train` does: fp32 accumulation with fp16 tried out (ultralytics' own `amp`), no cache
bf16            bfloat16, which needs no trial and no scaled gradients: ours, where the GPU has it
cache-ram       decoded images in memory, if a quarter of it stays free
cache-disk      decoded images beside the dataset
workers         as many loaders as there are processors
channels-last   the layout of memory that tensor cores like
compile         torch.compile
==============  ======================================================================================================
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import machine
from supervisor.commands.text import table

#: The old product's arguments; see .env.example.
SEEDS: Final[dict[str, Any]] = {"epochs": 8, "batch": 11, "imgsz": 1280, "workers": 24, "save_period": 1}
SMOKE: Final[dict[str, Any]] = {"epochs": 3, "batch": 4, "imgsz": 64, "workers": 0, "save_period": 1}
CHOICES: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "bf16": {"amp": "bf16"},
    "cache-ram": {"cache": "ram"},
    "cache-disk": {"cache": "disk"},
    "workers": {"workers": os.cpu_count() or 1},
    "channels-last": {"channels_last": True},
    "compile": {"compile": True},
}

#: Not for `--smoke`.
HEAVY: Final = ("bf16", "compile")

RUN: Final = """
import json, sys
from pathlib import Path
from azaion.layout import RunFolder
from workers.training import environment, nms
folder, data, model, arguments = Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
run = RunFolder(path=folder)
environment.prepare(run)
nms.provide()
environment.settle(run)
import torch
from ultralytics import YOLO
device = "0" if torch.cuda.is_available() else "cpu"
yolo = YOLO(model)
if arguments.pop("channels_last", False):
    yolo.add_callback(
        "on_train_start", lambda trainer: trainer.model.to(memory_format=torch.channels_last)
    )
yolo.train(data=data, project=str(folder), name="plain", device=device, exist_ok=True, plots=False, **arguments)
peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
(folder / "told.json").write_text(json.dumps({"peak": peak}))
"""


def train(data: str, model: str, arguments: dict[str, Any]) -> dict[str, float]:
    """One run: seconds of its first and of its other epochs, the images of a second, mAP50-95, GiB on the GPU."""
    with tempfile.TemporaryDirectory(prefix="azaion-tuning-") as folder:
        subprocess.run(
            [sys.executable, "-c", RUN, folder, data, model, json.dumps(arguments)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        with (Path(folder) / "plain" / "results.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        told = json.loads((Path(folder) / "told.json").read_text())
    ends = [float(row["time"]) for row in rows]
    score = next(float(value) for name, value in rows[-1].items() if name.startswith("metrics/mAP50-95"))
    return {
        "first": ends[0],
        "epoch": statistics.median([later - earlier for earlier, later in pairwise(ends)]),
        "score": score,
        "peak": told["peak"] / 2**30,
    }


def run(
    data: str, model: str, basis: dict[str, Any], turns: int, names: Iterable[str] = tuple(CHOICES)
) -> list[list[str]]:
    """The choices by turns, and then those that won together."""
    amp = {"amp": True}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(turns):
        for name, runs in found.items():
            try:
                runs.append(train(data, model, basis | amp | CHOICES[name] | {"seed": turn}))
            except subprocess.CalledProcessError:
                print(f"{name}: cannot be run here", file=sys.stderr)
    plain = found["plain"]
    noise = max((run["score"] for run in plain), default=0) - min((run["score"] for run in plain), default=0)
    winners = [name for name, runs in found.items() if name != "plain" and runs and _wins(runs, plain, noise)]
    if len(winners) > 1:
        together = basis | amp
        for name in winners:
            together |= CHOICES[name]
        found["together"] = [train(data, model, together | {"seed": turn}) for turn in range(turns)]
    rows = [["CHOICE", "RUNS", "EPOCH", "RATIO", "FIRST EPOCH", "mAP50-95", "GPU MEMORY", "WINS"]]
    for name, runs in found.items():
        if not runs:
            continue
        epoch = statistics.median(each["epoch"] for each in runs)
        ratio = statistics.median(each["epoch"] for each in plain) / epoch
        rows.append(
            [
                name,
                str(len(runs)),
                f"{epoch:.2f} s",
                f"{ratio:.2f} x",
                f"{statistics.median(each['first'] for each in runs):.1f} s",
                f"{statistics.median(each['score'] for each in runs):.4f}",
                f"{max(each['peak'] for each in runs):.1f} GiB",
                "yes" if name in winners else "",
            ]
        )
    rows.append(["", "", "", "", "", f"plain's own span {noise:.4f}", "", ""])
    return rows


def _wins(runs: list[dict[str, float]], plain: list[dict[str, float]], noise: float) -> bool:
    """Faster by more than a hundredth, and no worse than plain is than itself."""
    faster = statistics.median(each["epoch"] for each in plain) > 1.01 * statistics.median(
        each["epoch"] for each in runs
    )
    best = statistics.median(each["score"] for each in plain)
    return faster and statistics.median(each["score"] for each in runs) >= best - noise


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__)
    parser.add_argument("data", nargs="?", help="data.yaml of a dataset: DATASETS/azaion-DATE/data.yaml")
    parser.add_argument("--model", default="yolo26m.pt")
    parser.add_argument("--turns", type=int, default=3)
    for name in ("epochs", "batch", "imgsz"):
        parser.add_argument(f"--{name}", type=int, default=SEEDS[name])
    parser.add_argument("--smoke", action="store_true", help="half a minute on anything, to see that it works")
    given = parser.parse_args()
    print(machine())
    if given.smoke:
        with tempfile.TemporaryDirectory(prefix="azaion-tuning-") as folder:
            data = _shapes(Path(folder))
            print(table(run(data, str(_tiny()), SMOKE, 1, [name for name in CHOICES if name not in HEAVY])))
        return
    if given.data is None:
        parser.error("name a dataset's data.yaml, or take --smoke")
    basis = SEEDS | {name: getattr(given, name) for name in ("epochs", "batch", "imgsz")}
    print(table(run(str(Path(given.data).absolute()), given.model, basis, given.turns)))


def _shapes(folder: Path) -> str:
    from azaion.layout import Layout  # noqa: PLC0415 - of use here alone
    from tests.training_runs import draw_shapes  # noqa: PLC0415 - the same

    layout = Layout(root=folder, state=folder, spool=folder, socket=folder)
    draw_shapes(layout, images=16, size=64)
    description = folder / "data.yaml"
    sides = dict.fromkeys(("train", "val"), "data/images")
    description.write_text(json.dumps({"path": str(folder), **sides, "names": ["disc", "square"]}))
    return str(description)


def _tiny() -> Path:
    return Path(__file__).parents[1] / "workers" / "training" / "yolo26t.yaml"


if __name__ == "__main__":
    main()
