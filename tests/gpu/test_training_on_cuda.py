"""The learning test on CUDA at 1280 px, with the daemon, as `make test-gpu` runs it on a machine that has a GPU."""

import pytest

from supervisor.jobs.runner import machine_of
from tests.installations import Installation
from tests.training_runs import QUICK, draw_shapes

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here"),
]

EPOCHS = 20


def test_a_run_learns_on_cuda(server: Installation) -> None:
    server.variables |= {"AZAION_GPUS": "auto", "TRAINING_WORKERS": "4"}
    draw_shapes(server.layout, images=64, size=1280)
    server.start()
    assert {entry["device"] for entry in server.json("status")["gpus"]} == set(machine_of(None).devices)
    body = {"kind": "train", "epochs": EPOCHS, "batch": 8, "imgsz": 1280, "overrides": {**QUICK, "nbs": 8}}
    number = server.client.post("/v1/jobs", body)["id"]
    job = server.wait(number, limit_s=1500)
    assert job["state"] == "succeeded", server.attempt(number).log.read_text(errors="replace")[-4000:]
    assert job["artifacts"]["map50"] > 0.5


def test_the_gpu_is_leased_and_shown_to_the_job_alone(server: Installation) -> None:
    server.variables["AZAION_GPUS"] = "auto"
    server.start()
    number = server.submit('echo "devices=$CUDA_VISIBLE_DEVICES"', devices=1)
    assert server.wait(number)["state"] == "succeeded"
    assert server.attempt(number).log.read_text() == "devices=0\n"
