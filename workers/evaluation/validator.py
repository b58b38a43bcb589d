"""Ultralytics' validator, asked for what it has found in each image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import nms
from ultralytics.utils.callbacks import get_default_callbacks
from ultralytics.utils.metrics import ap_per_class, compute_ap, smooth

from workers.evaluation.scoring import Floats, Image
from workers.training.errors import BaseModelError
from workers.training.reporter import Reporter
from workers.training.trainer import UNREADABLE

#: Seconds an image. On a machine that is busy ultralytics would else give up, and find nothing in the rest of a batch.
_PATIENCE_S: Final = 3600.0


class Validator(DetectionValidator):  # type: ignore[misc] # ultralytics is untyped
    """Keeps what was found in each image."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.images: list[Image] = []
        self._names: list[str] = []

    def postprocess(self, preds: Any) -> list[dict[str, Any]]:
        """As ultralytics does it, however long it takes."""
        found = nms.non_max_suppression(
            preds,
            self.args.conf,
            self.args.iou,
            multi_label=True,
            agnostic=self.args.single_cls or self.args.agnostic_nms,
            max_det=self.args.max_det,
            max_time_img=_PATIENCE_S,
            end2end=self.end2end,
        )
        return [{"bboxes": each[:, :4], "conf": each[:, 4], "cls": each[:, 5], "extra": each[:, 6:]} for each in found]

    def update_metrics(self, preds: Any, batch: Any) -> None:
        """Note whose figures come next."""
        self._names += [Path(file).name for file in batch["im_file"]]
        super().update_metrics(preds, batch)

    def get_stats(self) -> Any:
        """Keep the figures of each image before they are thrown together."""
        stats = self.metrics.stats
        self.images = [
            Image(
                name=name,
                hits=np.asarray(hits, dtype=bool),
                confidence=np.asarray(confidence, dtype=np.float64),
                found=np.asarray(found).astype(np.int64),
                wanted=np.asarray(wanted).astype(np.int64),
            )
            for name, hits, confidence, found, wanted in zip(
                self._names, stats["tp"], stats["conf"], stats["pred_cls"], stats["target_cls"], strict=True
            )
        ]
        return super().get_stats()


def device() -> str:
    """Where we compute: the GPU that is leased to us, or the processor."""
    return "0" if torch.cuda.is_available() else "cpu"


def classes_of(weights: Path) -> tuple[str, ...]:
    """The classes that a model knows, in their order.

    Raises:
        BaseModelError: it cannot be loaded.
    """
    try:
        known = YOLO(str(weights)).names
    except UNREADABLE as error:
        raise BaseModelError(f"the model {weights} cannot be loaded: {' '.join(str(error).split())}") from error
    return tuple(str(known[number]) for number in sorted(known))


def look(
    weights: Path, data: Path, *, imgsz: int, batch: int, workers: int, folder: Path, reporter: Reporter
) -> tuple[list[Image], dict[str, float]]:
    """What a model finds in the test images of a dataset, and what ultralytics says of it as a whole.

    Each image is scaled to a square, as in an exported model, so that nothing depends on its neighbours in a batch.
    """
    while True:
        try:
            return _look(weights, data, imgsz=imgsz, batch=batch, workers=workers, folder=folder, reporter=reporter)
        except torch.OutOfMemoryError:
            if batch <= 1:
                raise
        batch //= 2
        torch.cuda.empty_cache()


def _look(
    weights: Path, data: Path, *, imgsz: int, batch: int, workers: int, folder: Path, reporter: Reporter
) -> tuple[list[Image], dict[str, float]]:
    callbacks = get_default_callbacks()
    callbacks["on_val_start"].append(
        lambda validator: reporter.phase("evaluating", batches=len(validator.dataloader)),
    )
    callbacks["on_val_batch_end"].append(lambda _validator: reporter.batch())
    settings = {
        "mode": "val",
        "split": "test",
        "model": str(weights),
        "data": str(data),
        "imgsz": imgsz,
        "batch": batch,
        "workers": workers,
        "device": device(),
        "rect": False,
        "plots": False,
    }
    validator = Validator(save_dir=folder, args=settings, _callbacks=callbacks)
    try:
        whole = validator(model=str(weights))
    finally:
        if validator.dataloader is not None:
            validator.dataloader.close()
    return validator.images, {name: float(value) for name, value in whole.items()}


def average_precision(recall: Floats, precision: Floats) -> float:
    """Of a curve, as ultralytics has it."""
    return float(compute_ap(recall, precision)[0])


def best_confidence(images: Sequence[Image]) -> float:
    """Where the mean F1 over the classes is best, as ultralytics has it."""
    joined = [
        np.concatenate([getattr(image, part) for image in images]) for part in ("hits", "confidence", "found", "wanted")
    ]
    curves, places = ap_per_class(*joined)[9:11]
    return float(places[smooth(curves.mean(0), 0.1).argmax()])
