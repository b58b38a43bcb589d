"""The judge finds each thing that must not be, and nothing where all is well."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.soak.judge import Blow, Evidence, Training, violations

_GOOD = ["begin c0 A", "end c0 A 0"]


def job(**more: Any) -> dict[str, Any]:
    attempt = {"n": 1, "exit_code": 0, "cause": None, "resumed_from_epoch": None}
    whole = {"id": 1, "key": "c0", "kind": "command", "state": "succeeded", "cause": None, "reason": ""}
    return whole | {"attempts": [attempt]} | more


def ended(code: int | None, cause: str | None, number: int = 1, resumed: int | None = None) -> dict[str, Any]:
    return {"n": number, "exit_code": code, "cause": cause, "resumed_from_epoch": resumed}


WELL = Evidence(acknowledged=frozenset({"c0"}), ledger=_GOOD, boot="B", jobs=[job()], blows={})

FAILED: dict[str, Any] = {"state": "failed", "cause": "exit:3", "attempts": [ended(3, "exit:3")]}
LOST: dict[str, Any] = {"state": "failed", "cause": "lost:shim", "attempts": [ended(None, "lost:shim")]}
KILLED: dict[str, Any] = {"state": "failed", "cause": "signal:9", "attempts": [ended(None, "signal:9")]}
CUT_OFF = ["begin c0 A"]
AGAIN = ["begin c0 A", "begin c0 B", "end c0 B 0"]


def blow(kind: Blow, times: int = 1) -> dict[str, Counter[Blow]]:
    return {"c0": Counter({kind: times})}


@pytest.mark.parametrize(
    "evidence",
    [
        WELL,
        replace(WELL, ledger=["begin c0 A", "end c0 A 3"], jobs=[job(**FAILED)]),
        replace(WELL, jobs=[job(**LOST)], blows=blow(Blow.SHIM)),
        replace(WELL, jobs=[job(**KILLED)], ledger=CUT_OFF, blows=blow(Blow.KILLED)),
        replace(WELL, jobs=[job(state="cancelled")], ledger=[], blows=blow(Blow.CANCELLED)),
        replace(WELL, ledger=AGAIN),
    ],
)
def test_what_may_be(evidence: Evidence) -> None:
    assert list(violations(evidence)) == []


@pytest.mark.parametrize(
    ("evidence", "told"),
    [
        (replace(WELL, jobs=[]), "there is no such job"),
        (replace(WELL, jobs=[job(), job(id=2)]), "was filed 2 times"),
        (replace(WELL, acknowledged=frozenset()), "nobody asked for c0"),
        (replace(WELL, ledger=[*_GOOD, *_GOOD]), "was started twice in one boot"),
        (replace(WELL, ledger=["begin c0 A", "begin c0 A", "end c0 A 0"]), "was started twice in one boot"),
        (replace(WELL, ledger=[*_GOOD, "overlap c0 A"]), "a device that somebody held"),
        (replace(WELL, ledger=["end c0 A 0"]), "has no place"),
        (replace(WELL, ledger=[]), "it never ran"),
        (replace(WELL, ledger=CUT_OFF, boot="A"), "it was interrupted"),
        (replace(WELL, ledger=CUT_OFF), "was not started again"),
        (replace(WELL, ledger=CUT_OFF, boot="A", jobs=[job(**KILLED)], blows=blow(Blow.SHIM)), "it was interrupted"),
        (replace(WELL, jobs=[job(**LOST)]), "it ended with 0"),
        (replace(WELL, jobs=[job(**FAILED)]), "it ended with 0"),
        (replace(WELL, jobs=[job(state="cancelled")]), "nobody has cancelled it"),
        (replace(WELL, ledger=[*_GOOD, "begin c0 B", "end c0 B 0"]), "was started again in B"),
        (replace(WELL, jobs=[job(kind="publish", state="failed")]), "it has not succeeded"),
    ],
)
def test_what_may_not_be(evidence: Evidence, told: str) -> None:
    assert [problem for problem in violations(evidence) if told in problem]


def training(attempts: list[dict[str, Any]], told: dict[int, list[int]], **more: Any) -> Evidence:
    return Evidence(
        acknowledged=frozenset({"c0"}),
        ledger=[],
        boot="A",
        jobs=[job(kind="train", attempts=attempts, **more)],
        blows=blow(Blow.KILLED),
        trainings={"c0": Training(epochs=3, told=told)},
    )


TWICE = [ended(None, "signal:9"), ended(0, None, 2, 1)]


def test_a_training_that_went_on_where_it_was() -> None:
    assert list(violations(training(TWICE, {1: [1], 2: [2, 3]}))) == []
    # The checkpoint comes before the line that tells of it.
    assert list(violations(training([TWICE[0], ended(0, None, 2, 2)], {1: [1], 2: [3]}))) == []


@pytest.mark.parametrize(
    ("evidence", "told"),
    [
        (training(TWICE, {1: [1, 2], 2: [2, 3]}), "went on at epoch 1, though epoch 2 was done"),
        (training(TWICE, {1: [1], 2: [3]}), "told of epochs [3]"),
        (training(TWICE, {1: [1], 2: [2]}), "ended after 2 of 3 epochs"),
        (replace(training(TWICE, {1: [1], 2: [2, 3]}), blows={}), "interrupted 1 times"),
        (training(TWICE[:1], {1: [1]}, state="failed"), "it has not succeeded"),
    ],
)
def test_a_training_that_did_not(evidence: Evidence, told: str) -> None:
    assert [problem for problem in violations(evidence) if told in problem]
