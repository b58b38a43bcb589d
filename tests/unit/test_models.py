import errno
import os
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from azaion import failpoints, files, models
from azaion.layout import Layout
from azaion.models import Model, ModelError

DAY = date(2026, 11, 22)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "root" / "models").mkdir(parents=True)
    return Layout(
        root=tmp_path / "root", state=tmp_path / "state", spool=tmp_path / "spool", socket=tmp_path / "socket"
    )


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "final.pt"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def curves(tmp_path: Path) -> Path:
    path = tmp_path / "results.csv"
    path.write_text("epoch\n1\n")
    return path


def register(layout: Layout, weights: Path, key: str = "9f3a1c2d", **files_: Path) -> Model:
    return models.register(
        layout,
        key=key,
        attempt=2,
        weights=weights,
        card={"metrics": {"mAP50": 0.9}},
        files={f"{name}.csv": path for name, path in files_.items()},
        today=DAY,
    )


def at(step: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def hit(name: str) -> None:
        if name == step:
            raise error

    monkeypatch.setattr(failpoints, "hit", hit)


def names(layout: Layout) -> list[str]:
    return sorted(path.name for path in layout.models.iterdir())


def test_a_model_is_registered_whole(layout: Layout, weights: Path, curves: Path) -> None:
    model = register(layout, weights, results=curves)
    assert model.name == "azaion-2026-11-22"
    assert sorted(path.name for path in model.path.iterdir()) == ["azaion.pt", "model.json", "results.csv"]
    assert model.weights.read_bytes() == b"weights"
    card = files.read_json(model.path / "model.json")
    assert (card["key"], card["attempt"], card["metrics"]) == ("9f3a1c2d", 2, {"mAP50": 0.9})
    assert card["weights"] == {"size": 7, "sha256": files.sha256(weights)}
    assert models.load(layout, model.name) == model
    assert models.load_all(layout) == [model]
    assert models.find(layout, "9f3a1c2d") == model


def test_the_same_key_makes_no_second_copy(layout: Layout, weights: Path) -> None:
    first = register(layout, weights)
    weights.write_bytes(b"others")
    assert register(layout, weights) == first
    assert names(layout) == [first.name]


def test_another_run_of_the_same_day_gets_a_number_and_they_sort_by_age(layout: Layout, weights: Path) -> None:
    made = [register(layout, weights, key=f"key{number}").name for number in range(11)]
    assert made[:3] == ["azaion-2026-11-22", "azaion-2026-11-22-2", "azaion-2026-11-22-3"]
    assert [model.name for model in models.load_all(layout)] == made


@pytest.mark.parametrize("step", ["files.replace.rename", "models.copied"])
def test_what_fails_before_the_rename_leaves_nothing(
    layout: Layout, weights: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(step, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), monkeypatch)
    with pytest.raises(OSError, match="No space"):
        register(layout, weights)
    assert names(layout) == []


def test_what_a_crash_left_is_replaced(layout: Layout, weights: Path) -> None:
    left = layout.models / ".tmp-9f3a1c2d"
    left.mkdir()
    (left / "azaion.pt").write_bytes(b"half")
    assert register(layout, weights).weights.read_bytes() == b"weights"
    assert names(layout) == ["azaion-2026-11-22"]


def test_a_crash_after_the_rename_makes_no_second_copy(
    layout: Layout, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at("models.renamed", KeyboardInterrupt(), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        register(layout, weights)
    monkeypatch.undo()
    assert register(layout, weights).name == "azaion-2026-11-22"
    assert names(layout) == ["azaion-2026-11-22"]


def test_a_folder_of_somebody_else_is_left_alone(layout: Layout, weights: Path) -> None:
    (layout.models / "azaion-2026-11-22").mkdir()
    (layout.models / "azaion-2026-11-22-2").write_text("a file")
    assert register(layout, weights).name == "azaion-2026-11-22-3"


def test_promoting_switches_the_link_and_an_older_model_can_come_back(layout: Layout, weights: Path) -> None:
    first = register(layout, weights)
    weights.write_bytes(b"newer")
    second = register(layout, weights, key="other")
    assert models.current(layout) is None
    models.promote(layout, first.name)
    assert models.current(layout) == first.name
    models.promote(layout, second.name)
    assert layout.current_model.read_bytes() == b"newer"
    assert layout.current_model.readlink() == Path(second.name, "azaion.pt")
    models.promote(layout, first.name)
    assert layout.current_model.read_bytes() == b"weights"


def test_the_file_of_the_old_product_is_kept_as_a_model(layout: Layout, weights: Path) -> None:
    layout.current_model.write_bytes(b"old product")
    os.utime(layout.current_model, (1_700_000_000, 1_700_000_000))
    model = register(layout, weights)
    models.promote(layout, model.name)
    assert layout.current_model.read_bytes() == b"weights"
    assert datetime.fromtimestamp(1_700_000_000, UTC).date() == date(2023, 11, 14)
    legacy = models.load(layout, "azaion-2023-11-14")
    assert legacy.weights.read_bytes() == b"old product"
    models.promote(layout, legacy.name)
    assert layout.current_model.read_bytes() == b"old product"


def test_a_crash_while_the_old_file_is_kept_loses_nothing(
    layout: Layout, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = register(layout, weights)
    layout.current_model.write_bytes(b"old product")
    at("models.renamed", KeyboardInterrupt(), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        models.promote(layout, model.name)
    assert layout.current_model.read_bytes() == b"old product"
    monkeypatch.undo()
    models.promote(layout, model.name)
    assert len(models.load_all(layout)) == 2


@pytest.mark.parametrize("name", ["azaion-2026-01-01", "../../etc", "", "azaion.pt", "azaion-2026-11-22/../x"])
def test_promoting_what_is_not_there_changes_nothing(layout: Layout, weights: Path, name: str) -> None:
    models.promote(layout, register(layout, weights).name)
    with pytest.raises(ModelError, match="there are: azaion-2026-11-22"):
        models.promote(layout, name)
    assert models.current(layout) == "azaion-2026-11-22"


def damage(model: Model) -> None:
    model.weights.write_bytes(b"wEights")


def lose(model: Model) -> None:
    model.weights.unlink()


@pytest.mark.parametrize("harm", [damage, lose])
def test_damaged_weights_are_never_promoted(layout: Layout, weights: Path, harm: Callable[[Model], None]) -> None:
    good, bad = register(layout, weights), register(layout, weights, key="bad")
    models.promote(layout, good.name)
    harm(bad)
    with pytest.raises(ModelError, match="another model"):
        models.promote(layout, bad.name)
    assert models.current(layout) == good.name


def test_a_folder_in_the_links_place_is_refused(layout: Layout, weights: Path) -> None:
    model = register(layout, weights)
    layout.current_model.mkdir()
    with pytest.raises(ModelError, match="is a folder"):
        models.promote(layout, model.name)


def test_a_card_that_cannot_be_read_hides_only_its_model(
    layout: Layout, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = register(layout, weights), register(layout, weights, key="bad")
    (bad.path / "model.json").write_text("{")
    assert models.load_all(layout) == [good]
    assert "azaion-2026-11-22-2" in caplog.text
    with pytest.raises(ModelError, match="cannot be read"):
        models.load(layout, bad.name)


def test_the_root_is_never_made(layout: Layout, weights: Path) -> None:
    files.remove_tree(layout.root)
    with pytest.raises(ModelError, match="mount"):
        register(layout, weights)
    assert not layout.root.exists()


@pytest.mark.parametrize("key", ["", "../x", "a/b", "a b", "x" * 65])
def test_a_key_that_is_a_path_is_refused(layout: Layout, weights: Path, key: str) -> None:
    with pytest.raises(ModelError, match="key"):
        register(layout, weights, key=key)
    assert names(layout) == []
