"""What the training worker is given: the job's spec, the model to begin with, the data."""

import importlib.util
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from azaion import files
from azaion.layout import AttemptFolder, Layout, RunFolder
from workers.training import base_model, curves, data, spec
from workers.training.errors import BaseModelError, DataError, SpecError


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    root = tmp_path / "root"
    (root / "models").mkdir(parents=True)
    return Layout(root=root, state=tmp_path / "state", spool=tmp_path / "spool", socket=tmp_path / "socket")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "run" / "dataset").mkdir(parents=True)
    return RunFolder(path=tmp_path / "run")


def written(folder: Path, changes: dict[str, Any], train: dict[str, Any]) -> AttemptFolder:
    value = {
        "protocol": 1,
        "job": 1,
        "uid": "9f3a1c2d",
        "attempt": 1,
        "nonce": "ab",
        "kind": "train",
        "argv": ["x"],
        "config": "/c",
        "run": str(folder / "run"),
        "train": {"model": "yolo26m.pt", "epochs": 2, "batch": 4, "imgsz": 96} | train,
    }
    attempt = AttemptFolder(path=folder)
    files.write_json(attempt.spec, value | changes)
    return attempt


# The spec.


def test_a_spec_is_read(tmp_path: Path) -> None:
    job = spec.load(written(tmp_path, {}, {"overrides": {"lr0": 0.1, "nbs": 4, "optimizer": "AdamW", "amp": False}}))
    assert job.train.overrides["nbs"] == 4
    assert job.train.save_period == -1
    assert job.run_folder.path == tmp_path / "run"


@pytest.mark.parametrize(
    ("changes", "train", "said"),
    [
        ({}, {"epochs": 0}, "epochs"),
        ({}, {"epochs": "3"}, "epochs"),
        ({}, {"epochs": True}, "epochs"),
        ({}, {"batch": -1}, "batch"),
        ({}, {"imgsz": 8}, "imgsz"),
        ({}, {"workers": -1}, "workers"),
        ({}, {"model": ""}, "model"),
        ({}, {"modle": "x"}, "modle"),
        ({}, {"dataset": 3}, "dataset"),
        ({}, {"overrides": ["lr0"]}, "overrides"),
        ({"protocol": 2}, {}, "protocol"),
        ({"kind": "export"}, {}, "kind"),
        ({"uid": "../x"}, {}, "uid"),
        ({"uid": "x\n"}, {}, "uid"),
        ({"train": None}, {}, "train"),
    ],
)
def test_a_wrong_spec_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], train: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        spec.load(written(tmp_path, changes, train))


@pytest.mark.parametrize("text", [None, "", "{", "[]"])
def test_an_unreadable_spec_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "spec.json").write_text(text)
    with pytest.raises(SpecError):
        spec.load(AttemptFolder(path=tmp_path))


@pytest.mark.parametrize("name", sorted(spec.DECIDED))
def test_what_the_product_decides_cannot_be_overridden(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match=f"{name} is decided"):
        spec.load(written(tmp_path, {}, {"overrides": {name: "/x"}}))


def test_every_wrong_override_is_named_at_once(tmp_path: Path) -> None:
    overrides = {
        "lr00": 1,
        "pretrained": "https://example.com/x.pt",
        "amp": "fp16",
        "project": "/x",
        "optimizer": "Magic",
    }
    with pytest.raises(SpecError) as caught:
        spec.load(written(tmp_path, {}, {"overrides": overrides}))
    assert all(name in str(caught.value) for name in overrides)


def test_every_hyperparameter_is_one_of_ultralytics() -> None:
    package = importlib.util.find_spec("ultralytics")
    assert package is not None
    assert package.origin is not None
    known = set(yaml.safe_load((Path(package.origin).parent / "cfg" / "default.yaml").read_text()))
    assert known >= spec.HYPERPARAMETERS
    assert known | {"save_dir", "augmentations"} >= spec.DECIDED
    assert not spec.HYPERPARAMETERS & spec.DECIDED


# The model to begin with.


def weights() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("yolo/data.pkl", "weights " * 100)
    return stream.getvalue()


def test_weights_are_found_among_the_models_then_in_the_root_then_by_path(layout: Layout, run: RunFolder) -> None:
    (layout.root / "yolo26m.pt").write_bytes(weights())
    assert base_model.resolve("yolo26m.pt", layout, run).path == layout.root / "yolo26m.pt"
    (layout.models / "yolo26m.pt").write_bytes(weights())
    found = base_model.resolve("yolo26m.pt", layout, run)
    assert found.path == layout.models / "yolo26m.pt"
    assert found.sha256 == files.sha256(found.path)
    assert base_model.resolve(str(layout.root / "yolo26m.pt"), layout, run).path == layout.root / "yolo26m.pt"


def test_the_model_in_use_can_be_trained_further(layout: Layout, run: RunFolder) -> None:
    (layout.models / "azaion-2026-11-22").mkdir()
    (layout.models / "azaion-2026-11-22" / "azaion.pt").write_bytes(weights())
    layout.current_model.symlink_to("azaion-2026-11-22/azaion.pt")
    found = base_model.resolve("azaion.pt", layout, run)
    assert found.source == layout.models / "azaion-2026-11-22" / "azaion.pt"


@pytest.mark.parametrize(("name", "scale"), [("yolo26t.yaml", "t"), ("yolo26m.yaml", "m"), ("yolo26n.yaml", "n")])
def test_an_architecture_is_written_down_at_its_one_scale(
    layout: Layout, run: RunFolder, name: str, scale: str
) -> None:
    found = base_model.resolve(name, layout, run)
    assert found.path == run.base
    assert list(yaml.safe_load(run.base.read_text())["scales"]) == [scale]


@pytest.mark.parametrize(
    "name", ["yolo26m.pt", "../yolo26m.pt", "sub/yolo26m.pt", "yolo26m", "yolo99m.yaml", "yolo26q.yaml", "/no/such.pt"]
)
def test_a_model_that_is_not_there_is_never_downloaded(
    layout: Layout, run: RunFolder, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Ultralytics would also take a file of that name from the working directory.
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "yolo26m.pt").write_bytes(weights())
    monkeypatch.chdir(tmp_path / "cwd")
    with pytest.raises(BaseModelError):
        base_model.resolve(name, layout, run)


@pytest.mark.parametrize("content", [b"", b"no zip", weights()[:-30], weights().replace(b"weights", b"wEights", 1)])
def test_damaged_weights_are_refused(layout: Layout, run: RunFolder, content: bytes) -> None:
    (layout.models / "yolo26m.pt").write_bytes(content)
    with pytest.raises(BaseModelError, match="good copy"):
        base_model.resolve("yolo26m.pt", layout, run)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        "backbone: [",
        "backbone: []\n",
        "backbone: []\nhead: []\nactivation: __import__('os').system('true')\n",
        "backbone: []\nhead: []\nscales: {m: [1, 1, 1]}\n",
    ],
    ids=["empty", "list", "torn", "headless", "activation", "scale"],
)
def test_a_hostile_architecture_is_refused(layout: Layout, run: RunFolder, text: str) -> None:
    (layout.models / "own2n.yaml").write_text(text)
    with pytest.raises(BaseModelError):
        base_model.resolve("own2n.yaml", layout, run)
    assert not run.base.exists()


# The data.


def described(run: RunFolder, **changes: Any) -> Path:
    for split in ("train", "valid"):
        (run.dataset / split / "images").mkdir(parents=True, exist_ok=True)
        (run.dataset / split / "images" / "a.jpg").write_bytes(b"x")
    value = {"path": str(run.dataset), "train": "train/images", "val": "valid/images", "names": {0: "disc"}} | changes
    path = run.dataset / "data.yaml"
    path.write_text(yaml.safe_dump({key: item for key, item in value.items() if item is not None}))
    return path


def test_good_data_passes_and_its_caches_go(run: RunFolder) -> None:
    description = described(run)
    cache = run.dataset / "train" / "images.cache"
    cache.write_bytes(b"a pickle")
    data.check(description, run)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"download": "print('run as code')"}, "download"),
        ({"train": None}, "train"),
        ({"val": ["valid/images"]}, "val"),
        ({"val": "test/images"}, "no images in 'val'"),
        ({"names": None}, "names no classes"),
        ({"train": "../../elsewhere"}, "outside the run"),
        ({"path": "/etc"}, "outside the run"),
    ],
)
def test_data_that_cannot_be_used_is_refused(run: RunFolder, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        data.check(described(run, **changes), run)


def test_a_folder_that_leads_out_of_the_run_is_refused(run: RunFolder, tmp_path: Path) -> None:
    description = described(run)
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "a.jpg").write_bytes(b"x")
    files.remove_tree(run.dataset / "train")
    (run.dataset / "train").mkdir()
    (run.dataset / "train" / "images").symlink_to(tmp_path / "snapshot")
    with pytest.raises(DataError, match="outside the run"):
        data.check(description, run)


def test_no_images_to_learn_from(run: RunFolder) -> None:
    description = described(run)
    (run.dataset / "train" / "images" / "a.jpg").unlink()
    with pytest.raises(DataError, match="no images in 'train'"):
        data.check(description, run)


@pytest.mark.parametrize("text", ["", "[", "- 1"])
def test_an_unreadable_description(run: RunFolder, text: str) -> None:
    path = run.dataset / "data.yaml"
    path.write_text(text)
    with pytest.raises(DataError):
        data.check(path, run)


# The curves.


def test_curves_are_cut_back_to_the_epoch_that_a_run_goes_on_from(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("epoch,time,loss\n1,1,0.5\n2,2,0.4\n3,3,0.3\n3,1,0.3\n4,")
    curves.cut_back(path, 2)
    assert path.read_text() == "epoch,time,loss\n1,1,0.5\n2,2,0.4\n"
    curves.cut_back(path, 5)
    assert path.read_text() == "epoch,time,loss\n1,1,0.5\n2,2,0.4\n"


@pytest.mark.parametrize("text", [None, ""])
def test_no_curves_yet(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "results.csv"
    if text is not None:
        path.write_text(text)
    curves.cut_back(path, 2)


def test_a_json_spec_keeps_its_numbers(tmp_path: Path) -> None:
    attempt = written(tmp_path, {}, {"overrides": {"lr0": 1e-3}})
    assert (
        json.loads(attempt.spec.read_text())["train"]["overrides"]["lr0"] == spec.load(attempt).train.overrides["lr0"]
    )
