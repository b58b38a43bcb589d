"""The export worker as a process: a file that finds what the model finds, or none."""

from pathlib import Path

import pytest

from azaion import files
from azaion.layout import ModelFolder
from azaion.progress import ExitCode
from tests.trained_models import Trained, Workshop
from tests.training_runs import UID

pytestmark = pytest.mark.train


@pytest.fixture
def workshop(tmp_path: Path, trained: Trained) -> Workshop:
    return Workshop(tmp_path / "w", trained)


def test_an_export_survives_every_kill_and_is_whole(workshop: Workshop) -> None:
    folder = ModelFolder(path=workshop.good.path)
    target = folder.export("onnx-96")
    steps = ("export.written", "export.compared", "export.copied", "export.registered")
    for attempt, step in enumerate(steps, 1):
        assert not target.path.exists()
        ending = workshop.finish(workshop.file("export", "job", attempt, of=UID), f"{step}=1:kill")
        assert ending.code == -9, (step, ending.log)
    made = files.sha256(target.path / "azaion.onnx")
    ending = workshop.finish(workshop.file("export", "job", 5, of=UID))
    assert ending.code == 0, ending.log
    # It was there already.
    assert "starting export" not in ending.log
    record = files.read_json(target.record)
    assert record["sha256"] == made == files.sha256(target.path / "azaion.onnx")
    assert (record["imgsz"], record["half"], record["nms"]) == (96, False, False)
    assert record["weights"] == workshop.good.card["weights"]["sha256"]
    parity = record["parity"]
    assert parity["ok"]
    assert parity["boxes"] > 0
    assert parity["pixels"] < 0.1
    assert parity["of"] == f"{workshop.good.card['dataset']['name']}, test"
    assert ending.result["artifacts"]["path"] == str(target.path / "azaion.onnx")
    assert "deviate by at most" in ending.result["message"]
    assert [path.name for path in folder.exports.iterdir()] == ["onnx-96"]


def test_sixteen_bits_and_embedded_suppression_find_the_same(workshop: Workshop) -> None:
    import onnx  # noqa: PLC0415 - slow, and of no use to the other tests

    ending = workshop.finish(workshop.file("export", "job", of=UID, half=True, nms=True))
    assert ending.code == 0, ending.log
    target = ModelFolder(path=workshop.good.path).export("onnx-96-fp16-nms")
    graph = onnx.load(target.path / "azaion.onnx").graph
    assert "NonMaxSuppression" in {node.op_type for node in graph.node}
    assert onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in graph.initializer}
    parity = files.read_json(target.record)["parity"]
    assert parity["boxes"] > 0
    assert 0 < parity["confidence"] <= parity["tolerance"]["confidence"]


def test_what_cannot_be_compared_does_not_count(workshop: Workshop) -> None:
    weak = workshop.weak()
    ending = workshop.finish(workshop.file("export", "weak", model=weak.name, nms=True))
    assert ending.code == ExitCode.PARITY, ending.log
    assert "finds nothing in" in ending.result["message"]
    assert list(ModelFolder(path=weak.path).path.rglob("*.onnx")) == []


def test_an_engine_needs_a_gpu(workshop: Workshop) -> None:
    ending = workshop.finish(workshop.file("export", "engine", of=UID, formats=["engine"]))
    assert ending.code == ExitCode.CONFIG
    assert "this job has none" in ending.result["message"]
