"""The training worker as a process: what it makes, what it leaves alone, and what it says when it cannot."""

import random
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from azaion import dataset, files, models
from azaion.progress import ExitCode
from tests.training_runs import QUICK, UID, World, phase, tree, wait_until
from workers.training import nms

pytestmark = pytest.mark.train

#: Writes down every socket, every child process and every file opened for writing, from inside the worker.
SPY = """
import os, sys

_log = os.open(os.environ["SPY_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
_writing = os.O_WRONLY | os.O_RDWR

def _watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "subprocess.Popen", "os.system", "os.exec"):
        os.write(_log, f"{event}\\t{args[1] if event == 'socket.connect' else args[0]!r}\\n".encode())
    elif event == "open" and isinstance(args[0], str) and (args[2] or 0) & _writing:
        os.write(_log, f"write\\t{os.path.abspath(args[0])}\\n".encode())
    elif event in ("os.rename", "os.link", "os.symlink", "os.mkdir"):
        os.write(_log, f"write\\t{os.path.abspath(os.fspath(args[0 if event == 'os.mkdir' else 1]))}\\n".encode())

sys.addaudithook(_watch)
"""


def spied(log: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in log.read_text().splitlines():
        event, _, what = line.partition("\t")
        found.setdefault(event, set()).add(what)
    return found


def test_a_run_makes_a_model_and_touches_nothing_else(tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    # Ultralytics "restores and saves" a JPEG without its end marker in place, through whatever link leads to it.
    torn = world.layout.data.images / "shape-0001.jpg"
    torn.write_bytes(torn.read_bytes()[:-2])
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy" / "sitecustomize.py").write_text(SPY)
    packages = Path(sysconfig.get_paths()["purelib"])
    code = [packages / "ultralytics", packages / "torch" / "utils"]
    before, home = tree(world.layout.data.path, *code), tree(world.folder / "home")

    # A cache of an earlier attempt would be unpickled.
    world.run_folder.dataset.mkdir(parents=True)
    (world.run_folder.dataset / "train.cache").write_bytes(b"a pickle")
    attempt = world.file(1, overrides=dict(QUICK) | {"plots": True, "seed": 7})
    ending = world.finish(
        attempt, PYTHONPATH=str(tmp_path / "spy"), SPY_LOG=str(tmp_path / "spy.log"), RANK="3", WORLD_SIZE="4"
    )

    assert ending.code == ExitCode.SUCCEEDED, ending.log
    assert ending.epochs == [1, 2, 3]
    result = ending.result
    assert (result["nonce"], result["exit_code"], result["verified_epoch"]) == ("nonce-1", 0, 3)
    assert result["resumed_from_epoch"] is None
    assert result["artifacts"].keys() == {"model", "path", "dataset", "map50", "map50_95"}

    # The model.
    model = models.load(world.layout, result["artifacts"]["model"])
    assert models.current(world.layout) == model.name
    assert {path.name for path in model.path.iterdir()} == {
        *("args.yaml", "azaion.pt", "judgement.json", "model.json", "results.csv")
    }
    card = model.card
    assert (card["key"], card["attempt"], card["job"], card["epochs"]) == (UID, 1, 42, 3)
    assert card["metrics"].keys() >= {"mAP50", "mAP50-95", "precision", "recall"}
    assert {
        name: card["arguments"][name] for name in ("epochs", "batch", "imgsz", "save_period", "workers", "seed")
    } == {
        "epochs": 3,
        "batch": 4,
        "imgsz": 96,
        "save_period": 1,
        "workers": 0,
        "seed": 7,
    }
    assert card["dataset"]["name"] == result["artifacts"]["dataset"]
    assert card["dataset"]["digest"]
    assert (card["arguments"]["device"], card["arguments"]["amp"]) == ("cpu", False)
    assert card["lineage"]["base"]["source"].endswith("yolo26t.yaml")
    run = world.run_folder
    assert len((model.path / "results.csv").read_text().splitlines()) == 4
    assert model.weights.stat().st_size < run.last.stat().st_size / 2  # no optimizer in it
    assert model.weights.stat().st_nlink == 1

    # The run.
    progress = files.read_json(attempt.progress)
    assert (progress["phase"], progress["epoch"], progress["epochs"]) == ("registering", 3, 3)
    assert progress["eta_s"] == 0.0
    assert progress["metrics"].keys() >= {"mAP50", "mAP50-95", "train/box_loss", "val/box_loss"}
    assert files.read_json(run.manifest)["generations"][0]["finished"]
    assert not list(world.folder.rglob(".tmp-*"))
    assert not list(world.layout.datasets.rglob("*.cache"))

    # And nothing else.
    seen = spied(tmp_path / "spy.log")
    allowed = [run.path, attempt.path, world.layout.models, world.layout.datasets, world.layout.root / "data-corrupted"]
    allowed += [Path("/dev/null"), Path("/dev/shm")]  # noqa: S108 shared memory
    assert seen.pop("subprocess.Popen", set()) <= {"'fc-list'"}  # matplotlib looks for fonts
    assert seen.keys() == {"write"}
    outside = {Path(path) for path in seen["write"] if not any(Path(path).is_relative_to(folder) for folder in allowed)}
    # Python's own caches of our own modules, as far as they are imported before the environment is set.
    outside -= {path for path in outside if path.suffix == ".lock" or path.parent.name == "__pycache__"}
    assert outside == set()
    assert tree(world.layout.data.path, *code) == before
    assert tree(world.folder / "home") == home


def reference_nms(boxes: list[list[float]], threshold: float) -> list[int]:
    """By the book; the boxes come best first."""

    def overlap(one: list[float], other: list[float]) -> float:
        width = min(one[2], other[2]) - max(one[0], other[0])
        height = min(one[3], other[3]) - max(one[1], other[1])
        common = max(width, 0.0) * max(height, 0.0)
        areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
        return common / (areas - common)

    kept: list[int] = []
    for index, box in enumerate(boxes):
        if all(overlap(box, boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


def test_the_stand_in_suppresses_boxes_by_the_book() -> None:
    torch = pytest.importorskip("torch")
    generator = random.Random(5)
    for size in (0, 1, 200):
        corners = [[generator.uniform(0, 60), generator.uniform(0, 60)] for _ in range(size)]
        boxes = [[x, y, x + generator.uniform(5, 40), y + generator.uniform(5, 40)] for x, y in corners]
        scores = sorted((generator.uniform(0.001, 1) for _ in range(size)), reverse=True)
        found = nms.suppress(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), 0.5)
        assert found.dtype == torch.int64
        assert found.tolist() == reference_nms(boxes, 0.5)


def test_a_registered_model_can_be_trained_further_on_a_named_dataset(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = world.finish(world.file(1, epochs=1, save_period=-1))
    assert first.code == ExitCode.SUCCEEDED, first.log
    assert not list(world.run_folder.weights.glob("epoch*.pt"))
    world.job = world.layout.job(43, "another")
    attempt = world.file(1, epochs=1, model="azaion.pt", dataset=first.result["artifacts"]["dataset"])
    spec = files.read_json(attempt.spec) | {"job": 43, "uid": "another"}
    files.write_json(attempt.spec, spec)
    second = world.finish(attempt)
    assert second.code == ExitCode.SUCCEEDED, second.log
    assert len(models.load_all(world.layout)) == 2
    card = models.load(world.layout, second.result["artifacts"]["model"]).card
    assert card["lineage"]["previous"] == first.result["artifacts"]["model"]
    assert card["lineage"]["base"]["source"] == first.result["artifacts"]["path"]
    assert len(dataset.names(world.layout)) == 1


def test_damage_to_the_dataset_is_found_and_the_model_not_put_to_use(tmp_path: Path) -> None:
    world = World(tmp_path)
    attempt = world.file(1)
    process = world.start(attempt)
    wait_until(lambda: phase(attempt) == "training", process)
    image = next(world.layout.datasets.glob("azaion-*/train/images/*.jpg"))
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    image.unlink()
    image.write_bytes(data)
    ending = world.ending(attempt, process)
    assert ending.code == ExitCode.DATA, ending.log
    assert image.name in ending.result["message"]
    assert models.current(world.layout) is None
    model = models.load(world.layout, ending.result["artifacts"]["model"])
    assert model.card["dataset"]["damage"]
    again = world.finish(world.file(2))
    assert again.code == ExitCode.DATA
    assert models.load_all(world.layout) == [model]


def no_annotations(world: World) -> None:
    for path in (*world.layout.data.images.iterdir(), *world.layout.data.labels.iterdir()):
        path.unlink()


def unreadable_images(world: World) -> None:
    for path in world.layout.data.images.iterdir():
        path.write_bytes(b"no image")


def torn_weights(world: World) -> None:
    (world.layout.models / "yolo26m.pt").write_bytes(b"PK no weights")


def nothing(_world: World) -> None:
    pass


@pytest.mark.parametrize(
    ("harm", "parameters", "code", "said"),
    [
        (no_annotations, {}, ExitCode.DATA, ""),
        (unreadable_images, {}, ExitCode.DATA, ""),
        (nothing, {"dataset": "azaion-2020-01-01"}, ExitCode.DATA, "azaion-2020-01-01"),
        (nothing, {"model": "yolo26m.pt"}, ExitCode.NO_INPUT, "yolo26m.pt"),
        (torn_weights, {"model": "yolo26m.pt"}, ExitCode.NO_INPUT, "good copy"),
        (nothing, {"epochs": 0}, ExitCode.CONFIG, "epochs"),
        (nothing, {"overrides": {"lr0": "much"}}, ExitCode.CONFIG, "lr0"),
        (nothing, {"overrides": {"optimizer": "Magic"}}, ExitCode.CONFIG, "optimizer"),
        (nothing, {"overrides": {"project": "/elsewhere"}}, ExitCode.CONFIG, "project"),
    ],
    ids=["empty", "unreadable", "no-dataset", "no-model", "torn-model", "epochs", "type", "optimizer", "forbidden"],
)
def test_each_cause_has_its_exit_code_and_its_line(
    tmp_path: Path, harm: Callable[[World], None], parameters: dict[str, Any], code: ExitCode, said: str
) -> None:
    world = World(tmp_path)
    harm(world)
    ending = world.finish(world.file(1, **parameters))
    assert ending.code == code, ending.log
    assert (ending.result["exit_code"], ending.result["nonce"]) == (code, "nonce-1" if ending.result["nonce"] else "")
    assert said in ending.result["message"]
    assert "\n" not in ending.result["message"]
    assert models.load_all(world.layout) == []
    assert "Traceback" not in ending.log


def test_a_full_disk_cannot_hide_the_exit_code(tmp_path: Path) -> None:
    world = World(tmp_path, images=0)
    attempt = world.file(1, epochs=0)
    ending = world.finish(attempt, AZAION_FAILPOINTS="result.begun=1:enospc")
    assert ending.code == ExitCode.CONFIG
    assert not attempt.result.exists()


def test_a_log_on_a_full_disk_does_not_change_the_exit_code(tmp_path: Path) -> None:
    world = World(tmp_path)
    attempt = world.file(1, model="yolo26m.pt")
    attempt.log.symlink_to("/dev/full")
    process = world.start(attempt)
    assert process.wait(timeout=60) == ExitCode.NO_INPUT
    assert files.read_json(attempt.result)["exit_code"] == ExitCode.NO_INPUT


def test_an_unexpected_error_leaves_its_traceback_in_the_log(tmp_path: Path) -> None:
    world = World(tmp_path)
    (world.run_folder.origin / "in-the-way").mkdir(parents=True)
    ending = world.finish(world.file(1))
    assert ending.code == ExitCode.SOFTWARE
    assert ending.result["message"].startswith("IsADirectoryError")
    assert "Traceback" in ending.log
