"""May this model take over? A table of answers, and what holds for all of them."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azaion.declarations import gate as section
from azaion.declarations.gate import GateDeclaration, Metric
from azaion.evaluation import Evaluation, Score, Settings
from azaion.gate import Judged, Outcome, decide

RULES = GateDeclaration()


def found(value: float, *, images: int = 50, classes: tuple[str, ...] = ("disc", "square"), **other: Any) -> Evaluation:
    settings = Settings(model=str(value), dataset="d1", imgsz=96, draws=3, seed=0, version=1)
    return Evaluation(
        settings=replace(settings, **other),
        dataset="azaion-2026-11-22",
        classes=classes,
        images=images,
        boxes=2 * images,
        scores={metric: Score(value=value, low=value - 0.02, high=value + 0.02) for metric in Metric} if images else {},
        per_class=(),
        draws=dict.fromkeys(Metric, (value - 0.02, value, value + 0.02)) if images else {},
        confidence=0.3,
        device="cpu",
        job=1,
        time=0.0,
    )


def new(value: float = 0.5, **other: Any) -> Judged:
    return Judged(name="new", found=found(value, **other))


def old(value: float = 0.5, **other: Any) -> Judged:
    return Judged(name="old", found=found(value, **other))


@pytest.mark.parametrize(
    ("rules", "candidate", "current", "outcome", "reason"),
    [
        (RULES, new(), None, Outcome.PROMOTED, "there was no model in use before"),
        (RULES, new(0.0, images=0), None, Outcome.PROMOTED, "there was no model in use before"),
        (RULES, new(0.6), old(0.5), Outcome.PROMOTED, "mAP50-95 0.600 against 0.500 of old on 50 test images"),
        (RULES, new(0.49), old(0.5), Outcome.PROMOTED, "-0.010"),
        (RULES, new(0.489), old(0.5), Outcome.WAITS, "it may be 0.01 worse at the most"),
        (replace(RULES, margin=-0.05), new(0.54), old(0.5), Outcome.WAITS, "it must be 0.05 better at the least"),
        (replace(RULES, margin=-0.05), new(0.55), old(0.5), Outcome.PROMOTED, "+0.050"),
        (replace(RULES, metric=Metric.RECALL), new(0.6), old(0.5), Outcome.PROMOTED, "recall 0.600 against"),
        (replace(RULES, automatic=False), new(0.9), old(0.5), Outcome.WAITS, "gate.automatic is false"),
        (replace(RULES, automatic=False), new(0.9), None, Outcome.WAITS, "gate.automatic is false"),
        (RULES, new(0.9, images=19), old(0.5, images=19), Outcome.WAITS, "19 test images are too few"),
        (RULES, new(0.9, images=20), old(0.5, images=20), Outcome.PROMOTED, "on 20 test images"),
        (replace(RULES, minimum_images=0), new(0.0, images=0), old(0.0, images=0), Outcome.WAITS, "0 test images"),
        (
            RULES,
            new(classes=("disc", "star")),
            old(),
            Outcome.WAITS,
            "classes are not those of old, which is in use: +s",
        ),
        (RULES, new(classes=("square", "disc")), old(), Outcome.WAITS, "another order"),
        (RULES, new(0.9, dataset="d2"), old(0.5), Outcome.WAITS, "not evaluated on the same images"),
        (RULES, new(0.9), old(0.5, seed=1), Outcome.WAITS, "not evaluated on the same images"),
        (RULES, new(0.9, imgsz=640), old(0.5), Outcome.PROMOTED, "0.900 against"),
        (
            RULES,
            new(),
            Judged(name="old", found=None, problem="it is gone"),
            Outcome.WAITS,
            "old, which is in use, cannot",
        ),
        (RULES, new(), replace(new(), name="new"), Outcome.PROMOTED, "in use already"),
    ],
)
def test_the_answer(
    rules: GateDeclaration, candidate: Judged, current: Judged | None, outcome: Outcome, reason: str
) -> None:
    verdict = decide(rules, candidate, current)
    assert (verdict.outcome, reason in verdict.reason) == (outcome, True), verdict.reason
    assert "\n" not in verdict.reason


def test_the_record_holds_all_that_led_to_it() -> None:
    candidate, current = new(0.6), old(0.5)
    record = decide(RULES, candidate, current).record(RULES, candidate, current)
    assert record["difference"] == {"value": 0.1, "low": 0.1, "high": 0.1}
    assert record["candidate"]["score"]["value"] == 0.6
    assert record["current"] == {"name": "old", "score": {"value": 0.5, "low": 0.48, "high": 0.52}, "problem": ""}
    assert record["rules"]["margin"] == 0.01


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.floats(-0.5, 0.5))
def test_a_larger_margin_never_holds_back(after: float, before: float, margin: float) -> None:
    strict = decide(replace(RULES, margin=margin), new(after), old(before))
    lenient = decide(replace(RULES, margin=margin + 0.1), new(after), old(before))
    assert (strict.outcome, lenient.outcome) != (Outcome.PROMOTED, Outcome.WAITS)


def test_what_the_user_has_declared() -> None:
    problems: list[str] = []
    assert section.section({"margin": 0, "metric": "recall", "automatic": False}, problems) == GateDeclaration(
        margin=0.0, metric=Metric.RECALL, automatic=False
    )
    assert problems == []
    section.section({"margn": 1, "metric": "beauty", "minimum_images": -1}, problems)
    assert problems == [
        "gate.margn: unknown; did you mean margin?",
        "gate.metric: expected one of map50_95, map50, precision, recall, got beauty",
        "gate.minimum_images: expected a whole number, got -1",
    ]
