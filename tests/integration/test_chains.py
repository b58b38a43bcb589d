"""A training and what follows it: filed at once, shown as one thing, cancelled as one, tried again as one."""

import signal
from typing import Any

import pytest

from supervisor.control.client import ClientError
from supervisor.jobs.store import Store
from tests.installations import Installation
from tests.waiting import until


@pytest.fixture
def started(server: Installation) -> Installation:
    server.variables["TRAINING_MODEL"] = "base.pt"
    server.start()
    server.layout.models.joinpath("base.pt").write_bytes(b"weights")
    return server


def rows(server: Installation) -> list[list[str]]:
    done = server.ctl("list")
    assert done.returncode == 0, done.stderr
    return [line.split()[:4] for line in done.stdout.splitlines()[1:]]


def states(server: Installation) -> dict[int, str]:
    return {job["id"]: job["state"] for job in server.json("list", "--all")}


def test_it_is_shown_and_cancelled_as_one(started: Installation) -> None:
    server = started
    filed = server.json("submit-train", "--hold", "--key", "nightly")
    assert filed == {"id": 1, "chain": [1, 2, 3]}
    assert server.json("submit-train", "--hold", "--key", "nightly") == filed
    alone = server.json("submit-train", "--hold", "--no-evaluate", "--no-export")
    assert alone == {"id": 4, "chain": [4]}
    assert rows(server) == [["1", "held", "train", "1/3"], ["4", "held", "train", "base,"]]
    assert [job["kind"] for job in server.json("list")][:3] == ["train", "evaluate", "export"]
    assert "chain     2/3 of jobs 1, 2, 3" in server.ctl("show", "2").stdout
    assert [job["id"] for job in server.json("status")["jobs"]["waiting"]] == [1, 4]

    assert server.json("cancel", "--yes", "1")["state"] == "cancelled"
    assert states(server) == {1: "cancelled", 2: "cancelled", 3: "cancelled", 4: "held"}
    assert [row[:2] for row in rows(server)] == [["1", "cancelled"], ["4", "held"]]
    assert server.ctl("wait", "1").returncode == 11
    again = server.ctl("cancel", "--yes", "1")
    assert (again.returncode, again.stderr) == (
        1,
        "azaionctl: job 1 is cancelled and cannot become stopping; it has ended, and that is final\n",
    )


def test_one_of_it_is_cancelled_with_what_follows_it(started: Installation) -> None:
    server = started
    server.json("submit-train", "--hold")
    server.json("cancel", "--yes", "2")
    assert states(server) == {1: "held", 2: "cancelled", 3: "cancelled"}


def test_the_rest_of_it_is_tried_again_with_what_the_new_training_makes(started: Installation) -> None:
    server = started
    server.json("submit-train", "--hold")
    server.json("cancel", "--yes", "1")
    retried = server.json("retry", "1")
    assert retried["chain"] == [4, 5, 6]
    parameters, uids = stored(server)
    assert [parameters[number]["of"] for number in (2, 3, 5, 6)] == [uids[1], uids[1], uids[4], uids[4]]
    server.start()
    # What the old training has made stays what the export is of.
    retried = server.json("retry", "3")
    assert retried["chain"] == []
    parameters, uids = stored(server)
    assert parameters[7]["of"] == uids[1]


def stored(server: Installation) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """Parameters and uid of each job, which the daemon shows to nobody; it is stopped."""
    server.stop()
    store = Store(server.layout.database)
    found = store.jobs()
    store.close()
    return {job.id: job.parameters for job in found}, {job.id: job.uid for job in found}


@pytest.mark.parametrize(("step", "left"), [("store.submit.before-commit", 0), ("store.submit.committed", 3)])
def test_killed_while_it_is_filed_it_is_there_whole_or_not_at_all(server: Installation, step: str, left: int) -> None:
    server.variables["TRAINING_MODEL"] = "base.pt"
    daemon = server.launch(f"{step}=1:kill")
    server.layout.models.mkdir(parents=True, exist_ok=True)
    server.layout.models.joinpath("base.pt").write_bytes(b"weights")
    until(server.answers, "the daemon answers")
    with pytest.raises(ClientError):
        server.client.post("/v1/jobs", {"kind": "train", "then": ["evaluate", "export"], "hold": True})
    assert daemon.wait(timeout=20) == -signal.SIGKILL
    server.start()
    assert len(states(server)) == left
