"""``azaionctl models`` against a real daemon: look, promote, roll back, export, evaluate."""

import shutil
import socket

import pytest

from azaion import files, models
from tests.installations import Installation
from tests.trained_models import Trained, register
from tests.training_runs import UID
from tests.waiting import until

pytestmark = pytest.mark.train


@pytest.fixture
def registry(server: Installation, trained: Trained) -> tuple[str, str]:
    """A good model and a weak one, and the dataset of both; none is in use."""
    for name in ("models", "datasets", "classes.json"):
        source = trained.root / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, server.root / name)
    good = models.find(server.layout, UID)
    assert good is not None
    return good.name, register(server.layout, trained, "weak").name


def test_a_change_is_recorded_though_whoever_asked_for_it_hangs_up(
    server: Installation, registry: tuple[str, str]
) -> None:
    good, _ = registry
    server.start("models.switched=1:delay")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.layout.socket))
        asked = f"POST /v1/models/{good}/promote HTTP/1.1\r\nHost: azaion\r\nContent-Length: 0\r\n\r\n"
        client.sendall(asked.encode())
        until(server.layout.current_model.is_symlink, "it is done, and not told yet")
    told = until(lambda: [event for event in server.client.get("/v1/events") if "model" in event["type"]], "an event")
    assert [event["type"] for event in told] == ["model-promoted"]
    assert server.stop() == 0
    server.start()
    assert not [event for event in server.client.get("/v1/events") if event["type"] == "asked"]


def test_people_look_promote_and_roll_back(server: Installation, registry: tuple[str, str]) -> None:
    good, weak = registry
    server.start()
    told = server.json("models", "list")
    assert (told["current"], told["before"]) == (None, None)
    assert [record["name"] for record in told["models"]] == [good, weak]
    first = told["models"][0]
    assert first["metrics"]["mAP50"] > 0.3
    assert (first["job"], first["classes"], first["gate"], first["exports"]) == (42, ["disc", "square"], None, [])
    refused = server.ctl("models", "rollback")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "nobody knows of a model before none" in refused.stderr
    unknown = server.ctl("models", "promote", "azaion-2020-01-01")
    assert unknown.returncode == 1
    assert f"there are: {good}, {weak}" in unknown.stderr

    assert server.json("models", "promote", good) == {"model": good, "instead_of": None, "target": "none"}
    assert server.ctl("models", "promote", weak).stdout == f"{weak} is in use now, instead of {good}\n"
    assert server.ctl("models", "promote", weak).stdout == f"{weak} was in use already\n"
    screen = server.ctl("models", "list").stdout
    assert f"*  {weak}" in screen
    assert f"`models rollback` leads to {good}" in screen
    # Whoever is killed, the daemon knows it afterwards.
    server.kill()
    server.start()
    assert server.ctl("models", "rollback").stdout == f"{good} is in use now, instead of {weak}\n"
    assert server.layout.current_model.read_bytes() == server.layout.model(good).weights.read_bytes()
    assert server.json("status")["models"]["current"] == good

    events = {event["type"]: event for event in server.client.get("/v1/events")}
    assert events["model-promoted"]["text"] == f"{weak} instead of {good}"
    assert events["model-rolled-back"]["text"] == f"{good} instead of {weak}"
    assert events["model-rolled-back"]["actor"] == server.json("models", "show", good)["promotions"][-1]["by"]

    # They have the same card, made at another second.
    assert server.json("models", "diff", good, weak)["differences"].keys() <= {"created"}
    (server.layout.model(weak).card).write_text("{")
    assert "cannot be read" in server.ctl("models", "list").stdout
    assert server.ctl("models", "show", weak).returncode == 1


def test_evaluations_and_exports_are_jobs_and_stand_in_the_list(
    server: Installation, registry: tuple[str, str]
) -> None:
    good, weak = registry
    server.layout.state.mkdir()
    (server.layout.state / "azaion.yaml").write_text("gate: {minimum_images: 1, margin: 0}\n")
    server.start()
    assert server.ctl("models", "promote", good).returncode == 0
    wrong = server.ctl("models", "export", good, "--imgsz", "100")
    assert wrong.returncode == 1
    assert "multiple of 32" in wrong.stderr
    assert "no dataset" in server.ctl("models", "evaluate", good, "--dataset", "x").stderr

    export = server.client.post(f"/v1/models/{good}/export", {})
    done = server.ctl("models", "evaluate", weak, "--gate", "--wait")
    assert done.returncode == 0, done.stderr
    assert "waits for `models promote`" in done.stdout
    job = server.wait(export["id"])
    assert (job["kind"], job["state"], job["name"]) == ("export", "succeeded", f"{good} as onnx 96"), job
    record = server.json("models", "show", good)
    (exported,) = record["exports"]
    assert exported["sha256"] == files.sha256(server.layout.model(good).export("onnx-96").path / "azaion.onnx")
    assert exported["path"] == job["artifacts"]["path"]
    assert record["evaluations"][0]["per_class"][0]["name"] == "disc"

    told = {each["name"]: each for each in server.json("models", "list")["models"]}
    assert told[weak]["gate"]["outcome"] == "waits"
    assert f"of {good}" in told[weak]["gate"]["reason"]
    assert told[good]["gate"] is None
    screen = server.ctl("models", "list").stdout
    assert "onnx-96" in screen
    assert "waits" in screen
    shown = server.ctl("models", "show", weak).stdout
    assert "gate      waits: mAP50-95" in shown
    difference = server.json("models", "diff", good, weak)["differences"]
    (name,) = [name for name in difference if name.startswith("mAP50-95 on")]
    assert difference[name][0] > difference[name][1]
    assert "mAP50-95 on" in server.ctl("models", "diff", good, weak).stdout
