import errno
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from azaion import failpoints, files
from azaion.layout import RunFolder
from workers.training.checkpoint import Checkpoint, CheckpointStore, Generation
from workers.training.errors import CheckpointError

STEPS = ("begun", "written", "rotated", "saved", "done")


def content(epoch: int) -> bytes:
    """What torch writes is a zip archive, here the same at any time."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), f"epoch {epoch} " * 500)
    return stream.getvalue()


class Died(BaseException):
    """Stands for a SIGKILL."""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(path=tmp_path / "run")
    folder.weights.mkdir(parents=True)
    return folder


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, BaseException], None]]:
    def arm(step: str, error: BaseException) -> None:
        def hit(name: str) -> None:
            if name == step:
                raise error

        monkeypatch.setattr(failpoints, "hit", hit)

    yield arm
    monkeypatch.undo()


def save(store: CheckpointStore, epoch: int, **changes: Any) -> None:
    options: dict[str, Any] = {"epochs": 10, "fitness": epoch / 10, "best": True, "finished": False, "period": -1}
    store.save(content(epoch), epoch=epoch, **(options | changes))


def reopened(run: RunFolder) -> Checkpoint | None:
    return CheckpointStore(run).open()


def opened_epoch(run: RunFolder) -> int | None:
    checkpoint = reopened(run)
    return checkpoint.generation.epoch if checkpoint else None


def flip(path: Path, at: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_nothing_to_go_on_from_before_the_first_save(run: RunFolder) -> None:
    assert reopened(run) is None


def test_the_last_save_is_found_and_the_one_before_is_kept(run: RunFolder) -> None:
    store = CheckpointStore(run)
    for epoch in (1, 2, 3):
        save(store, epoch)
    assert opened_epoch(run) == store.epoch == 3
    assert run.last.read_bytes() == content(3)
    assert run.previous.read_bytes() == content(2)
    manifest = files.read_json(run.manifest)
    assert manifest["completed"]
    assert manifest["generations"][0].keys() >= {"epoch", "size", "sha256"}


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(content(7)),  # whole, but not ours
    ],
    ids=["bit", "empty", "torn", "gone", "foreign"],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_previous_one_used(
    run: RunFolder, damage: Callable[[Path], None]
) -> None:
    store = CheckpointStore(run)
    for epoch in (1, 2, 3):
        save(store, epoch, best=epoch == 1)
    damage(run.last)
    gone = not run.last.exists()
    found = reopened(run)
    assert found is not None
    assert (found.path, found.generation.epoch) == (run.previous, 2)
    assert not run.last.exists()
    assert gone or run.last.with_name("last.pt.corrupt").exists()


def test_going_on_after_damage_never_overwrites_the_good_generation(run: RunFolder) -> None:
    store = CheckpointStore(run)
    for epoch in (1, 2):
        save(store, epoch, best=False)
    flip(run.last)
    store = CheckpointStore(run)
    store.open()
    save(store, 2, best=False)
    assert run.previous.read_bytes() == content(1)
    flip(run.last)
    assert opened_epoch(run) == 1


def test_a_second_damaged_checkpoint_is_set_aside_beside_the_first(run: RunFolder) -> None:
    store = CheckpointStore(run)
    for epoch in (1, 2):
        save(store, epoch)
        save(store, epoch + 1)
        flip(run.last)
        store = CheckpointStore(run)
        store.open()
    assert len(list(run.weights.glob("last.pt.corrupt*"))) == 2


def test_both_generations_damaged_is_an_error_and_stays_one(run: RunFolder) -> None:
    store = CheckpointStore(run)
    for epoch in (1, 2):
        save(store, epoch)
    flip(run.last)
    flip(run.previous)
    for _ in range(2):  # the second attempt must not begin from nothing either
        with pytest.raises(CheckpointError, match="no checkpoint"):
            reopened(run)
    assert {path.name for path in run.weights.glob("*.corrupt*")} == {"last.pt.corrupt", "last.previous.pt.corrupt"}


def test_checkpoints_that_are_gone_are_an_error(run: RunFolder) -> None:
    save(CheckpointStore(run), 1)
    run.last.unlink()
    with pytest.raises(CheckpointError, match="gone"):
        reopened(run)


@pytest.mark.parametrize("text", ["", "{", '{"generations": 3}', '{"generations": [{"epoch": "x"}]}', "[]"])
def test_an_unreadable_manifest_is_an_error(run: RunFolder, text: str) -> None:
    save(CheckpointStore(run), 1)
    run.manifest.write_text(text)
    with pytest.raises(CheckpointError, match="Restore it"):
        reopened(run)


def test_a_checkpoint_that_is_not_ours_is_never_loaded(run: RunFolder) -> None:
    run.last.write_bytes(content(1))
    with pytest.raises(CheckpointError):
        reopened(run)


def test_a_link_is_no_checkpoint(run: RunFolder, tmp_path: Path) -> None:
    save(CheckpointStore(run), 1)
    elsewhere = tmp_path / "elsewhere.pt"
    run.last.rename(elsewhere)
    run.last.symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match="regular file"):
        reopened(run)
    assert elsewhere.read_bytes() == content(1)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("done", [0, 1, 2, 5])
def test_dying_at_any_step_loses_at_most_the_epoch_being_saved(
    run: RunFolder, step: str, done: int, fail: Callable[[str, BaseException], None]
) -> None:
    store = CheckpointStore(run)
    for epoch in range(1, done + 1):
        save(store, epoch, period=1)
    # A process that dies runs no clean-up: its files are those of the moment.
    fail(f"checkpoint.{step}", Died())
    monkey = pytest.MonkeyPatch()
    monkey.setattr(Path, "unlink", lambda _self, missing_ok=False: None)  # noqa: ARG005
    with pytest.raises(Died):
        save(store, done + 1, period=1)
    monkey.undo()
    fail("", Died())
    assert (opened_epoch(run) or 0) in ({done} if step in STEPS[:3] else {done + 1})
    assert not list(run.weights.glob(".tmp-*"))
    store = CheckpointStore(run)
    found = store.open()
    epoch = found.generation.epoch if found else 0
    if found:
        assert store.best(otherwise=found).generation.epoch in {epoch, done}
    save(store, epoch + 1)
    assert opened_epoch(run) == epoch + 1


@pytest.mark.parametrize(
    "step", ["checkpoint.begun", "checkpoint.written", "files.replace.rename", "checkpoint.rotated"]
)
def test_a_full_disk_leaves_the_good_checkpoint(
    run: RunFolder, step: str, fail: Callable[[str, BaseException], None]
) -> None:
    store = CheckpointStore(run)
    save(store, 1)
    fail(step, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(OSError, match="No space left"):
        save(store, 2)
    assert store.epoch == opened_epoch(run) == 1
    assert not list(run.weights.glob(".tmp-*"))


def test_periodic_checkpoints_are_kept_at_the_period_and_pruned(run: RunFolder) -> None:
    store = CheckpointStore(run)
    for epoch in range(1, 11):
        save(store, epoch, period=2, best=epoch == 3)
    assert sorted(path.name for path in run.weights.glob("epoch*.pt")) == ["epoch10.pt", "epoch6.pt", "epoch8.pt"]
    assert run.periodic(6).read_bytes() == content(6)
    assert run.best.read_bytes() == content(3)


@pytest.mark.parametrize("period", [-1, 0])
def test_no_periodic_checkpoint_without_a_period(run: RunFolder, period: int) -> None:
    save(CheckpointStore(run), 1, period=period)
    assert not list(run.weights.glob("epoch*.pt"))


def test_the_best_survives_many_generations(run: RunFolder) -> None:
    store = CheckpointStore(run)
    for epoch in range(1, 9):
        save(store, epoch, best=epoch == 2)
    store = CheckpointStore(run)
    found = store.open()
    assert found is not None
    assert store.best(otherwise=found).generation.epoch == 2


def test_a_damaged_best_is_replaced_by_the_one_that_we_go_on_from(run: RunFolder) -> None:
    store = CheckpointStore(run)
    for epoch in (1, 2, 3, 4):
        save(store, epoch, best=epoch == 1)
    flip(run.best)
    store = CheckpointStore(run)
    found = store.open()
    assert found is not None
    assert store.best(otherwise=found).generation.epoch == 4
    assert run.best.read_bytes() == content(4)
    assert run.best.with_name("best.pt.corrupt").exists()
    store = CheckpointStore(run)
    assert store.open()
    assert store.best(otherwise=found).generation.epoch == 4


def test_a_filesystem_without_links_gets_copies(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Path, _target: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    store = CheckpointStore(run)
    for epoch in (1, 2):
        save(store, epoch)
    assert run.previous.read_bytes() == content(1)
    assert run.best.stat().st_nlink == 1
    assert opened_epoch(run) == 2


def test_a_fitness_that_is_no_number_is_none(run: RunFolder) -> None:
    save(CheckpointStore(run), 1, fitness=float("nan"), best=False)
    found = reopened(run)
    assert found is not None
    assert found.generation.fitness is None


@pytest.mark.parametrize(
    ("epoch", "planned", "finished", "epochs", "ends"),
    [
        (5, 10, False, 10, False),
        (10, 10, True, 10, True),
        (10, 10, True, 12, False),  # more epochs were asked for since
        (10, 12, False, 8, True),  # fewer
        (6, 10, True, 10, True),  # it got no better
        (6, 10, True, 12, True),
    ],
)
def test_when_there_is_nothing_left_to_train(
    *, epoch: int, planned: int, finished: bool, epochs: int, ends: bool
) -> None:
    generation = Generation(epoch=epoch, epochs=planned, size=1, sha256="", finished=finished)
    assert generation.ends(epochs) is ends
