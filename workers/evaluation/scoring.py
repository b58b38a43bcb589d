"""Scores of what a model has found, with confidence intervals: numbers in, numbers out.

Average precision is ultralytics' own (101 points of the recall, as COCO has it); precision and recall are given at the
confidence at which the mean F1 over the classes is best. A confidence interval comes from the bootstrap: sets of as
many images as there are, drawn from these with replacement, are scored like the whole. Images are drawn, not boxes, for
the boxes of an image stand or fall together. The same images, seed and number of draws give the same sets, whatever
the model, so that two models can be compared draw by draw.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from azaion.declarations.gate import Metric
from azaion.evaluation import ClassScores, Score

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Rounded so in files: more digits are noise.
_DIGITS: Final = 5
_EPSILON: Final = 1e-16


@dataclass(frozen=True, kw_only=True)
class Image:
    """What a model has found in one image.

    Attributes:
        name: the file's.
        hits: for each box found, whether it is right at each IoU threshold from 0.5 to 0.95.
        confidence: of each box found.
        found: the class of each box found.
        wanted: the class of each box that is there.
    """

    name: str
    hits: NDArray[np.bool_]
    confidence: Floats
    found: Integers
    wanted: Integers


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All that is said of a model; see `azaion.evaluation.Evaluation`."""

    overall: dict[Metric, Score]
    per_class: tuple[ClassScores, ...]
    draws: dict[Metric, tuple[float, ...]]
    confidence: float


@dataclass(frozen=True, kw_only=True)
class _Class:
    """The boxes of one class over all images, best first.

    Attributes:
        image: for each box found, the number of its image.
        wanted: for each image, how many boxes are there.
    """

    hits: Floats
    confidence: Floats
    image: Integers
    wanted: Integers

    def curves(self, weights: Integers) -> tuple[Floats, Floats]:
        """Recall and precision after each box, at each threshold, where every image counts ``weights`` times."""
        each = weights[self.image]
        present = each > 0
        each = each[present]
        right = np.cumsum(each[:, None] * self.hits[present], axis=0)
        recall = right / (float(weights @ self.wanted) + _EPSILON)
        return recall, right / np.cumsum(each)[:, None]

    def at(self, confidence: float, weights: Integers) -> tuple[float, float]:
        """Precision and recall of the boxes that are at least so sure."""
        each = weights[self.image] * (self.confidence >= confidence)
        right = float(each @ self.hits[:, 0]) if len(each) else 0.0
        return right / max(float(each.sum()), _EPSILON), right / (float(weights @ self.wanted) + _EPSILON)


def score(
    images: Sequence[Image],
    names: Sequence[str],
    *,
    draws: int,
    seed: int,
    average_precision: Callable[[Floats, Floats], float],
    best_confidence: Callable[[Sequence[Image]], float],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Scores | None:
    """Score what a model has found; None if there was nothing to find.

    Args:
        images: what it has found, in any order.
        names: of the classes.
        draws: how many sets of images to draw.
        seed: which ones.
        average_precision: of a curve of recall and precision.
        best_confidence: at which precision and recall are to be given.
        progress: is told how many draws of how many are done.
    """
    ordered = sorted(images, key=lambda image: image.name)
    classes = _classes(ordered)
    if not classes:
        return None
    confidence = best_confidence(ordered)
    whole = np.ones(len(ordered), dtype=np.int64)
    wanted = np.array([len(image.wanted) for image in ordered])
    table = [_row(classes, whole, confidence, average_precision)]
    for done, weights in enumerate(_draws(wanted, draws, seed)):
        progress(done, draws)
        table.append(_row(classes, weights, confidence, average_precision))
    # Draw by class by metric; where a draw has no box of a class, that class counts for nothing in it.
    figures = np.stack(table)
    mean = np.nanmean(figures, axis=1)
    return Scores(
        overall=_scores(mean),
        per_class=tuple(
            ClassScores(
                name=names[number],
                boxes=int(known.wanted.sum()),
                images=int((known.wanted > 0).sum()),
                scores=_scores(figures[:, place]),
            )
            for place, (number, known) in enumerate(classes.items())
        ),
        draws={metric: _rounded(mean[1:, place]) for place, metric in enumerate(Metric)},
        confidence=round(confidence, _DIGITS),
    )


def _classes(images: Sequence[Image]) -> dict[int, _Class]:
    """Every class that the images show."""
    wanted = np.concatenate([image.wanted for image in images]) if images else np.zeros(0, dtype=np.int64)
    shown = [int(number) for number in np.unique(wanted)]
    if not shown:
        return {}
    confidence = np.concatenate([image.confidence for image in images])
    best_first = np.argsort(-confidence, kind="stable")
    confidence = confidence[best_first]
    hits = np.concatenate([image.hits for image in images]).astype(np.float64)[best_first]
    found = np.concatenate([image.found for image in images])[best_first]
    place = np.repeat(np.arange(len(images)), [len(image.found) for image in images])[best_first]
    return {
        number: _Class(
            hits=hits[found == number],
            confidence=confidence[found == number],
            image=place[found == number],
            wanted=np.array([int((image.wanted == number).sum()) for image in images]),
        )
        for number in shown
    }


def _draws(wanted: Integers, count: int, seed: int) -> Iterator[Integers]:
    """How often each image is in each set that is drawn. A set that shows no box at all is drawn anew."""
    generator = np.random.default_rng(seed)
    size = len(wanted)
    for _ in range(count):
        weights = np.bincount(generator.integers(size, size=size), minlength=size)
        while not weights @ wanted:
            weights = np.bincount(generator.integers(size, size=size), minlength=size)
        yield weights


def _row(
    classes: Mapping[int, _Class],
    weights: Integers,
    confidence: float,
    average_precision: Callable[[Floats, Floats], float],
) -> Floats:
    """The figures of every class, in the order of `Metric`; NaN where there is nothing to find."""
    row = np.full((len(classes), len(Metric)), np.nan)
    order = {metric: place for place, metric in enumerate(Metric)}
    for place, known in enumerate(classes.values()):
        if not weights @ known.wanted:
            continue
        recall, precision = known.curves(weights)
        each = [average_precision(recall[:, level], precision[:, level]) for level in range(recall.shape[1])]
        row[place, order[Metric.MAP50_95]] = np.mean(each) if len(recall) else 0.0
        row[place, order[Metric.MAP50]] = each[0] if len(recall) else 0.0
        row[place, order[Metric.PRECISION]], row[place, order[Metric.RECALL]] = known.at(confidence, weights)
    return row


def _scores(figures: Floats) -> dict[Metric, Score]:
    """Value and interval of each metric; the first row is of all images."""
    found = {}
    for place, metric in enumerate(Metric):
        drawn = figures[1:, place]
        drawn = drawn[~np.isnan(drawn)]
        value = float(figures[0, place])
        low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (value, value)
        found[metric] = Score(value=_round(value), low=_round(low), high=_round(high))
    return found


def _rounded(values: Any) -> tuple[float, ...]:
    return tuple(_round(value) for value in values)


def _round(value: Any) -> float:
    return round(min(1.0, max(0.0, float(value))), _DIGITS)
