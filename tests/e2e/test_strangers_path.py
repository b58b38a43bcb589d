"""From annotations to a model that is in use, with nothing done by hand; and a worse one that is held back."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from azaion.dataset.split import Split, side
from azaion.layout import AnnotationFolder, Layout
from tests.installations import Installation
from tests.training_runs import CLASSES, QUICK, draw_shapes
from tests.waiting import until

pytestmark = [pytest.mark.train, pytest.mark.timeout(400)]


def draw(folder: Path, images: int, seed: int) -> AnnotationFolder:
    """A folder of annotations, as somebody has it at home."""
    folder.mkdir()
    scratch = Layout(root=folder, state=folder, spool=folder, socket=folder)
    draw_shapes(scratch, images=images, size=64, seed=seed)
    for each in (*scratch.data.images.iterdir(), *scratch.data.labels.iterdir()):
        each.rename(each.with_name(f"{seed}-{each.name}"))
    return scratch.data


def spoil(drawn: AnnotationFolder) -> None:
    """Boxes that mean nothing, on all that a model learns from; what judges models stays as it is."""
    dice = random.Random(7)
    for label in drawn.labels.iterdir():
        if side(media=label.stem, sha256="") is Split.TEST:
            continue
        x, y = dice.uniform(0.2, 0.8), dice.uniform(0.2, 0.8)
        label.write_text(f"{dice.randint(0, 1)} {x:.4f} {y:.4f} 0.1 0.1\n")


def chain(server: Installation, number: int) -> list[dict[str, Any]]:
    """The jobs of a chain, once all have ended."""
    jobs = [server.wait(each, limit_s=150) for each in server.job(number)["chain"]]
    for job in jobs:
        log = server.attempt(job["id"]).log
        assert job["state"] == "succeeded", (job, log.read_text(errors="replace")[-2000:] if log.exists() else "")
    return jobs


def trainings(server: Installation) -> list[int]:
    return [job["id"] for job in server.client.get("/v1/jobs") if job["kind"] == "train"]


def test_a_good_model_takes_over_by_itself_and_a_worse_one_waits(server: Installation, tmp_path: Path) -> None:
    rule = {"annotations": 40, "model": "yolo26t.yaml", "epochs": 7, "batch": 8, "imgsz": 64, "overrides": dict(QUICK)}
    server.layout.state.mkdir(exist_ok=True)
    (server.layout.state / "azaion.yaml").write_text(json.dumps({"retrain": rule}), encoding="utf-8")
    server.layout.classes.write_text(json.dumps(CLASSES))
    good = draw(tmp_path / "good", 300, 1)
    assert server.json("annotations", "import", str(good.path))["sent"] == 300
    server.start()
    (first,) = until(lambda: trainings(server), "a training is filed", 60)
    train, evaluate, export = chain(server, first)[:3]
    model = train["artifacts"]["model"]
    assert train["artifacts"]["map50"] > 0.3
    assert (evaluate["artifacts"]["promoted"], server.json("status")["models"]["current"]) == (True, model)
    assert Path(export["artifacts"]["path"]).exists()

    # Somebody spoils what models learn from, and more of the like comes in.
    spoil(good)
    assert server.json("annotations", "import", str(good.path), "--status", "edited")["sent"] == 300
    more = draw(tmp_path / "more", 60, 2)
    spoil(more)
    assert server.json("annotations", "import", str(more.path))["sent"] == 60
    second = until(lambda: trainings(server)[1:], "another is filed", 60)[0]
    train, evaluate, _ = chain(server, second)[:3]
    worse = train["artifacts"]["model"]
    assert not evaluate["artifacts"]["promoted"]
    assert "waits for `models promote`" in evaluate["reason"]
    assert server.json("status")["models"]["current"] == model

    shown = server.ctl("models", "list").stdout
    assert model in shown
    assert worse in shown
    listed = {each["name"]: each for each in server.json("models", "list")["models"]}
    assert (listed[model]["current"], listed[worse]["current"]) == (True, False)
    # A person may know better, and may be wrong.
    assert server.ctl("models", "promote", worse).returncode == 0
    assert server.ctl("models", "rollback").returncode == 0
    assert server.json("status")["models"]["current"] == model
    assert trainings(server) == [first, second]
