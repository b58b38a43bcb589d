"""Whether an exported model finds what the model itself finds: boxes in, deviations out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: A box found by a model: left, top, right, bottom in pixels, confidence, class.
Boxes = NDArray[np.float64]

#: What embedded suppression leaves out, and ultralytics shows by default.
CONFIDENCE: Final = 0.25
#: Two boxes that overlap less than this are not the same.
_SAME: Final = 0.5
#: The best boxes of an image are compared, each with all of the other side.
_COMPARED: Final = 100


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far an exported model may deviate.

    Attributes:
        confidence: of any box.
        pixels: any edge of a box.
        lost: the share of boxes that only one side finds, or takes for another class; at an edge a rounding decides.
    """

    confidence: float
    pixels: float
    lost: float


def tolerance(*, half: bool, imgsz: int) -> Tolerance:
    """What is allowed: with 32 bits rounding alone, with 16 what their three decimal digits make of coordinates."""
    if half:
        return Tolerance(confidence=0.03, pixels=max(1.0, imgsz / 256), lost=0.02)
    return Tolerance(confidence=0.001, pixels=0.1, lost=0.001)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How an exported model compares with the model.

    Attributes:
        images: how many pictures both have looked at.
        boxes: how many boxes were compared.
        floor: the confidence from which on boxes were compared.
        lost: how many of them only one side has found, or has taken for another class.
        confidence: the largest deviation.
        pixels: the largest deviation of an edge.
        overlap: the smallest intersection over union of two boxes that are the same.
    """

    images: int
    boxes: int
    floor: float
    lost: int
    confidence: float
    pixels: float
    overlap: float
    tolerance: Tolerance

    @property
    def problem(self) -> str:
        """Why it is not good enough; empty if it is."""
        allowed = self.tolerance
        if not self.boxes:
            return (
                f"the model finds nothing in {self.images} images with a confidence of {self.floor:g}, so there is "
                "nothing to compare: export without --nms, or train a better model"
            )
        parts = []
        if self.lost > allowed.lost * self.boxes:
            parts.append(f"{self.lost} of {self.boxes} boxes are found by one side only, or are of another class there")
        if self.confidence > allowed.confidence:
            parts.append(f"confidences deviate by {self.confidence:.4f} ({allowed.confidence:g} allowed)")
        if self.pixels > allowed.pixels:
            parts.append(f"boxes deviate by {self.pixels:.2f} pixels ({allowed.pixels:g} allowed)")
        return "; ".join(parts)

    def record(self) -> dict[str, Any]:
        """For the files."""
        return {**asdict(self), "ok": not self.problem}


def floor(reference: Sequence[Boxes], *, embedded: bool) -> float:
    """The confidence from which on boxes are compared.

    A model that has hardly learned is never sure; it is compared by what it is surest of. Where the suppression is
    embedded, so is its threshold.
    """
    best = max((float(boxes[:, 4].max()) for boxes in reference if len(boxes)), default=0.0)
    return CONFIDENCE if embedded else min(CONFIDENCE, best / 2)


def compare(reference: Sequence[Boxes], exported: Sequence[Boxes], *, least: float, allowed: Tolerance) -> Parity:
    """Compare what both have found in the same images.

    Args:
        reference: by the model, for each image; with all boxes somewhat below ``least``, too.
        exported: by the exported model, the same.
        least: the confidence from which on boxes are compared.
        allowed: the tolerance.
    """
    compared, lost, confidence, pixels, overlap = 0, 0, 0.0, 0.0, 1.0
    # A box that is nearly below may be below on the other side; but the best one is always compared.
    slack = min(allowed.confidence, least / 2)
    for one, other in zip(reference, exported, strict=True):
        for these, those in ((one, other), (other, one)):
            sure = these[these[:, 4] >= least + slack]
            sure = sure[np.argsort(-sure[:, 4], kind="stable")][:_COMPARED]
            for box in sure:
                compared += 1
                same = those[those[:, 5] == box[5]]
                overlaps = _overlaps(box, same)
                if not len(overlaps) or overlaps.max() < _SAME:
                    lost += 1
                    continue
                # Of the boxes of one thing the one that is meant has the same place.
                twin = same[overlaps.argmax()]
                confidence = max(confidence, abs(float(box[4] - twin[4])))
                pixels = max(pixels, float(np.abs(box[:4] - twin[:4]).max()))
                overlap = min(overlap, float(overlaps.max()))
    return Parity(
        images=len(reference),
        boxes=compared,
        floor=round(least, 5),
        lost=lost,
        confidence=round(confidence, 6),
        pixels=round(pixels, 4),
        overlap=round(overlap, 5),
        tolerance=allowed,
    )


def compare_places(
    reference: Sequence[Boxes], exported: Sequence[Boxes], *, least: float, allowed: Tolerance
) -> Parity:
    """Compare what both say of every place of the same images, before any box suppresses another.

    Among boxes that are nearly equal a rounding decides which one suppresses which, and so who is left far away.

    Args:
        reference: of the model, for each image; the same places in the same order on both sides.
        exported: of the exported model.
        least: the confidence from which on a place counts, on either side.
        allowed: the tolerance.
    """
    compared, lost, confidence, pixels, overlap = 0, 0, 0.0, 0.0, 1.0
    for whole, others in zip(reference, exported, strict=True):
        sure = np.maximum(whole[:, 4], others[:, 4]) >= least
        these, those = whole[sure], others[sure]
        if not len(these):
            continue
        compared += len(these)
        lost += int((these[:, 5] != those[:, 5]).sum())
        confidence = max(confidence, float(np.abs(these[:, 4] - those[:, 4]).max()))
        pixels = max(pixels, float(np.abs(these[:, :4] - those[:, :4]).max()))
        overlap = min(overlap, float(min(_overlaps(*pair)[0] for pair in zip(these, those[:, None], strict=True))))
    return Parity(
        images=len(reference),
        boxes=compared,
        floor=round(least, 5),
        lost=lost,
        confidence=round(confidence, 6),
        pixels=round(pixels, 4),
        overlap=round(overlap, 5),
        tolerance=allowed,
    )


def _overlaps(box: NDArray[np.float64], others: Boxes) -> NDArray[np.float64]:
    """Intersection over union of a box with each of the others."""
    left_top = np.maximum(box[:2], others[:, :2])
    right_bottom = np.minimum(box[2:4], others[:, 2:4])
    common = np.prod(np.clip(right_bottom - left_top, 0, None), axis=1)
    area = float(np.prod(box[2:4] - box[:2]))
    areas = np.prod(others[:, 2:4] - others[:, :2], axis=1)
    whole: NDArray[np.float64] = common / np.maximum(area + areas - common, 1e-12)
    return whole
