"""The ring of samples, and what is told of a run's past: always bounded, whatever the run has written."""

import json
import math
import sys
from typing import Any

import pytest

from supervisor.control.history import curves, thinned
from supervisor.gpus import Gpu, Reading
from supervisor.history import MACHINE, Ring, gpu_values, machine_values
from supervisor.resources import Memory


def test_a_ring_keeps_the_newest_in_order() -> None:
    ring = Ring(["a", "b"], 4)
    assert ring.since(0.0).moments == []
    for number in range(1, 7):
        ring.add(float(number), {"a": number * 10, "b": None if number == 5 else 0.5})
    everything = ring.since(0.0)
    assert everything.moments == [3.0, 4.0, 5.0, 6.0]
    assert everything.series == {"a": [30.0, 40.0, 50.0, 60.0], "b": [0.5, 0.5, None, 0.5]}
    assert ring.since(5.0).moments == [6.0]
    assert ring.since(6.0).series == {"a": [], "b": []}


def test_a_ring_takes_no_more_memory_however_much_is_added() -> None:
    ring = Ring(MACHINE, 100)

    def size() -> int:
        return sum(map(sys.getsizeof, [ring._moments, *ring._series.values()]))

    before = size()
    for number in range(1000):
        ring.add(float(number), {"lag": float(number), "unknown": 1.0})
    assert size() == before
    assert len(ring.since(-1.0).moments) == 100


def test_what_nobody_knows_is_no_figure() -> None:
    told: dict[str, Any] = {"lag": None, "lag_s": math.inf, "rate": "much"}
    assert machine_values(told, None, 0.25) == {
        "lag": None,
        "lag_s": None,
        "rate": None,
        "memory_percent": None,
        "loop_late_s": 0.25,
    }
    values = machine_values({"lag": 7, "lag_s": 2.5, "rate": 1}, Memory(total=200, available=50), 0.0)
    assert (values["lag"], values["lag_s"], values["rate"], values["memory_percent"]) == (7.0, 2.5, 1.0, 75.0)
    gpu = Gpu(number=1, total=1000, free=250, busy_percent=97, temperature=71)
    assert gpu_values(["gpu0", "gpu1"], Reading(gpus=(gpu,))) == {
        "gpu0.busy_percent": None,
        "gpu0.memory_percent": None,
        "gpu0.celsius": None,
        "gpu1.busy_percent": 97,
        "gpu1.memory_percent": 75.0,
        "gpu1.celsius": 71,
    }
    assert set(gpu_values(["gpu0"], None).values()) == {None}


def line(epoch: int, **metrics: float) -> bytes:
    return json.dumps({"epoch": epoch, "epochs": 9, "time": 1.0, "metrics": metrics}).encode() + b"\n"


def test_an_epoch_counts_as_the_last_attempt_has_told_it() -> None:
    first = line(1, loss=3.0) + line(2, loss=2.0) + line(3, loss=9.0)
    second = line(3, loss=1.0, mAP50=0.5) + line(4, loss=0.5, mAP50=0.6)
    assert curves([first, second]) == {
        "epochs": [1, 2, 3, 4],
        "metrics": {"loss": [3.0, 2.0, 1.0, 0.5], "mAP50": [None, None, 0.5, 0.6]},
    }


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\0\0\0\n",
        b'{"epoch": "1"}\n',
        b'{"epoch": -1, "metrics": {}}\n',
        b'{"epoch": 1e300, "metrics": {}}\n',
        b'{"epoch": 1, "metrics": {"loss": "\\u001b[31m"}}\n',
        b'{"epoch": 1, "metrics": {"' + b"n" * 100 + b'": 1}}\n',
        b"[" * 100_000,
        b'{"epoch": 1, "met',
    ],
)
def test_a_line_that_cannot_be_read_is_left_out(hostile: bytes) -> None:
    assert curves([hostile + b"\n" + line(2, loss=1.0)]) == {"epochs": [2], "metrics": {"loss": [1.0]}}


def test_what_a_run_can_make_of_the_answer_is_bounded() -> None:
    many = b"".join(line(epoch, **{f"n{epoch}": 1.0}) for epoch in range(1, 3001))
    told = curves([many])
    assert len(told["epochs"]) <= 500
    assert told["epochs"][-1] == 3000
    assert len(told["metrics"]) == 64
    assert thinned(range(1, 1001), 500) == list(range(2, 1001, 2))
    assert thinned([1, 2, 3], 500) == [1, 2, 3]
