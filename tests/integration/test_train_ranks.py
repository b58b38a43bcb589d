"""A training on several GPUs, on as many processes of the CPU: stopped, robbed of one of them, and finished."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from azaion import files, models
from azaion.layout import AttemptFolder
from azaion.progress import ExitCode
from supervisor import processes
from tests.training_runs import World, epochs_done, wait_until
from tests.waiting import until

pytestmark = pytest.mark.train

ROOT = Path(__file__).parents[2]


def start(world: World, attempt: AttemptFolder, **environment: str) -> subprocess.Popen[bytes]:
    """Start the worker with two ranks."""
    spec = files.read_json(attempt.spec)
    files.write_json(attempt.spec, spec | {"devices": ["gpu0", "gpu1"]})
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(world.folder / "home"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    with attempt.log.open("ab") as log:
        command = [sys.executable, str(ROOT / "tests" / "ranks_on_cpu.py"), str(attempt.path)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd="/")


def ranks_of(process: subprocess.Popen[bytes]) -> list[processes.Identity]:
    """Those that train, the first rank first."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = [processes.identify(int(child)) for child in children]
    return [each for each in found if each is not None]


def test_two_ranks_are_stopped_robbed_and_finish(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = world.file(1, epochs=5)
    process = start(world, first)
    wait_until(lambda: bool(epochs_done(first)), process)
    ranks = ranks_of(process)
    assert len(ranks) == 2
    process.terminate()
    ending = world.ending(first, process)
    assert ending.code == ExitCode.INTERRUPTED, ending.log
    done = len(ending.epochs)
    assert 1 <= done < 5
    assert ending.result["verified_epoch"] == done
    assert not any(processes.alive(each) for each in ranks)

    second = world.file(2, epochs=5)
    process = start(world, second)
    wait_until(lambda: bool(epochs_done(second)), process)
    ranks = ranks_of(process)
    # The machine has killed one of them for its memory, say: the other would wait for it for hours.
    os.kill(ranks[1].pid, signal.SIGKILL)
    ending = world.ending(second, process)
    assert ending.code == -signal.SIGKILL, ending.log
    until(lambda: not any(processes.alive(each) for each in ranks), "no rank is left")
    assert ending.epochs[0] == done + 1

    third = world.file(3, epochs=5)
    ending = world.ending(third, start(world, third))
    assert ending.code == ExitCode.SUCCEEDED, ending.log
    resumed = ending.result["resumed_from_epoch"]
    assert resumed >= done + 1
    assert ending.epochs == list(range(resumed + 1, 6))
    (model,) = models.load_all(world.layout)
    assert model.card["epochs"] == 5


def test_what_a_rank_says_of_its_failure_is_what_the_worker_says(tmp_path: Path) -> None:
    world = World(tmp_path)
    attempt = world.file(1)
    ending = world.ending(attempt, start(world, attempt, AZAION_FAILPOINTS="train.batch=2:enospc"))
    assert ending.code == ExitCode.DISK, ending.log
    assert "on GPU " in ending.result["message"]
    assert "the disk failed us" in ending.result["message"]
