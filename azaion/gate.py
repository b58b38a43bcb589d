"""Whether a new model may take over from the current one by itself: a pure decision, with its reason."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from azaion.declarations.gate import GateDeclaration, Metric
from azaion.evaluation import Evaluation

_WORDS: Final = {
    Metric.MAP50_95: "mAP50-95",
    Metric.MAP50: "mAP50",
    Metric.PRECISION: "precision",
    Metric.RECALL: "recall",
}

#: Figures are rounded in files and in reasons; a difference smaller than that is none.
_EQUAL: Final = 1e-9


class Outcome(StrEnum):
    """What becomes of a new model."""

    PROMOTED = "promoted"
    WAITS = "waits"  # for `models promote`


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A model and what is known of it.

    Attributes:
        name: the model's.
        found: how good it is on the test images; None if it could not be evaluated.
        problem: why not.
    """

    name: str
    found: Evaluation | None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """By how much the new model is better, on the same images.

    Attributes:
        low, high: where the difference lies for 95 in 100 sets of images drawn from these.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of a new model, and why.

    Attributes:
        reason: one line, for people.
        difference: None where the two were not compared.
    """

    outcome: Outcome
    reason: str
    difference: Difference | None = None

    def record(self, rules: GateDeclaration, candidate: Judged, current: Judged | None) -> dict[str, Any]:
        """All that led to it."""
        return {
            "outcome": str(self.outcome),
            "reason": self.reason,
            "rules": asdict(rules),
            "dataset": candidate.found.dataset if candidate.found is not None else None,
            "images": candidate.found.images if candidate.found is not None else 0,
            "candidate": _figures(candidate, rules.metric),
            "current": None if current is None else _figures(current, rules.metric),
            "difference": None if self.difference is None else asdict(self.difference),
        }


def decide(rules: GateDeclaration, candidate: Judged, current: Judged | None) -> Verdict:
    """Say whether ``candidate`` may take over from ``current``.

    Args:
        rules: the user's.
        candidate: the new model.
        current: the one in use; None if there is none.
    """
    if current is not None and current.name == candidate.name:
        return _promoted(f"{candidate.name} is in use already")
    if not rules.automatic:
        return _waits("no model takes over by itself here (gate.automatic is false)")
    if candidate.found is None:
        return _waits(candidate.problem)
    if current is None:
        return _promoted("there was no model in use before")
    return _compare(rules, candidate.found, current)


def _compare(rules: GateDeclaration, new: Evaluation, current: Judged) -> Verdict:
    old = current.found
    if old is None:
        return _waits(f"{current.name}, which is in use, cannot be compared with: {current.problem}")
    if new.classes != old.classes:
        return _waits(f"its classes are not those of {current.name}, which is in use: {_changes(old, new)}")
    if new.images < max(rules.minimum_images, 1):
        return _waits(
            f"{new.images} test images are too few to compare it with {current.name}: "
            f"gate.minimum_images is {rules.minimum_images}"
        )
    if not _comparable(new, old):
        return _waits(f"{current.name}, which is in use, was not evaluated on the same images")
    metric = rules.metric
    before, after = old.scores[metric].value, new.scores[metric].value
    difference = _difference(after - before, new.draws[metric], old.draws[metric])
    said = (
        f"{_WORDS[metric]} {after:.3f} against {before:.3f} of {current.name} on {new.images} test images of "
        f"{new.dataset} ({difference.value:+.3f}, 95 % from {difference.low:+.3f} to {difference.high:+.3f})"
    )
    if difference.value + rules.margin >= -_EQUAL:
        return _promoted(said, difference)
    must = f"may be {rules.margin:g} worse" if rules.margin >= 0 else f"must be {-rules.margin:g} better"
    return _waits(f"{said}; it {must} at the {'most' if rules.margin >= 0 else 'least'}", difference)


def _comparable(new: Evaluation, old: Evaluation) -> bool:
    """Whether both were found on the same images, drawn in the same way."""
    same = ("dataset", "draws", "seed", "version")
    return new.images == old.images and all(getattr(new.settings, it) == getattr(old.settings, it) for it in same)


def _difference(value: float, new: Sequence[float], old: Sequence[float]) -> Difference:
    drawn = sorted(after - before for after, before in zip(new, old, strict=True))
    return Difference(value=round(value, 5), low=round(_at(drawn, 0.025), 5), high=round(_at(drawn, 0.975), 5))


def _at(drawn: Sequence[float], share: float) -> float:
    """The quantile of sorted numbers."""
    return drawn[round(share * (len(drawn) - 1))]


def _changes(old: Evaluation, new: Evaluation) -> str:
    gone = [name for name in old.classes if name not in new.classes]
    come = [name for name in new.classes if name not in old.classes]
    parts = [*(f"+{name}" for name in come), *(f"-{name}" for name in gone)]
    return ", ".join(parts[:10]) or "another order"


def _figures(judged: Judged, metric: Metric) -> dict[str, Any]:
    score = judged.found.scores.get(metric) if judged.found is not None else None
    return {
        "name": judged.name,
        "score": None if score is None else asdict(score),
        "problem": judged.problem,
    }


def _promoted(reason: str, difference: Difference | None = None) -> Verdict:
    return Verdict(outcome=Outcome.PROMOTED, reason=reason, difference=difference)


def _waits(reason: str, difference: Difference | None = None) -> Verdict:
    return Verdict(outcome=Outcome.WAITS, reason=reason, difference=difference)
