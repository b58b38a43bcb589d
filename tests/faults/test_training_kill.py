"""The real trainer under a daemon, a shim and a machine that die: nothing interrupts it, or it goes on where it was."""

import json
import os
import re
import shutil
import signal
import time
from typing import Any

import pytest

from azaion.layout import AttemptFolder, RunFolder
from supervisor import processes
from tests.installations import Installation
from tests.shims import read
from tests.training_runs import QUICK, draw_shapes, epochs_done
from tests.waiting import until

pytestmark = [pytest.mark.train, pytest.mark.timeout(300)]

EPOCHS = 6


@pytest.fixture
def server(server: Installation) -> Installation:
    draw_shapes(server.layout, images=24, size=96)
    return server


def submit(server: Installation, epochs: int = EPOCHS) -> int:
    body = {"kind": "train", "epochs": epochs, "overrides": {**QUICK, "nbs": 4}}
    number: int = server.client.post("/v1/jobs", body)["id"]
    return number


def reached(server: Installation, number: int, epochs: int, attempt: int = 1) -> AttemptFolder:
    """Wait until an attempt has finished so many epochs."""

    def look() -> AttemptFolder | None:
        if not list(server.layout.jobs.glob(f"{number}-*/{attempt}")):
            return None
        folder = server.attempt(number, attempt)
        done = epochs_done(folder)
        return folder if done and done[-1] >= epochs else None

    found = until(look, f"epoch {epochs} of attempt {attempt}", 120)
    assert found is not None
    return found


def run_of(server: Installation, number: int) -> RunFolder:
    return RunFolder(path=server.attempt(number).path.parent / "run")


def succeeded(server: Installation, number: int) -> dict[str, Any]:
    job = server.wait(number, limit_s=150)
    log = server.attempt(number, len(job["attempts"])).log
    assert job["state"] == "succeeded", (job, log.read_text(errors="replace")[-3000:])
    assert (server.root / "models" / job["artifacts"]["model"] / "azaion.pt").exists()
    return job


def test_the_daemon_dies_and_the_trainer_does_not_notice(server: Installation) -> None:
    """SIGKILL, a plain restart, SIGKILL again: one attempt, one process, every epoch once, its exit status known."""
    server.start()
    number = submit(server)
    folder = reached(server, number, 1)
    before = read(folder.state)
    trainer = processes.Identity(before["child"]["pid"], before["child"]["start"])
    server.kill()
    assert processes.alive(trainer)
    server.start()
    assert server.job(number)["state"] == "running"
    reached(server, number, 2)
    assert server.stop() == 0
    assert processes.alive(trainer)
    server.start()
    reached(server, number, 3)
    server.kill()
    server.start()
    job = succeeded(server, number)
    assert read(folder.state) == before
    (attempt,) = job["attempts"]
    assert (attempt["pid"], attempt["exit_code"], attempt["cause"]) == (trainer.pid, 0, None)
    assert attempt["resumed_from_epoch"] is None
    assert epochs_done(folder) == list(range(1, EPOCHS + 1))


def test_a_training_steps_aside_for_maintenance_and_for_an_urgent_job(server: Installation) -> None:
    """Twice it ends at an epoch's boundary, and goes on there; the daemon dies in between."""
    server.start()
    number = submit(server)
    reached(server, number, 1)
    assert server.ctl("maintenance", "on", "--stop-running", "--reason", "new driver").returncode == 0
    job = server.wait(number, "queued", limit_s=120)
    assert job["reason"].endswith("new driver")
    filed = server.ctl("submit", "--gpu", "0", "--", "true")
    assert "new driver" in filed.stderr
    assert "new driver" in server.ctl("status").stdout
    server.kill()
    server.start()
    waiting = int(filed.stdout)
    assert server.job(waiting)["state"] == "queued"
    assert server.ctl("maintenance", "off").returncode == 0
    server.wait(waiting)
    reached(server, number, 3, attempt=2)
    urgent = int(server.ctl("submit", "--preempt", "--priority", "5", "--", "true").stdout)
    server.wait(urgent, limit_s=120)
    job = succeeded(server, number)
    first, second, third = job["attempts"]
    assert (first["cause"], second["cause"], third["cause"]) == ("preempted", "preempted", None)
    assert second["resumed_from_epoch"] >= 1
    assert third["resumed_from_epoch"] >= 3
    epochs = [epoch for each in (1, 2, 3) for epoch in epochs_done(server.attempt(number, each))]
    assert epochs == list(range(1, EPOCHS + 1))
    kinds = [event["type"] for event in server.client.get("/v1/events")]
    assert kinds.count("pause-requested") == 2
    assert {"maintenance-on", "maintenance-off"} <= set(kinds)


def test_a_run_that_ends_while_no_daemon_is_there(server: Installation) -> None:
    server.start()
    number = submit(server, epochs=2)
    folder = reached(server, number, 1)
    server.kill()
    until(folder.exit.exists, "the run ends by itself", 120)
    server.start()
    job = succeeded(server, number)
    assert [attempt["exit_code"] for attempt in job["attempts"]] == [0]


def test_a_killed_trainer_resumes_at_its_last_good_epoch(server: Installation) -> None:
    server.start()
    number = submit(server)
    folder = reached(server, number, 2)
    os.kill(read(folder.state)["child"]["pid"], signal.SIGKILL)
    until(folder.exit.exists, "the end is recorded")
    done = epochs_done(folder)
    job = succeeded(server, number)
    first, second = job["attempts"]
    assert (first["cause"], first["exit_code"]) == ("signal:9", None)
    # The checkpoint comes before the line that tells of it, so the kill may have come between.
    assert second["resumed_from_epoch"] in {done[-1], done[-1] + 1}
    resumed = epochs_done(server.attempt(number, 2))
    assert resumed == list(range(second["resumed_from_epoch"] + 1, EPOCHS + 1))


def test_a_killed_shim_leaves_the_trainer_alone_and_the_outcome_is_known(server: Installation) -> None:
    server.start()
    number = submit(server, epochs=3)
    folder = reached(server, number, 1)
    state = read(folder.state)
    os.kill(state["shim"]["pid"], signal.SIGKILL)
    job = succeeded(server, number)
    assert [(attempt["pid"], attempt["exit_code"]) for attempt in job["attempts"]] == [(state["child"]["pid"], 0)]
    assert not folder.exit.exists()
    assert read(folder.result)["exit_code"] == 0


def test_power_is_lost_and_another_boot_resumes(server: Installation) -> None:
    server.start()
    number = submit(server)
    folder = reached(server, number, 2)
    state = server.lose_power(number)
    folder.state.write_text(json.dumps({**state, "boot_id": "another"}))
    done = epochs_done(folder)
    server.start()
    job = succeeded(server, number)
    first, second = job["attempts"]
    assert first["cause"] == "lost:reboot"
    assert second["resumed_from_epoch"] in {done[-1], done[-1] + 1}


def test_a_flipped_bit_in_the_last_checkpoint_costs_one_epoch(server: Installation) -> None:
    server.start()
    number = submit(server)
    folder = reached(server, number, 3)
    state = server.lose_power(number)
    folder.state.write_text(json.dumps({**state, "boot_id": "another"}))
    last = run_of(server, number).last
    saved = max(generation["epoch"] for generation in read(run_of(server, number).manifest)["generations"])
    # Written anew, for a checkpoint may share its file with another name.
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.unlink()
    last.write_bytes(data)
    server.start()
    job = succeeded(server, number)
    assert job["attempts"][1]["resumed_from_epoch"] in {saved - 1, saved - 2}
    assert list(last.parent.glob("*.corrupt"))


def test_a_full_disk_during_a_save_leaves_the_good_checkpoint(server: Installation) -> None:
    """The third save of the first attempt finds no room: ended with cause `disk`, resumed at the epoch before."""
    server.variables["TRAINING_EPOCHS"] = str(EPOCHS)
    server.start("checkpoint.written=3:enospc")
    number = submit(server, epochs=4)
    folder = reached(server, number, 2)
    until(folder.exit.exists, "the attempt ends", 60)
    # There is room again.
    assert server.stop() == 0
    server.start()
    job = succeeded(server, number)
    assert [(attempt["cause"], attempt["resumed_from_epoch"]) for attempt in job["attempts"]] == [
        ("disk", None),
        (None, 2),
    ]


def test_a_stop_ends_at_the_epoch_boundary_with_a_checkpoint(server: Installation) -> None:
    server.start()
    number = submit(server, epochs=50)
    folder = reached(server, number, 1)
    assert server.ctl("stop", str(number)).returncode == 0
    job = server.wait(number)
    assert (job["state"], job["cause"], job["attempts"][0]["exit_code"]) == ("cancelled", "cancelled", 75)
    saved = max(generation["epoch"] for generation in read(run_of(server, number).manifest)["generations"])
    assert saved == epochs_done(folder)[-1]
    assert f"after epoch {saved}" in job["reason"]


def test_cancel_leaves_nothing_behind(server: Installation) -> None:
    server.variables["TRAINING_WORKERS"] = "2"
    server.start()
    number = submit(server, epochs=50)
    folder = reached(server, number, 1)
    nonce = read(folder.spec)["nonce"]
    began = time.monotonic()
    assert server.ctl("cancel", "--now", str(number)).returncode == 0
    assert server.wait(number)["state"] == "cancelled"
    assert time.monotonic() - began < 10
    assert processes.carriers(nonce) == []
    assert server.json("status")["gpus"] == [{"device": "cpu", "job": None}]


def test_an_upgrade_under_a_run(server: Installation) -> None:
    """The next daemon is another release in another folder, with another configuration: the run keeps its own."""
    server.start()
    number = submit(server, epochs=3)
    folder = reached(server, number, 1)
    state = read(folder.state)
    release = server.folder / "release-2"
    for room in ("azaion", "supervisor", "workers"):
        shutil.copytree(server.code / room, release / room, ignore=shutil.ignore_patterns("__pycache__"))
    module = release / "azaion" / "__init__.py"
    module.write_text(re.sub('__version__ = ".*"', '__version__ = "9.9.9"', module.read_text()))
    assert server.stop() == 0
    server.code = release
    server.variables["TRAINING_EPOCHS"] = "77"
    server.start()
    assert server.json("status")["daemon"]["version"] == "9.9.9"
    job = succeeded(server, number)
    assert read(folder.state) == state
    assert [attempt["pid"] for attempt in job["attempts"]] == [state["child"]["pid"]]
    assert epochs_done(folder) == [1, 2, 3]
