"""The evaluation worker as a process: scores, the gate, and what is left when it dies."""

import re
from pathlib import Path

import pytest

from azaion import evaluation, files, models, promotions
from azaion.declarations.gate import Metric
from azaion.layout import ModelFolder
from azaion.models import Why
from azaion.progress import ExitCode
from tests.trained_models import Trained, Workshop
from tests.training_runs import UID

pytestmark = pytest.mark.train


@pytest.fixture
def workshop(tmp_path: Path, trained: Trained) -> Workshop:
    return Workshop(tmp_path / "w", trained)


def test_a_model_is_scored_as_ultralytics_scores_it_with_intervals(workshop: Workshop) -> None:
    model = workshop.good
    dataset = model.card["dataset"]["name"]
    ending = workshop.finish(workshop.file("evaluate", "plain", model=model.name, dataset=dataset))
    assert ending.code == 0, ending.log
    found = evaluation.read(ModelFolder(path=model.path), dataset)
    assert found is not None
    assert found.classes == ("disc", "square")
    assert found.boxes == 2 * found.images > 0
    # In the log stands what ultralytics' own sum says of the same boxes.
    for name, metric in (("mAP50(B)", Metric.MAP50), ("mAP50-95(B)", Metric.MAP50_95)):
        said = re.search(rf"'metrics/{re.escape(name)}': ([0-9.e-]+)", ending.log)
        assert said is not None
        assert found.scores[metric].value == pytest.approx(float(said[1]), abs=1e-5)
    assert found.scores[Metric.MAP50].value > 0.3
    for score in found.scores.values():
        assert 0 <= score.low <= score.high <= 1
    assert found.scores[Metric.MAP50_95].low < found.scores[Metric.MAP50_95].high
    assert {each.name: each.boxes for each in found.per_class} == {"disc": found.images, "square": found.images}
    assert found.scores[Metric.RECALL].value == pytest.approx(
        sum(each.scores[Metric.RECALL].value for each in found.per_class) / 2, abs=1e-4
    )
    assert ending.result["artifacts"]["map50_95"] == found.scores[Metric.MAP50_95].value
    # Nobody has asked for a gate.
    assert models.current(workshop.layout) is None
    assert not ModelFolder(path=model.path).gate.exists()
    assert not list((workshop.layout.datasets / dataset).rglob("*.cache"))
    # What it worked in is not kept as a run.
    assert sorted(path.name for path in workshop.layout.job(7, "plain").path.iterdir()) == ["1"]


def test_the_gate_lets_the_better_one_through_and_holds_the_worse_one_back(workshop: Workshop) -> None:
    workshop.rules(minimum_images=1, margin=0.0)
    weak = workshop.weak()
    first = workshop.finish(workshop.file("evaluate", "first", model=weak.name, gate=True))
    assert first.code == 0, first.log
    assert first.result["artifacts"]["promoted"]
    assert "no model in use before" in first.result["artifacts"]["reason"]
    assert models.current(workshop.layout) == weak.name

    second = workshop.finish(workshop.file("evaluate", "second", of=UID, gate=True))
    assert second.code == 0, second.log
    assert second.result["artifacts"]["promoted"], second.result
    assert models.current(workshop.layout) == workshop.good.name
    verdict = files.read_json(ModelFolder(path=workshop.good.path).gate)
    assert verdict["outcome"] == "promoted"
    assert verdict["difference"]["value"] > 0
    assert verdict["current"]["name"] == weak.name
    assert verdict["reason"] == second.result["artifacts"]["reason"]

    again = workshop.weak("again")
    third = workshop.finish(workshop.file("evaluate", "third", model=again.name, gate=True))
    assert third.code == 0, third.log
    assert third.result["artifacts"]["promoted"] is False
    assert "waits for `models promote`" in third.result["message"]
    verdict = files.read_json(ModelFolder(path=again.path).gate)
    assert (verdict["outcome"], verdict["job"]) == ("waits", 7)
    assert verdict["difference"]["value"] < 0
    assert models.current(workshop.layout) == workshop.good.name
    assert [each.model for each in promotions.read(workshop.layout)] == [weak.name, workshop.good.name]


def test_whatever_kills_it_the_model_takes_over_once(workshop: Workshop) -> None:
    weak = workshop.weak()
    workshop.rules(minimum_images=1)
    models.promote(workshop.layout, weak.name, Why(by="mila"))
    steps = ("evaluation.made=2", "evaluation.written=1", "gate.written=1", "models.noted=1", "models.switched=1")
    for attempt, step in enumerate(steps, 1):
        assert models.current(workshop.layout) == weak.name
        folder = workshop.file("evaluate", "job", attempt, of=UID, gate=True)
        ending = workshop.finish(folder, f"{step}:kill")
        assert ending.code == -9, (step, ending.log)
        assert ending.result == {}
    assert models.current(workshop.layout) == workshop.good.name
    # Both were scored in the first two attempts; the others have used that.
    assert "in ultralytics' words" not in ending.log
    # And what somebody has decided since stays decided.
    models.rollback(workshop.layout, Why(by="mila"))
    ending = workshop.finish(workshop.file("evaluate", "job", 6, of=UID, gate=True))
    assert ending.code == 0, ending.log
    assert ending.result["artifacts"]["promoted"]
    assert models.current(workshop.layout) == weak.name
    assert not list(workshop.layout.models.rglob(".tmp-*"))


def test_what_cannot_be_evaluated_says_what_to_do(workshop: Workshop) -> None:
    nothing = workshop.finish(workshop.file("evaluate", "none", of="0000", gate=True))
    assert nothing.code == ExitCode.NO_INPUT
    assert "train again" in nothing.result["message"]
    weak = workshop.weak()
    data = bytearray(weak.weights.read_bytes())
    data[len(data) // 2] ^= 1
    weak.weights.write_bytes(data)
    damaged = workshop.finish(workshop.file("evaluate", "damaged", model=weak.name))
    assert damaged.code == ExitCode.NO_INPUT
    assert "not those that were registered" in damaged.result["message"]
    gone = workshop.finish(workshop.file("evaluate", "gone", model=workshop.good.name, dataset="azaion-2020-01-01"))
    assert gone.code == ExitCode.DATA
    assert "no dataset 'azaion-2020-01-01'" in gone.result["message"]
    workshop.rules(margin="much")
    wrong = workshop.finish(workshop.file("evaluate", "wrong", of=UID, gate=True))
    assert wrong.code == ExitCode.CONFIG
    assert "gate.margin: expected a number from -1 to 1" in wrong.result["message"]
