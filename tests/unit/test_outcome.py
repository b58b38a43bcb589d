"""What follows from how an attempt ended."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azaion.progress import ExitCode
from supervisor.jobs.model import TERMINAL, Intent, Job, Kind, State
from supervisor.jobs.outcome import BACKOFF_CAP_S, MAX_INTERRUPTIONS, Ending, Source, decide

NOW = 1000.0


def job(**facts: Any) -> Job:
    given: dict[str, Any] = {"kind": Kind.TRAIN, "limit": 3, "state": State.RUNNING} | facts
    return Job(id=1, uid="u", name="n", parameters={}, owner="o", **given)


def ended(**facts: Any) -> Ending:
    return Ending(**({"source": Source.EXIT} | facts))


COMMAND: dict[str, Any] = {"kind": Kind.COMMAND, "limit": 1}


@pytest.mark.parametrize(
    ("who", "ending", "state", "cause"),
    [
        ({}, ended(code=0), State.SUCCEEDED, None),
        ({"intent": Intent.STOP}, ended(code=0), State.SUCCEEDED, None),
        ({"intent": Intent.CANCEL}, ended(code=0), State.SUCCEEDED, None),
        ({"intent": Intent.CANCEL}, ended(signal=9), State.CANCELLED, "cancelled"),
        ({"intent": Intent.STOP}, ended(code=ExitCode.INTERRUPTED), State.CANCELLED, "cancelled"),
        ({"intent": Intent.STOP}, ended(code=ExitCode.DATA), State.FAILED, "data"),
        ({"intent": Intent.STOP}, ended(code=70), State.FAILED, "exit:70"),
        ({"intent": Intent.STOP}, ended(source=Source.NEVER_STARTED), State.CANCELLED, "cancelled"),
        ({"intent": Intent.PAUSE}, ended(code=ExitCode.INTERRUPTED), State.QUEUED, "preempted"),
        ({"intent": Intent.PAUSE}, ended(source=Source.NEVER_STARTED), State.QUEUED, "preempted"),
        ({"intent": Intent.PAUSE}, ended(source=Source.REBOOT), State.QUEUED, "lost:reboot"),
        ({"intent": Intent.PAUSE}, ended(code=70), State.QUEUED, "exit:70"),
        ({"intent": Intent.PAUSE}, ended(code=0), State.SUCCEEDED, None),
        ({}, ended(code=ExitCode.INTERRUPTED, passed_on="shutdown"), State.QUEUED, "interrupted"),
        ({}, ended(source=Source.REBOOT), State.QUEUED, "lost:reboot"),
        ({}, ended(source=Source.LOST), State.QUEUED, "lost:shim"),
        ({}, ended(source=Source.NEVER_STARTED), State.QUEUED, "never-started"),
        ({}, ended(signal=9), State.QUEUED, "signal:9"),
        ({}, ended(signal=9, oom=True), State.QUEUED, "oom:ram"),
        ({}, ended(code=ExitCode.OOM_GPU), State.QUEUED, "oom:gpu"),
        ({}, ended(code=70), State.QUEUED, "exit:70"),
        ({"failures": 2}, ended(code=70), State.FAILED, "exit:70"),
        ({"failures": 2, "verified_epoch": 4}, ended(code=70, verified_epoch=5), State.QUEUED, "exit:70"),
        ({}, ended(code=ExitCode.DATA), State.FAILED, "data"),
        ({}, ended(code=ExitCode.CHECKPOINT), State.FAILED, "checkpoint"),
        ({}, ended(code=ExitCode.NO_INPUT), State.FAILED, "refused:model"),
        ({}, ended(code=ExitCode.DISK), State.QUEUED, "disk"),
        ({"interruptions": MAX_INTERRUPTIONS}, ended(source=Source.REBOOT), State.FAILED, "lost:reboot"),
        ({"interruptions": 99}, ended(source=Source.NEVER_STARTED), State.QUEUED, "never-started"),
        (COMMAND, ended(code=3), State.FAILED, "exit:3"),
        (COMMAND, ended(signal=9), State.FAILED, "signal:9"),
        (COMMAND, ended(code=75), State.FAILED, "interrupted"),
        (COMMAND, ended(signal=15, passed_on="shutdown"), State.QUEUED, "signal:15"),
        (COMMAND, ended(signal=15), State.FAILED, "signal:15"),
        (COMMAND, ended(source=Source.REBOOT), State.QUEUED, "lost:reboot"),
        # Whether it did its work is not known, so it is never run again by itself.
        (COMMAND, ended(source=Source.LOST), State.FAILED, "lost:shim"),
    ],
)
def test_where_a_job_goes(who: dict[str, Any], ending: Ending, state: State, cause: str | None) -> None:
    decision = decide(job(**who), ending, NOW, 0.5)
    assert (decision.state, decision.cause) == (state, cause)


@given(
    kind=st.sampled_from(Kind),
    code=st.none() | st.integers(0, 255),
    killer=st.none() | st.integers(1, 64),
    source=st.sampled_from(Source),
    gains=st.lists(st.booleans(), max_size=60),
    jitter=st.floats(0, 1),
)
def test_a_job_that_gains_nothing_ends(
    kind: Kind, code: int | None, killer: int | None, source: Source, gains: list[bool], jitter: float
) -> None:
    """Whatever happens again and again, it is tried a bounded number of times between two gains."""
    one = job(kind=kind)
    fruitless = 0
    for gain in gains:
        epoch = one.verified_epoch + gain
        decision = decide(one, ended(source=source, code=code, signal=killer, verified_epoch=epoch), NOW, jitter)
        assert decision.not_before <= NOW + BACKOFF_CAP_S
        if decision.state in TERMINAL:
            return
        fruitless = 0 if gain else fruitless + 1
        if source is not Source.NEVER_STARTED:
            assert fruitless <= MAX_INTERRUPTIONS
        one = dataclasses.replace(
            one,
            failures=decision.failures,
            interruptions=decision.interruptions,
            verified_epoch=decision.verified_epoch,
        )
