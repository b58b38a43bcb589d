"""`azaionctl deploy --containers`, with a stand-in for Docker (tests/engine.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
QUEUE, TRAINING = "registry:5000/azaion/annotation-queue", "registry:5000/azaion/training"
#: How an image can be bad, and what is told of it.
BAD = [
    ({"container": {"restarts": 4}}, "it does not stay up"),
    ({"log": '{"level": "error", "logger": "azaion.x", "event": "boom"}'}, "azaion.x: boom"),
]


class Server:
    """A folder with the containers of `old`, and images of `old` and `new`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = folder / "bin"
        self.engine.mkdir()
        program = self.engine / "docker"
        source = (ROOT / "tests" / "engine.py").read_text(encoding="utf-8")
        program.write_text(f"#!{sys.executable} -IS\n{source}", encoding="utf-8")
        program.chmod(0o755)
        self.told = folder / "containers.env"
        self.told.write_text(
            f"# ours\nTRAINING_IMAGE={TRAINING}:old\nANNOTATION_QUEUE_IMAGE={QUEUE}:old\nDEPLOY_GROUP=7\n",
            encoding="utf-8",
        )
        training = {"consumer": {"service": "elsewhere"}}
        self.state: dict[str, Any] = {
            "containers": {"annotation-queue": {"image": f"{QUEUE}:old"}, "training": {"image": f"{TRAINING}:old"}},
            "images": {f"{QUEUE}:{tag}": {} for tag in ("old", "new")}
            | {f"{TRAINING}:{tag}": training for tag in ("old", "new")},
        }

    def deploy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        state = self.engine / "engine.json"
        state.write_text(json.dumps(self.state), encoding="utf-8")
        options = ["--folder", str(self.folder), "--within", "1", "--steady", "0"]
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.ctl", "deploy", "--containers", *options, *arguments],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{self.engine}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.state = json.loads(state.read_text(encoding="utf-8"))
        return done

    @property
    def running(self) -> list[str]:
        return [each["image"].rpartition(":")[2] for each in self.state["containers"].values()]

    @property
    def named(self) -> list[str]:
        return [
            line.rpartition(":")[2] for line in self.told.read_text(encoding="utf-8").splitlines() if "IMAGE" in line
        ]

    @property
    def calls(self) -> list[str]:
        return (self.engine / "calls").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_a_deploy_replaces_both_and_a_rollback_takes_them_back(server: Server) -> None:
    done = server.deploy("new")
    assert done.returncode == 0, done.stderr
    assert (server.running, server.named) == (["new", "new"], ["new", "new"])
    assert "DEPLOY_GROUP=7" in server.told.read_text(encoding="utf-8")
    assert server.state["containers"]["training"]["maintenance"] is None
    done = server.deploy("--rollback")
    assert done.returncode == 0, done.stderr
    assert (server.running, server.named) == (["old", "old"], ["old", "old"])


def test_a_run_is_never_ended(server: Server) -> None:
    server.state["containers"]["training"]["jobs"] = [12]
    done = server.deploy("new")
    assert done.returncode == 0, done.stderr
    assert "(job 12)" in done.stdout
    # Nor by whoever has compose bring everything up, as after a reboot.
    assert (server.running, sorted(server.named)) == (["new", "old"], ["new", "old"])
    assert server.state["containers"]["training"] == {"image": f"{TRAINING}:old", "jobs": [12], "maintenance": None}
    assert not any(call.endswith("up --detach --no-deps training") for call in server.calls)


def test_somebody_elses_maintenance_is_left_alone(server: Server) -> None:
    server.state["containers"]["training"]["maintenance"] = {"reason": "new disk"}
    assert server.deploy("new").returncode == 0
    assert server.state["containers"]["training"]["maintenance"] == {"reason": "new disk"}


@pytest.mark.parametrize(("image", "reason"), BAD, ids=["restarts", "log"])
def test_images_that_do_not_prove_themselves_are_taken_back(server: Server, image: dict[str, Any], reason: str) -> None:
    server.state["images"][f"{QUEUE}:new"] = image
    if "container" in image:
        server.state["images"][f"{QUEUE}:old"] = {"container": {"restarts": 0}}
    done = server.deploy("new")
    assert done.returncode == 1
    assert reason in done.stdout
    assert "taken back" in done.stdout
    assert (server.running, server.named) == (["old", "old"], ["old", "old"])


def test_a_deploy_that_was_taken_back_is_not_what_a_rollback_goes_to(server: Server) -> None:
    server.state["images"] |= {f"{QUEUE}:bad": {"consumer": {"state": "disconnected"}}, f"{TRAINING}:bad": {}}
    assert server.deploy("new").returncode == 0
    done = server.deploy("bad")
    assert (done.returncode, "consumer: disconnected" in done.stdout) == (1, True)
    assert (server.running, server.named) == (["new", "new"], ["new", "new"])
    assert server.deploy("--rollback").returncode == 0
    assert (server.running, server.named) == (["old", "old"], ["old", "old"])


@pytest.mark.parametrize(("jobs", "training"), [([], "new"), ([12], "old")], ids=["no runs", "runs"])
def test_a_deploy_that_was_cut_off_is_finished_by_the_next(server: Server, jobs: list[int], training: str) -> None:
    old = server.told.read_text(encoding="utf-8")
    (server.folder / "containers.previous.env").write_text(old, encoding="utf-8")
    server.told.write_text(old.replace(":old", ":new"), encoding="utf-8")
    server.state["containers"]["training"] |= {"maintenance": {"reason": "deploy of containers"}, "jobs": jobs}
    assert server.deploy("new").returncode == 0
    assert (server.running, sorted(server.named)) == (["new", training], sorted(["new", training]))
    assert server.state["containers"]["training"]["maintenance"] is None
    assert server.deploy("--rollback").returncode == 0
    assert server.running == ["old", "old"]


def test_a_bad_image_of_trainings_takes_both_back(server: Server) -> None:
    server.state["images"][f"{TRAINING}:new"] = {"container": {"status": "exited"}}
    server.state["images"][f"{TRAINING}:old"]["container"] = {"status": "running"}
    assert server.deploy("new").returncode == 1
    assert (server.running, server.named) == (["old", "old"], ["old", "old"])
    assert server.state["containers"]["training"]["maintenance"] is None


def test_what_can_be_seen_before_changes_nothing(server: Server) -> None:
    server.state["images"][f"{QUEUE}:new"]["refuses"] = "RABBITMQ_HOST: missing"
    for tag, reason in (("new", "RABBITMQ_HOST: missing"), ("gone", "not found"), ("no tag!", "is no tag")):
        done = server.deploy(tag)
        assert done.returncode == 1
        assert reason in done.stderr
        assert (server.running, server.named) == (["old", "old"], ["old", "old"])
    assert server.deploy("--check").returncode == 0
    done = server.deploy("--rollback")
    assert (done.returncode, "nothing was deployed here before" in done.stderr) == (1, True)
