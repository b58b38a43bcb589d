"""Trainings that are filed by themselves, by a real daemon that is killed while it files one."""

import json
import signal
from typing import Any

import pytest

from tests.installations import Installation
from tests.waiting import until


def declare(server: Installation, **rule: Any) -> None:
    server.layout.state.mkdir(exist_ok=True)
    (server.layout.state / "azaion.yaml").write_text(json.dumps({"retrain": rule}), encoding="utf-8")


def annotate(server: Installation, *names: str) -> None:
    """Validated annotations are there; nobody reads these images."""
    for name in names:
        (server.layout.data.images / f"{name}.jpg").touch()


def told(server: Installation) -> str:
    return str(server.client.get("/v1/status")["retraining"]["text"])


def trainings(server: Installation) -> list[dict[str, Any]]:
    return [job for job in server.client.get("/v1/jobs") if job["kind"] == "train"]


@pytest.mark.parametrize("step", ["before-commit", "committed"])
def test_one_is_filed_when_enough_is_new_whatever_dies(server: Installation, step: str) -> None:
    declare(server, annotations=3, epochs=7, priority=-5)
    server.start()
    # Nothing trains in this test: somebody has the slot.
    blocker = server.submit("sleep 1000", devices=1)
    server.wait(blocker, "running")
    until(lambda: told(server) == "0 of 3 new annotations", "nothing has come")
    assert "next training: 0 of 3 new annotations" in server.ctl("status").stdout
    server.kill()
    annotate(server, "a", "b", "c")
    daemon = server.launch(f"store.submit.{step}=1:kill")
    assert daemon.wait(60) == -signal.SIGKILL
    server.start()
    until(lambda: trainings(server), "a training is filed")
    (training,) = trainings(server)
    assert (training["state"], training["priority"], training["owner"]) == ("queued", -5, "azaiond")
    assert "7 epochs" in training["name"]
    assert len(training["chain"]) > 1
    until(lambda: told(server) == "0 of 3 new annotations", "they count once")
    # It comes to nothing: the same annotations are not enough for another.
    server.client.post(f"/v1/jobs/{training['id']}/cancel")
    annotate(server, "d", "e")
    server.kill()
    server.start()
    until(lambda: told(server) == "2 of 3 new annotations", "the new ones count")
    annotate(server, "f")
    until(lambda: len(trainings(server)) == 2, "another is filed", 40)
    assert [event["text"] for event in server.client.get("/v1/events", {"type": "retrain-filed"})][-1] == (
        "3 new annotations"
    )
    until(lambda: told(server) == "0 of 3 new annotations", "and again")


def test_without_a_rule_nothing_is_said_and_a_bad_one_is_refused(server: Installation) -> None:
    server.start()
    assert server.client.get("/v1/status")["retraining"] is None
    assert "next training" not in server.ctl("status").stdout
    server.stop()
    declare(server, cron="every sunday")
    checked = server.ctl("config", "check")
    assert checked.returncode == 1
    assert "retrain.cron: 'every sunday' is no time that crontab(5) knows" in checked.stderr
