"""A run that honestly learns, judged by images that were drawn after it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from azaion.progress import ExitCode
from tests.training_runs import QUICK, World, draw_shapes

pytestmark = pytest.mark.train

JUDGE = """
import json, sys
from pathlib import Path
from azaion.layout import RunFolder
from workers.training import environment, nms
run = RunFolder(path=Path(sys.argv[2]))
environment.prepare(run)
nms.provide()
environment.settle(run)
from ultralytics import YOLO
found = YOLO(sys.argv[1]).val(data=sys.argv[3], imgsz=96, batch=8, workers=0, plots=False, project=str(run.path))
print(json.dumps(found.results_dict["metrics/mAP50(B)"]))
"""


def test_a_run_learns(tmp_path: Path) -> None:
    world = World(tmp_path / "world", images=40)
    attempt = world.file(1, epochs=24, overrides=QUICK)
    ending = world.finish(attempt)
    assert ending.code == ExitCode.SUCCEEDED, ending.log
    curve = [json.loads(line)["metrics"]["mAP50"] for line in attempt.metrics.read_text().splitlines()]
    print("mAP50", curve)
    assert len(curve) == 24
    assert curve[0] < 0.1
    assert ending.result["artifacts"]["map50"] > 0.5

    # Images that did not exist when it learned.
    fresh = World(tmp_path / "fresh", images=0)
    draw_shapes(fresh.layout, images=24, size=96, seed=99)
    description = fresh.layout.root / "data.yaml"
    description.write_text(
        json.dumps({"path": str(fresh.layout.root), "train": "data/images", "val": "data/images", "names": ["d", "s"]})
    )
    command = [
        sys.executable,
        "-c",
        JUDGE,
        ending.result["artifacts"]["path"],
        str(tmp_path / "judge"),
        str(description),
    ]
    judged = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert float(judged.stdout.splitlines()[-1]) > 0.5
