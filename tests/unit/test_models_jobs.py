"""Evaluations and exports in the queue: what follows from their ends, and what their workers are told."""

from pathlib import Path

import pytest

from azaion.layout import Layout
from azaion.progress import ExitCode
from supervisor.jobs.model import Attempt, Job, Kind, State
from supervisor.jobs.outcome import Ending, Source, decide
from supervisor.jobs.spec import spec_of


def job(kind: Kind) -> Job:
    return Job(id=7, uid="u1", kind=kind, name="x", state=State.RUNNING, parameters={"of": "u0"}, owner="mila", limit=3)


@pytest.mark.parametrize("kind", [Kind.EVALUATE, Kind.EXPORT])
def test_what_the_machine_interrupts_begins_again(kind: Kind) -> None:
    for ending in (
        Ending(source=Source.LOST),
        Ending(source=Source.EXIT, code=ExitCode.DISK),
        Ending(source=Source.EXIT, code=ExitCode.INTERRUPTED),
    ):
        decision = decide(job(kind), ending, 0.0, 0.5)
        assert (decision.state, decision.failures, decision.interruptions) == (State.QUEUED, 0, 1)


def test_what_does_not_find_the_same_is_not_tried_again() -> None:
    ending = Ending(source=Source.EXIT, code=ExitCode.PARITY, message="boxes deviate by 3.00 pixels")
    decision = decide(job(Kind.EXPORT), ending, 0.0, 0.5)
    assert (decision.state, decision.cause, decision.reason) == (State.FAILED, "parity", "boxes deviate by 3.00 pixels")


@pytest.mark.parametrize("kind", [Kind.EVALUATE, Kind.EXPORT])
def test_a_worker_is_told_its_parameters(kind: Kind, tmp_path: Path) -> None:
    layout = Layout(root=tmp_path, state=tmp_path, spool=tmp_path, socket=tmp_path)
    spec = spec_of(layout, job(kind), Attempt(number=1, nonce="n", reserved=0.0), ())
    assert spec["argv"][-2:] == [f"workers.{kind}", str(layout.job(7, "u1").attempt(1).path)]
    assert (spec["kind"], spec[kind], spec["env"]["CUDA_VISIBLE_DEVICES"]) == (kind, {"of": "u0"}, "")
