"""What the judgement of a model tells beside its figures: what it takes for what, and precision over recall."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from ultralytics.models.yolo.detect import DetectionValidator

#: Points of each curve, evenly spaced over the recall.
_POINTS: Final = 101
_DIGITS: Final = 4

#: Ultralytics' own, where the validator keeps nearly every box: the matrix counts boxes that are at least so sure, and
#: takes those for the same that overlap by so much.
CONFIDENCE: Final = 0.25
OVERLAP: Final = 0.45


logger = logging.getLogger(__name__)


@contextmanager
def harmless(what: str) -> Iterator[None]:
    """What only a report wants must not cost a run that has taken days."""
    try:
        yield
    except Exception:
        logger.exception("%s will be missing in the report", what)


class Judge(DetectionValidator):  # type: ignore[misc] # ultralytics is untyped
    """Counts what is taken for what, also where no pictures of that are drawn."""

    def update_metrics(self, preds: Any, batch: Any) -> None:
        """Take the boxes found in a batch."""
        super().update_metrics(preds, batch)
        if not self.args.plots:
            with harmless("what a batch is taken for"):
                self._count(preds, batch)

    def _count(self, preds: Any, batch: Any) -> None:
        for number, found in enumerate(preds):
            self.confusion_matrix.process_batch(
                self._prepare_pred(found), self._prepare_batch(number, batch), conf=CONFIDENCE, iou_thres=OVERLAP
            )

    def judgement(self) -> dict[str, Any]:
        """What `azaion.report.facts.Judgement` reads."""
        metrics, matrix = self.metrics, self.confusion_matrix.matrix
        rows, columns = np.nonzero(matrix)
        return {
            "images": int(self.seen),
            "confidence": CONFIDENCE,
            "overlap": OVERLAP,
            "classes": [str(self.names[number]) for number in range(len(self.names))],
            "confusion": [
                [int(row), int(column), int(matrix[row, column])] for row, column in zip(rows, columns, strict=True)
            ],
            "per_class": [self._class(place, int(number)) for place, number in enumerate(metrics.box.ap_class_index)],
        }

    def _class(self, place: int, number: int) -> dict[str, Any]:
        box = self.metrics.box
        precision, recall, ap50, ap = box.class_result(place)
        curve = np.interp(np.linspace(0, 1, _POINTS), box.px, box.prec_values[place])
        return {
            "number": number,
            "boxes": int(self.metrics.nt_per_class[number]),
            "images": int(self.metrics.nt_per_image[number]),
            "precision": _rounded(precision),
            "recall": _rounded(recall),
            "ap50": _rounded(ap50),
            "ap": _rounded(ap),
            "curve": [_rounded(value) for value in curve],
        }


def _rounded(value: Any) -> float:
    return round(float(value), _DIGITS)
