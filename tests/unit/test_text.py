"""How commands write for people."""

from typing import Any

import pytest

from azaion.words import size
from supervisor.commands import text
from supervisor.commands.status import screen


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "?"), (0, "0s"), (59.6, "1m 0s"), (61, "1m 1s"), (3600, "1h 0m"), (90061, "1d 1h"), (-5, "0s")],
)
def test_duration(seconds: float | None, said: str) -> None:
    assert text.duration(seconds) == said


@pytest.mark.parametrize(
    ("amount", "said"), [(0, "0 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB")]
)
def test_size(amount: float, said: str) -> None:
    assert size(amount) == said


def test_a_bar_is_never_longer_than_its_frame() -> None:
    assert text.bar(0, 10) == "[" + "." * 20 + "]"
    assert text.bar(50, 10) == "[" + "#" * 20 + "]"
    assert text.bar(1, 0) == "[" + "." * 20 + "]"


def test_what_somebody_else_wrote_cannot_steer_the_terminal() -> None:
    assert text.cut("a\x1b[2Jb\nc", 80) == "a?[2Jb?c"
    assert text.cut("x" * 100, 10) == "x" * 9 + "…"


def test_columns_are_aligned() -> None:
    assert text.table([["A", "B"], ["long", "1"]]) == "A     B\nlong  1"


def told(**facts: Any) -> dict[str, Any]:
    progress = {"phase": "training", "epoch": 3, "epochs": 10, "batch": 5, "batches": 10, "eta_s": 65, "metrics": {}}
    return {"progress": progress | facts}


def test_progress_in_a_line() -> None:
    assert text.progress({"progress": None}) == ""
    assert text.progress(told(epochs=0, phase="dataset", batches=0)) == "dataset"
    assert text.progress(told(epochs=0, phase="dataset")) == "dataset  [##########..........]  5 of 10"
    assert text.progress(told()) == "[#####...............]  epoch 3/10  ETA 1m 5s"
    assert text.progress(told(metrics={"mAP50": 0.5})).endswith("mAP50 0.500")


def test_the_screen_shows_a_consumer_in_trouble_within_80_columns() -> None:
    job = {
        **told(metrics={"mAP50": 0.123456}, epoch=119, epochs=12000, eta_s=99 * 86400),
        "id": 123456,
        "state": "running",
        "kind": "train",
        "name": "n" * 200,
        "started": "2026-11-22T10:00:00.000Z",
        "reason": "r" * 200,
    }
    status = {
        "daemon": {"version": "0.1.0", "uptime_s": 5, "pid": 1, "launcher": "fork"},
        "consumer": {"service": "running", "state": "blocked", "offset": 5, "last_error": "e" * 200, "quarantined": 3},
        "gpus": [{"device": "gpu0", "job": 7}],
        "disk": [{"path": "/" + "d" * 30, "used_percent": 81.2, "free": 1 << 30}],
        "models": {"current": None},
        "maintenance": {"reason": "r" * 200, "by": "anna", "since": "2026-11-22T10:00:00.000Z"},
        "jobs": {"counts": {"held": 0, "queued": 1, "running": 1}, "active": [job], "waiting": [job]},
    }
    drawn = screen(status)
    assert max(map(len, drawn.splitlines())) <= 80
    assert "blocked, offset 5" in drawn
    assert "3 quarantined" in drawn
    assert "n…: rrrr" in drawn
