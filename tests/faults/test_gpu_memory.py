"""A training whose GPU runs out of memory goes on from its checkpoint with a smaller batch. torch's error is ours."""

import re
from pathlib import Path

import pytest

from azaion import files
from tests.installations import Installation
from tests.training_runs import QUICK, draw_shapes, epochs_done

pytestmark = [pytest.mark.train, pytest.mark.timeout(300)]


def test_it_goes_on_with_half_the_batch(server: Installation) -> None:
    """The 12th batch of an attempt is one too many: the third epoch with batch 4, never reached with batch 2."""
    draw_shapes(server.layout, images=24, size=96)
    server.start("train.batch=12:gpu-oom")
    body = {"kind": "train", "epochs": 3, "batch": 4, "overrides": {**QUICK, "nbs": 4}}
    number = server.client.post("/v1/jobs", body)["id"]
    job = server.wait(number, limit_s=200)
    assert job["state"] == "succeeded", (job, server.attempt(number, 2).log.read_text(errors="replace")[-3000:])
    first, second = job["attempts"]
    assert (first["cause"], first["exit_code"], second["resumed_from_epoch"]) == ("oom:gpu", 81, 2)
    assert job["adjusted"] == {"batch": 2}
    reasons = [event["text"] for event in server.client.get("/v1/events") if event["type"] == "requeued"]
    assert reasons == ["GPU out of memory with batch 4; again with 2"]
    assert [epochs_done(server.attempt(number, attempt)) for attempt in (1, 2)] == [[1, 2], [3]]
    # 14 images: what the trainer has really used, not what it was told.
    assert [_batches(server.attempt(number, attempt).log) for attempt in (1, 2)] == [{4}, {7}]
    card = files.read_json(server.layout.model(job["artifacts"]["model"]).card)
    assert card["arguments"]["batch"] == 2
    assert "adjusted  batch 2" in server.ctl("show", str(number)).stdout


def _batches(log: Path) -> set[int]:
    """How many batches its epochs had, by the trainer's own bar."""
    return {int(found) for found in re.findall(r" 96: 100% \S+ ([0-9]+)/\1 ", log.read_text(errors="replace"))}
