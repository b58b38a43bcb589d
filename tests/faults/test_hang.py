"""A training that stands still is ended and goes on from its checkpoint; one that was only not looked at is not."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from azaion.layout import AttemptFolder
from supervisor import processes
from tests.installations import Installation, installation
from tests.shims import read
from tests.training_runs import QUICK, draw_shapes, epochs_done
from tests.waiting import until

pytestmark = [pytest.mark.train, pytest.mark.timeout(300)]

HANG_S = 5


@pytest.fixture
def server() -> Iterator[Installation]:
    # It may take as long as it likes to load torch, but not between two batches.
    with installation(AZAION_HANG_START_S="120", AZAION_HANG_S=str(HANG_S)) as made:
        draw_shapes(made.layout, images=24, size=96)
        yield made


def submit(server: Installation, epochs: int) -> int:
    body = {"kind": "train", "epochs": epochs, "overrides": {**QUICK, "nbs": 4}}
    number: int = server.client.post("/v1/jobs", body)["id"]
    return number


def reached(server: Installation, number: int, epochs: int, attempt: int = 1) -> AttemptFolder:
    """Wait until an attempt has finished so many epochs."""

    def look() -> AttemptFolder | None:
        if not list(server.layout.jobs.glob(f"{number}-*/{attempt}")):
            return None
        done = epochs_done(server.attempt(number, attempt))
        return server.attempt(number, attempt) if done and done[-1] >= epochs else None

    found = until(look, f"epoch {epochs} of attempt {attempt}", 120)
    assert found is not None
    return found


def trainer(folder: AttemptFolder) -> processes.Identity:
    child = read(folder.state)["child"]
    return processes.Identity(child["pid"], child["start"])


def test_a_stopped_trainer_is_ended_and_resumes_where_it_was(server: Installation) -> None:
    """The daemon dies right after its decision is durable: the next one, which would never find it so, holds to it."""
    daemon = server.launch("attempts.request.written=1:kill")
    until(server.answers, "the daemon answers")
    number = submit(server, epochs=5)
    folder = reached(server, number, 2)
    processes.send(trainer(folder), signal.SIGSTOP)
    stopped = time.monotonic()
    assert daemon.wait(timeout=60) != 0
    assert time.monotonic() - stopped >= HANG_S - 1
    assert read(folder.request)["measure"] == "hang"
    assert processes.alive(trainer(folder))
    server.variables["AZAION_HANG_S"] = "0"
    server.start()
    job = server.wait(number, limit_s=150)
    assert job["state"] == "succeeded", job
    first, second = job["attempts"]
    assert (first["cause"], second["cause"]) == ("hang", None)
    assert second["resumed_from_epoch"] >= 2
    epochs = epochs_done(folder) + epochs_done(server.attempt(number, 2))
    assert sorted(set(epochs)) == [1, 2, 3, 4, 5]
    events = [(event["type"], event["text"]) for event in server.client.get("/v1/events")]
    assert any(kind == "hang" and text.startswith("no progress for ") for kind, text in events)
    assert any(kind == "requeued" and "goes on from epoch" in text for kind, text in events)


def test_a_daemon_that_was_stopped_or_dead_blames_nobody(server: Installation) -> None:
    """The trainer stands still for longer than the limit, but only while the daemon is stopped, or dead."""
    server.start()
    number = submit(server, epochs=8)
    folder = reached(server, number, 1)
    run = trainer(folder)
    assert server.daemon is not None
    for away in (server.daemon.pid, None):
        processes.send(run, signal.SIGSTOP)
        time.sleep(1.5)  # until the daemon has looked again, and twice: what follows is all in one gap
        if away is None:
            server.kill()
        else:
            os.kill(away, signal.SIGSTOP)
        time.sleep(HANG_S * 1.5)  # the passing of time is what is tested
        if away is None:
            server.start()
        else:
            os.kill(away, signal.SIGCONT)
        until(server.answers, "the daemon answers")
        processes.send(run, signal.SIGCONT)
    job = server.wait(number, limit_s=150)
    assert (job["state"], len(job["attempts"])) == ("succeeded", 1), job
    assert not folder.request.exists()


def test_a_stop_that_waits_for_an_epoch_that_never_ends_is_carried_out(server: Installation) -> None:
    server.start()
    number = submit(server, epochs=50)
    folder = reached(server, number, 1)
    processes.send(trainer(folder), signal.SIGSTOP)
    server.client.post(f"/v1/jobs/{number}/stop")
    job = server.wait(number, limit_s=60)
    assert (job["state"], job["cause"]) == ("cancelled", "cancelled"), job
    assert "after epoch" in job["reason"]


def test_a_command_has_no_progress_and_so_cannot_hang(server: Installation) -> None:
    server.variables |= {"AZAION_HANG_START_S": "1", "AZAION_HANG_S": "1"}
    server.start()
    number = server.submit("sleep 4")
    assert server.wait(number)["state"] == "succeeded"
