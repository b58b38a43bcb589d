"""Deaths, damage and stops of the real worker: what the next attempt goes on from."""

import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from azaion import dataset, files, models
from azaion.progress import ExitCode
from tests.training_runs import Ending, World, epochs_done, phase, wait_until

pytestmark = pytest.mark.train

KILLED = -signal.SIGKILL


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def killed_after(world: World, epochs: int) -> Ending:
    """A first attempt that dies right after so many epochs."""
    ending = world.finish(world.file(1), AZAION_FAILPOINTS=f"checkpoint.done={epochs}:kill")
    assert ending.code == KILLED, ending.log
    return ending


def rows(world: World) -> list[int]:
    return [int(line.split(",")[0]) for line in world.run_folder.results.read_text().splitlines()[1:]]


@pytest.mark.parametrize(
    ("step", "epochs"),
    [("written=1", 0), ("rotated=2", 1), ("saved=2", 2)],
)
def test_a_death_while_a_checkpoint_is_saved_loses_at_most_that_epoch(tmp_path: Path, step: str, epochs: int) -> None:
    world = World(tmp_path)
    first = world.finish(world.file(1), AZAION_FAILPOINTS=f"checkpoint.{step}:kill")
    assert first.code == KILLED, first.log
    second = world.finish(world.file(2))
    assert second.code == ExitCode.SUCCEEDED, second.log
    assert second.result["resumed_from_epoch"] == (epochs or None)
    assert second.epochs == list(range(epochs + 1, 4))
    assert rows(world) == [1, 2, 3]
    assert not list(world.run_folder.weights.glob(".tmp-*"))
    assert not list(world.run_folder.weights.glob("*.corrupt*"))


def test_every_death_between_training_and_the_last_word_is_taken_up_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    steps = ["final.written", "models.copied", "models.renamed", "models.switched", "result.begun"]
    for number, step in enumerate(steps, 1):
        ending = world.finish(world.file(number), AZAION_FAILPOINTS=f"{step}=1:kill")
        assert ending.code == KILLED, ending.log
        assert ending.epochs == ([1, 2, 3] if number == 1 else [])  # a finished run is never "resumed"
        assert not ending.result
    # It has said its last word, and died before its exit could say the same.
    ending = world.finish(world.file(6), AZAION_FAILPOINTS="result.written=1:kill")
    assert ending.code == KILLED, ending.log
    assert ending.result["exit_code"] == ExitCode.SUCCEEDED
    ending = world.finish(world.file(7))
    assert ending.code == ExitCode.SUCCEEDED, ending.log
    (model,) = models.load_all(world.layout)
    assert model.card["attempt"] == 3
    assert ending.result["artifacts"]["model"] == model.name == models.current(world.layout)
    assert len(dataset.names(world.layout)) == 1
    assert not list(world.folder.rglob(".tmp-*"))


def test_a_flipped_bit_costs_one_epoch_and_two_end_the_run(tmp_path: Path) -> None:
    world = World(tmp_path)
    killed_after(world, 2)
    run = world.run_folder
    flip(run.last)
    flip(run.previous)
    for number in (2, 3):
        ending = world.finish(world.file(number))
        assert ending.code == ExitCode.CHECKPOINT, ending.log
        assert ending.epochs == []
    # What the message advises: put a good copy back.
    aside = run.previous.with_name("last.previous.pt.corrupt")
    flip(aside)
    aside.rename(run.previous)
    ending = world.finish(world.file(4))
    assert ending.code == ExitCode.SUCCEEDED, ending.log
    assert ending.result["resumed_from_epoch"] == 1
    assert ending.epochs == [2, 3]
    assert rows(world) == [1, 2, 3]
    assert run.last.with_name("last.pt.corrupt").exists()


STRIP = """
import sys, torch
checkpoint = torch.load(sys.argv[1], weights_only=False)
checkpoint |= {"optimizer": None, "epoch": -1}
torch.save(checkpoint, sys.argv[1])
"""


def test_a_checkpoint_without_its_optimizer_never_begins_something_new(tmp_path: Path) -> None:
    """Ultralytics would begin a new run on its own sample data."""
    world = World(tmp_path)
    killed_after(world, 1)
    run = world.run_folder
    run.best.unlink()  # the same file by another name
    subprocess.run([sys.executable, "-c", STRIP, str(run.last)], check=True, timeout=60)
    manifest = files.read_json(run.manifest)
    manifest["generations"][0] |= {"size": run.last.stat().st_size, "sha256": files.sha256(run.last)}
    files.write_json(run.manifest, manifest)
    ending = world.finish(world.file(2))
    assert ending.code == ExitCode.CHECKPOINT, ending.log
    assert ending.epochs == []


def test_a_full_disk_leaves_the_good_checkpoint(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = world.finish(world.file(1), AZAION_FAILPOINTS="checkpoint.begun=2:enospc")
    assert first.code == ExitCode.DISK, first.log
    assert (first.result["verified_epoch"], first.epochs) == (1, [1])
    assert "Free some space" in first.result["message"]
    second = world.finish(world.file(2))
    assert second.code == ExitCode.SUCCEEDED, second.log
    assert (second.result["resumed_from_epoch"], second.epochs) == (1, [2, 3])


def test_a_stop_finishes_the_epoch_and_the_next_attempt_may_want_other_epochs(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = world.file(1, epochs=50)
    process = world.start(first)
    wait_until(lambda: epochs_done(first) == [1], process)
    for _ in range(3):  # the second and third change nothing
        process.send_signal(signal.SIGTERM)
    ending = world.ending(first, process)
    assert ending.code == ExitCode.INTERRUPTED, ending.log
    done = ending.epochs[-1]
    assert ending.epochs == list(range(1, done + 1))
    assert ending.result["verified_epoch"] == done < 10
    assert "Traceback" not in ending.log

    second = world.finish(world.file(2, epochs=done + 1))
    assert second.code == ExitCode.SUCCEEDED, second.log
    assert (second.result["resumed_from_epoch"], second.epochs) == (done, [done + 1])
    assert rows(world) == list(range(1, done + 2))
    times = [files.read_json(attempt.result)["verified_epoch"] for attempt in (first, world.job.attempt(2))]
    assert all(earlier < later for earlier, later in pairwise(times))


@pytest.mark.parametrize("when", ["starting", "dataset", "loading"])
def test_a_stop_before_the_first_epoch_is_heeded_at_once(tmp_path: Path, when: str) -> None:
    world = World(tmp_path)
    attempt = world.file(1, epochs=50)
    process = world.start(attempt, AZAION_FAILPOINTS="dataset.linked=1:delay")
    wait_until(lambda: phase(attempt) == when, process)
    process.send_signal(signal.SIGTERM)
    ending = world.ending(attempt, process)
    assert ending.code == ExitCode.INTERRUPTED, ending.log
    assert ending.epochs in ([], [1])  # "loading" may have ended in the same instant
    assert ending.result["resumed_from_epoch"] is None
    assert ending.result["verified_epoch"] in (None, 1)


def test_a_stop_during_the_final_validation_is_heeded_at_once_and_training_not_repeated(tmp_path: Path) -> None:
    world = World(tmp_path)
    attempt = world.file(1, epochs=1)
    process = world.start(attempt, AZAION_FAILPOINTS="final.written=1:delay")
    wait_until(lambda: world.run_folder.final.with_name(".tmp-final.pt").exists(), process)
    process.send_signal(signal.SIGTERM)
    first = world.ending(attempt, process)
    assert first.code == ExitCode.INTERRUPTED, first.log
    assert (first.epochs, first.result["verified_epoch"]) == ([1], 1)
    assert models.load_all(world.layout) == []
    second = world.finish(world.file(2, epochs=1))
    assert second.code == ExitCode.SUCCEEDED, second.log
    assert (second.epochs, second.result["resumed_from_epoch"]) == ([], 1)
