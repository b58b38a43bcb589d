"""What follows from how an attempt ended."""

import dataclasses
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azaion.progress import ExitCode
from supervisor.jobs.model import TERMINAL, Attempt, Intent, Job, Kind, Limits, Measure, State
from supervisor.jobs.outcome import (
    BACKOFF_CAP_S,
    CRASHES,
    MAX_INTERRUPTIONS,
    Decision,
    Ending,
    Source,
    cause_of,
    decide,
    seconds,
)

NOW = 1000.0


def job(**facts: Any) -> Job:
    given: dict[str, Any] = {"kind": Kind.TRAIN, "limit": 3, "state": State.RUNNING} | facts
    return Job(id=1, uid="u", name="n", parameters={"batch": 16}, owner="o", **given)


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
        ({"failures": 2}, ended(code=ExitCode.DISK), State.QUEUED, "disk"),
        (COMMAND, ended(code=ExitCode.DISK), State.FAILED, "disk"),
        ({}, ended(signal=9, measure=Measure.HANG), State.QUEUED, "hang"),
        ({}, ended(code=ExitCode.INTERRUPTED, measure=Measure.HANG), State.QUEUED, "hang"),
        ({}, ended(source=Source.LOST, measure=Measure.HANG), State.QUEUED, "hang"),
        ({}, ended(code=0, measure=Measure.HANG), State.SUCCEEDED, None),
        ({"interruptions": MAX_INTERRUPTIONS}, ended(signal=9, measure=Measure.HANG), State.FAILED, "hang"),
        ({"intent": Intent.PAUSE}, ended(signal=9, measure=Measure.HANG), State.QUEUED, "hang"),
        ({"intent": Intent.STOP}, ended(signal=9, measure=Measure.HANG), State.CANCELLED, "cancelled"),
        ({"intent": Intent.CANCEL}, ended(signal=9, measure=Measure.TIME), State.CANCELLED, "cancelled"),
        ({}, ended(code=ExitCode.INTERRUPTED, measure=Measure.TIME), State.FAILED, "time"),
        ({}, ended(signal=9, measure=Measure.TIME), State.FAILED, "time"),
        (COMMAND, ended(code=3, measure=Measure.TIME), State.FAILED, "time"),
        (COMMAND, ended(source=Source.LOST, measure=Measure.TIME), State.FAILED, "time"),
        (COMMAND, ended(code=ExitCode.OOM_GPU), State.FAILED, "oom:gpu"),
        ({"intent": Intent.STOP}, ended(code=ExitCode.OOM_GPU), State.FAILED, "oom:gpu"),
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
            adjusted=decision.adjusted,
        )


def follow(one: Job, ending: Ending) -> tuple[Job, Decision]:
    """The job as it is after an attempt has ended."""
    decision = decide(one, ending, NOW, 0.5)
    after = dataclasses.replace(
        one,
        state=decision.state,
        failures=decision.failures,
        adjusted=decision.adjusted,
        ran_s=one.ran_s + ending.ran_s,
    )
    return after, decision


def test_a_gpu_out_of_memory_is_tried_with_half_the_batch_down_to_one() -> None:
    one, reasons = job(), []
    while one.state is not State.FAILED:
        one, decision = follow(one, ended(code=ExitCode.OOM_GPU, message="the worker's own words"))
        reasons.append(decision.reason)
    assert reasons[:2] == [
        "GPU out of memory with batch 16; again with 8",
        "GPU out of memory with batch 8; again with 4",
    ]
    assert len(reasons) == 5
    assert "with batch 1;" in reasons[-1]
    assert (one.adjusted, one.failures) == ({"batch": 1}, 0)


def test_each_of_several_gpus_gets_as_many_images() -> None:
    one = replace(job(devices=4), parameters={"batch": 24})
    batches = []
    while True:
        one, decision = follow(one, ended(code=ExitCode.OOM_GPU))
        if decision.state is State.FAILED:
            break
        batches.append(decision.adjusted["batch"])
    assert batches == [12, 4]


def test_a_batch_that_the_trainer_has_made_smaller_itself_is_halved_from_there() -> None:
    one, decision = follow(job(), ended(code=ExitCode.OOM_GPU, batch=4))
    assert one.adjusted == {"batch": 2}
    assert "with batch 4; again with 2" in decision.reason
    # And it never grows, whatever the worker says.
    assert follow(one, ended(code=ExitCode.OOM_GPU, batch=64))[0].adjusted == {"batch": 1}


def test_what_has_been_adjusted_stays_so() -> None:
    one, _ = follow(job(adjusted={"batch": 2}), ended(code=70))
    assert one.adjusted == {"batch": 2}


@pytest.mark.parametrize(
    ("ran_s", "ending", "state"),
    [
        (0.0, ended(source=Source.REBOOT, ran_s=59.0), State.QUEUED),
        (0.0, ended(source=Source.REBOOT, ran_s=60.0), State.FAILED),
        (50.0, ended(source=Source.REBOOT, ran_s=10.0), State.FAILED),
        (50.0, ended(code=70, ran_s=10.0), State.FAILED),
        (50.0, ended(code=0, ran_s=99.0), State.SUCCEEDED),
    ],
)
def test_no_other_attempt_for_a_job_whose_time_is_over(ran_s: float, ending: Ending, state: State) -> None:
    decision = decide(job(ran_s=ran_s, limits=Limits(time_s=60.0)), ending, NOW, 0.5)
    assert decision.state is state
    assert decision.cause == {State.FAILED: "time", State.QUEUED: cause_of(ending), State.SUCCEEDED: None}[state]
    assert ("it has run for the 60 s that it may" in decision.reason) == (state is State.FAILED)


def attempts(count: int, cause: str, ran_s: float) -> list[Attempt]:
    return [
        Attempt(number=number, nonce="", reserved=0.0, started=10.0, ended=10.0 + ran_s, cause=cause)
        for number in range(1, count + 1)
    ]


@pytest.mark.parametrize(
    ("earlier", "ending", "looping"),
    [
        (attempts(CRASHES - 1, "lost:reboot", 1.0), ended(source=Source.REBOOT, ran_s=1.0), True),
        (attempts(CRASHES - 2, "lost:reboot", 1.0), ended(source=Source.REBOOT, ran_s=1.0), False),
        (attempts(CRASHES - 1, "hang", 1.0), ended(source=Source.REBOOT, ran_s=1.0), False),
        (attempts(CRASHES - 1, "lost:reboot", 99.0), ended(source=Source.REBOOT, ran_s=1.0), False),
        (attempts(CRASHES - 1, "lost:reboot", -9.0), ended(source=Source.REBOOT, ran_s=1.0), False),
        (attempts(CRASHES - 1, "lost:reboot", 1.0), ended(source=Source.REBOOT, ran_s=99.0), False),
        (attempts(CRASHES - 1, "lost:reboot", 1.0), ended(source=Source.REBOOT, ran_s=1.0, verified_epoch=7), False),
        (attempts(CRASHES - 1, "exit:70", 1.0), ended(code=70, ran_s=1.0), True),
        (attempts(9, "never-started", 0.0), ended(source=Source.NEVER_STARTED), False),
        # A machine that is restarted again and again is not brought down by what it runs.
        (attempts(CRASHES - 1, "interrupted", 1.0), ended(code=75, passed_on="shutdown", ran_s=1.0), False),
    ],
)
def test_a_crash_loop_stops_early(earlier: list[Attempt], ending: Ending, *, looping: bool) -> None:
    one = job(limit=9, failures=CRASHES - 1, interruptions=CRASHES - 1, verified_epoch=6)
    decision = decide(one, ending, NOW, 0.5, earlier)
    assert (decision.state is State.FAILED) == looping
    assert ("times in a row within" in decision.reason) == looping


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (ended(signal=9, oom=True, memory=3 << 30), "killed for its memory: 3.0 GiB, its limit is 2.0 GiB"),
        (ended(signal=9, oom=True), "the kernel killed it for memory; its limit is 2.0 GiB"),
        (ended(signal=9, measure=Measure.TIME, message="it has run"), "it has run"),
    ],
)
def test_the_reason_says_how_much(ending: Ending, told: str) -> None:
    decision = decide(job(kind=Kind.COMMAND, limit=1, limits=Limits(memory=2 << 30)), ending, NOW, 0.5)
    assert decision.reason == told


def test_durations_for_people() -> None:
    assert [seconds(count) for count in (1.5, 90, 900, 14400, 5400)] == ["1.5 s", "90 s", "15 min", "4 h", "90 min"]
