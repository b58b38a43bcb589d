"""Scores and their intervals, and whether an export finds the same: numbers in, numbers out."""

import random

import pytest

np = pytest.importorskip("numpy")

from azaion.declarations.gate import Metric  # noqa: E402 - they need numpy, which only trainings do
from workers.evaluation import scoring  # noqa: E402 - the same
from workers.evaluation.scoring import Floats, Image, Scores  # noqa: E402 - the same
from workers.exporting import parity  # noqa: E402 - the same


def area(recall: Floats, precision: Floats) -> float:
    """Average precision by rectangles: enough to see what goes in."""
    return float(np.sum(np.diff(np.concatenate([[0.0], recall])) * precision))


def image(name: str, boxes: list[tuple[bool, float, int]], wanted: list[int]) -> Image:
    return Image(
        name=name,
        hits=np.array([[hit] * 10 for hit, _, _ in boxes], dtype=bool).reshape(len(boxes), 10),
        confidence=np.array([confidence for _, confidence, _ in boxes], dtype=np.float64),
        found=np.array([number for _, _, number in boxes], dtype=np.int64),
        wanted=np.array(wanted, dtype=np.int64),
    )


def score(images: list[Image], draws: int = 50, seed: int = 0) -> Scores:
    found = scoring.score(
        images,
        ("disc", "square", "star"),
        draws=draws,
        seed=seed,
        average_precision=area,
        best_confidence=lambda _images: 0.5,
    )
    assert found is not None
    return found


def some(seed: int, count: int = 30) -> list[Image]:
    generator = random.Random(seed)
    images = []
    for number in range(count):
        wanted = [generator.randrange(2) for _ in range(generator.randrange(4))]
        found = [(generator.random() < 0.7, generator.random(), kind) for kind in wanted]
        images.append(image(f"{number:03}.jpg", found, wanted))
    return images


def test_known_figures() -> None:
    """Two of three discs are found, one false one among them; no star is there, and none counts."""
    images = [
        image("a", [(True, 0.9, 0), (False, 0.8, 0), (False, 0.7, 2)], [0]),
        image("b", [(True, 0.6, 0)], [0, 0]),
        image("c", [(True, 0.9, 1)], [1]),
    ]
    found = score(images)
    disc, square = found.per_class
    assert (disc.name, disc.boxes, disc.images, square.name) == ("disc", 3, 2, "square")
    assert disc.scores[Metric.PRECISION].value == pytest.approx(2 / 3, abs=1e-5)
    assert disc.scores[Metric.RECALL].value == pytest.approx(2 / 3, abs=1e-5)
    assert disc.scores[Metric.MAP50].value == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3, abs=1e-5)
    assert square.scores[Metric.MAP50_95].value == 1.0
    mean = (disc.scores[Metric.MAP50].value + 1.0) / 2
    assert found.overall[Metric.MAP50].value == pytest.approx(mean, abs=1e-5)


def test_a_drawn_set_is_scored_as_if_its_images_were_copied() -> None:
    images = some(3, count=12)
    weights = np.array([0, 2, 1, 0, 3, 1, 0, 1, 2, 1, 0, 1])
    copies = [each for each, times in zip(images, weights, strict=True) for _ in range(times)]
    drawn, copied = scoring._classes(images), scoring._classes(copies)
    assert drawn.keys() == copied.keys() == {0, 1}
    for number, known in drawn.items():
        for place, whole in ((known, weights), (copied[number], np.ones(len(copies), dtype=np.int64))):
            recall, precision = place.curves(whole)
            assert (recall[-1, 0], precision[-1, 0]) == pytest.approx(
                (copied[number].hits[:, 0].sum() / copied[number].wanted.sum(), copied[number].hits[:, 0].mean())
            )
        assert known.at(0.5, weights) == pytest.approx(copied[number].at(0.5, np.ones(len(copies), dtype=np.int64)))


def test_the_same_images_give_the_same_draws_in_any_order_and_for_any_model() -> None:
    images = some(1)
    mixed = list(images)
    random.Random(5).shuffle(mixed)
    assert score(images) == score(mixed)
    assert score(images).draws != score(images, seed=1).draws
    # A model that is worse in every image is worse in every draw.
    blind = [image(each.name, [], each.wanted.tolist()) for each in images]
    better, worse = score(images).draws[Metric.RECALL], score(blind).draws[Metric.RECALL]
    assert all(one > other for one, other in zip(better, worse, strict=True))
    assert set(worse) == {0.0}


def test_more_images_give_narrower_intervals() -> None:
    few, many = (score(some(7, count=count), draws=200).overall[Metric.RECALL] for count in (15, 240))
    assert few.low <= few.value <= few.high
    assert many.high - many.low < (few.high - few.low) / 2


def test_nothing_to_find_is_no_score() -> None:
    empty = [image("a", [(False, 0.9, 0)], [])]
    assert (
        scoring.score(empty, ("disc",), draws=5, seed=0, average_precision=area, best_confidence=lambda _: 0.5) is None
    )


# Exports.

BOXES = [[10.0, 10.0, 50.0, 50.0, 0.9, 0.0], [60.0, 10.0, 90.0, 40.0, 0.5, 1.0], [5.0, 60.0, 20.0, 80.0, 0.26, 0.0]]


def compare(boxes: list[list[float]], *, half: bool = False) -> parity.Parity:
    reference, other = np.array(BOXES), np.array(boxes).reshape(-1, 6)
    allowed = parity.tolerance(half=half, imgsz=96)
    least = parity.floor([reference], embedded=True)
    return parity.compare([reference], [other], least=least, allowed=allowed)


def changed(place: int, column: int, value: float) -> list[list[float]]:
    boxes = [list(box) for box in BOXES]
    boxes[place][column] += value
    return boxes


def test_the_same_boxes_are_the_same() -> None:
    found = compare(BOXES)
    assert (found.boxes, found.lost, found.pixels, found.confidence, found.overlap) == (6, 0, 0.0, 0.0, 1.0)
    assert found.problem == ""
    assert found.record()["ok"]


@pytest.mark.parametrize(
    ("boxes", "half", "problem"),
    [
        (BOXES[1:], False, "1 of 5 boxes are found by one side only"),
        ([*BOXES, [70.0, 70.0, 90.0, 90.0, 0.8, 0.0]], False, "1 of 7 boxes"),
        (changed(0, 5, 1.0), False, "2 of 6 boxes"),
        (changed(0, 4, -0.002), False, "confidences deviate by 0.0020 (0.001 allowed)"),
        (changed(0, 4, -0.002), True, ""),
        (changed(0, 4, -0.05), True, "confidences deviate by 0.0500"),
        (changed(1, 2, 0.5), False, "boxes deviate by 0.50 pixels (0.1 allowed)"),
        (changed(1, 2, 0.5), True, ""),
        (changed(1, 2, 3.0), True, "boxes deviate by 3.00 pixels"),
        # At the threshold a rounding decides.
        (changed(2, 4, -0.02), True, ""),
    ],
)
def test_what_deviates_too_far_is_told(boxes: list[list[float]], half: bool, problem: str) -> None:  # noqa: FBT001
    found = compare(boxes, half=half)
    assert (problem in found.problem) if problem else (found.problem == ""), found
    assert found.record()["ok"] is not bool(problem)


def test_boxes_just_below_the_threshold_need_no_partner() -> None:
    barely = [*BOXES, [70.0, 70.0, 90.0, 90.0, 0.2505, 0.0]]
    assert compare(barely).problem == ""


def test_nothing_to_compare_is_no_agreement() -> None:
    allowed = parity.tolerance(half=False, imgsz=96)
    nothing = [np.zeros((0, 6))]
    assert "nothing to compare" in parity.compare(nothing, nothing, least=0.25, allowed=allowed).problem
    assert parity.floor(nothing, embedded=True) == 0.25


def test_a_model_that_is_never_sure_is_compared_by_what_it_is_surest_of() -> None:
    unsure = [np.array([[0.0, 0.0, 9.0, 9.0, 0.04, 0.0]])]
    least = parity.floor(unsure, embedded=False)
    assert least == 0.02
    assert parity.compare(unsure, unsure, least=least, allowed=parity.tolerance(half=True, imgsz=96)).boxes == 2


@pytest.mark.parametrize(
    ("boxes", "problem"),
    [
        (BOXES, ""),
        (changed(0, 4, -0.002), "confidences deviate by 0.0020 (0.001 allowed)"),
        (changed(1, 2, 0.5), "boxes deviate by 0.50 pixels (0.1 allowed)"),
        (changed(0, 5, 1.0), "1 of 2 boxes are found by one side only, or are of another class there"),
        # Below the floor on both sides, nobody cares; above it on one side, it counts.
        (changed(2, 2, 0.5), ""),
        (changed(2, 4, 0.1), "confidences deviate by 0.1000"),
    ],
)
def test_places_are_compared_with_themselves(boxes: list[list[float]], problem: str) -> None:
    # The same box twice, as of two places that see one thing: what suppression would do to them does not matter.
    reference, other = [np.array([*BOXES, BOXES[2]])], [np.array([*boxes, BOXES[2]])]
    allowed = parity.tolerance(half=False, imgsz=96)
    found = parity.compare_places(reference, other, least=0.3, allowed=allowed)
    assert (problem in found.problem) if problem else (found.problem == ""), found
    assert found.boxes == (3 if "0.1000" in problem else 2)
