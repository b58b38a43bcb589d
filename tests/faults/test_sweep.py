"""Killed at the N-th durable step for N = 1, 2, ... until none is left: whatever was promised holds after each.

AZAION_SWEEP is how many steps lie between two deaths: 1 in `make soak`, more where there is less time; which ones then
are met is AZAION_SEED's choice.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from azaion import dataset, models
from azaion.progress import ExitCode
from supervisor.control.client import ClientError
from tests.annotation_messages import (
    OPERATOR,
    VALIDATOR,
    created,
    deleted,
    edited,
    expected,
    found,
    quarantined,
    validated,
)
from tests.consumers import consuming
from tests.installations import Installation, installation
from tests.tallies import tally
from tests.training_runs import World, epochs_done
from tests.waiting import until

FAR = 4e9
#: So many steps each story has at least.
STORY = 25


def deaths(stride: int) -> Iterator[int]:
    """The steps to die at, without an end."""
    stride = int(os.environ.get("AZAION_SWEEP", stride))
    seed = int(os.environ.get("AZAION_SEED", time.time_ns() % 1_000_000))
    print(f"AZAION_SEED={seed} AZAION_SWEEP={stride}")
    number = random.Random(seed).randint(1, stride)
    while True:
        yield number
        number += stride


class Person:
    """Asks for things, one after another, and remembers what was acknowledged."""

    def __init__(self, server: Installation) -> None:
        self.server = server
        self.numbers: dict[str, int] = {}
        self.done: set[str] = set()

    def file(self, key: str, **more: object) -> None:
        try:
            self.numbers[key] = self.server.submit(f"echo {key} >> ledger", key=key, **more)
        except ClientError:
            return

    def ask(self, key: str, what: str, **body: object) -> None:
        try:
            self.server.client.post(f"/v1/jobs/{self.numbers[key]}/{what}", body)
        except (ClientError, KeyError):
            return
        self.done.add(f"{what} {key}")

    def story(self) -> None:
        """All that people do with jobs that wait and run."""
        self.file("one")
        self.file("held", hold=True)
        self.file("late", begins=FAR)
        self.file("never", begins=FAR)
        self.ask("late", "hold")
        self.ask("late", "priority", priority=3)
        self.ask("held", "release")
        self.ask("never", "cancel")
        for key in {"one", "held"} & self.numbers.keys():
            if key == "one" or "release held" in self.done:
                until(partial(self.ended, key), f"{key} ends, or nobody answers")

    def ended(self, key: str) -> bool:
        try:
            return bool(self.server.job(self.numbers[key])["state"] == "succeeded")
        except ClientError:
            return True


def answers(server: Installation, daemon: subprocess.Popen[bytes]) -> bool:
    """Whether the daemon answers; else it is dead."""
    until(lambda: server.answers() or daemon.poll() is not None, "the daemon answers or dies")
    return daemon.poll() is None


@pytest.mark.timeout(3600)
def test_the_daemon_at_every_step() -> None:
    for tried, number in enumerate(deaths(17)):
        with installation() as server:
            daemon = server.launch(f"*={number}:kill")
            person = Person(server)
            answers(server, daemon)
            person.story()
            if answers(server, daemon):
                assert number > STORY, "the story has become too short to show anything"
                tally("death of the daemon at a durable step", tried, "what was acknowledged has happened, once")
                return
            assert daemon.returncode == -signal.SIGKILL
            server.start()
            judge(server, person)


def judge(server: Installation, person: Person) -> None:
    """What was acknowledged has happened, once; what was not has happened wholly or not at all."""
    jobs = {job["key"]: job for job in server.client.get("/v1/jobs")}
    assert person.numbers.keys() <= jobs.keys(), "an acknowledged job is gone"
    runs = [jobs[key]["id"] for key in ("one", "held") if key in jobs]
    if "held" in jobs and jobs["held"]["state"] == "held":
        assert "release held" not in person.done
        server.client.post(f"/v1/jobs/{jobs['held']['id']}/release")
    for number in runs:
        assert server.wait(number)["state"] == "succeeded"
        assert [attempt["exit_code"] for attempt in server.job(number)["attempts"]][-1] == 0
    if "late" in jobs:
        assert jobs["late"]["state"] in ({"held"} if "hold late" in person.done else {"held", "queued"})
        assert jobs["late"]["priority"] in ({3} if "priority late" in person.done else {0, 3})
    if "never" in jobs:
        assert jobs["never"]["state"] in ({"cancelled"} if "cancel never" in person.done else {"cancelled", "queued"})
    ledger = server.folder / "ledger"
    lines = ledger.read_text().split() if ledger.exists() else []
    assert sorted(lines) == sorted(key for key in ("one", "held") if key in jobs)


@pytest.mark.timeout(3600)
def test_the_consumer_at_every_step() -> None:
    events = [
        *(created("a", 1), created("b", 2, VALIDATOR), created("c", 3, OPERATOR)),
        *(validated("a", "x"), edited("b", 4, OPERATOR, ".png"), deleted("c", "y"), created("y", 5)),
    ]
    for tried, number in enumerate(deaths(17)):
        with consuming() as root:
            root.send(events[:3])
            process = root.start(f"*={number}:kill")
            root.gone_or_at(process, 3)
            root.send(events[3:])
            root.spool.append([(10, b"nonsense")])
            root.gone_or_at(process, root.spool.end())
            if process.poll() is None:
                assert number > STORY
                tally("death of the consumer at a durable step", tried, "the tree is that of the events")
                return
            assert process.returncode == -signal.SIGKILL
            process = root.start()
            root.told(pid=process.pid)
            root.consumed(process)
            root.stop(process)
            assert found(root.layout) == expected(events)
            assert len(quarantined(root.layout)) == 1


@pytest.mark.train
@pytest.mark.timeout(3600)
def test_a_training_at_every_step(tmp_path: Path) -> None:
    for tried, number in enumerate(deaths(40)):
        world = World(tmp_path / str(number))
        ending = world.finish(world.file(1), AZAION_FAILPOINTS=f"*={number}:kill")
        if ending.code == ExitCode.SUCCEEDED:
            assert number > STORY
            tally("death of a training at a durable step", tried, "it goes on from its last epoch; one model")
            return
        assert ending.code == -signal.SIGKILL, ending.log
        done = len(epochs_done(world.job.attempt(1)))
        ending = world.finish(world.file(2))
        assert ending.code == ExitCode.SUCCEEDED, ending.log
        assert ending.epochs == list(range((ending.result["resumed_from_epoch"] or 0) + 1, 4)) or not ending.epochs
        # At most the epoch is trained again that was not in a checkpoint yet.
        assert (ending.result["resumed_from_epoch"] or 0) >= min(done, 3) - 1 or not ending.epochs
        (model,) = models.load_all(world.layout)
        assert model.name == models.current(world.layout)
        assert len(dataset.names(world.layout)) == 1
        for folder in (world.layout.root, world.run_folder.path):
            assert not list(folder.rglob(".tmp-*"))
