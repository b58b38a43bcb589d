"""What the model finds in a few images that it has not learned from: on the processor, within limits."""

import io
import logging
import random
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from azaion import files, pictures
from azaion.dataset import Snapshot, Split
from azaion.layout import ModelFolder
from azaion.report.facts import Absent, Box, Sample, Samples
from workers.reporting import labels
from workers.reporting.sources import Sources

#: Boxes that are less sure are not shown; ultralytics' own limit where it predicts.
CONFIDENCE: Final = 0.25
#: Seconds for all images, after the model is loaded.
LIMIT_S: Final = 60.0
#: The longer edge of a picture in the page, in pixels, and how much all of them may take there.
_EDGE: Final = 640
_BYTES: Final = 2_000_000
_QUALITY: Final = 82
#: An image with more shows nothing that anybody could make out, and takes long to compare.
_MAX_BOXES: Final = 1_000

Predict = Callable[[Any], list[Box]]

logger = logging.getLogger(__name__)


def weights(sources: Sources) -> tuple[Path, str] | None:
    """The weights to look through, and what they are called: the model's, else the best ones so far."""
    places = [(ModelFolder(path=sources.model.path).weights, sources.model.name)] if sources.model else []
    run = sources.run
    places += [
        (run.final, "the finished model"),
        (run.best, "the best checkpoint so far"),
        (run.last, "the last checkpoint"),
    ]
    return next(((path, name) for path, name in places if path.is_file()), None)


def look(
    sources: Sources, number: int, load: Callable[[Path, int], Predict], clock: Callable[[], float] = time.monotonic
) -> Samples | Absent:
    """Look at up to ``number`` images.

    Args:
        sources: the training.
        number: how many images at the most.
        load: makes a detector of weights and the edge that images are scaled to.
        clock: in seconds.
    """
    if number == 0:
        return Absent(why="No samples were wanted (--samples 0).")
    if isinstance(sources.snapshot, Absent):
        return Absent(why=f"There are no images to look at. {sources.snapshot.why}")
    chosen = weights(sources)
    if chosen is None:
        return Absent(why="There are no weights to look with: no epoch is done yet, or they were removed with the run.")
    path, name = chosen
    side, images = _choose(sources.snapshot, sources.folder.path.name, number)
    if not images:
        return Absent(why=f"{sources.snapshot.name} has no test and no validation images, or they were removed since.")
    try:
        predict = load(path, _imgsz(sources))
    except Exception as error:
        logger.warning("%s cannot be loaded", path, exc_info=True)
        # Whatever ultralytics makes of weights; the rest of the report stands.
        return Absent(why=f"{path.name} cannot be loaded: {type(error).__name__}: {error}"[:300])
    labelled = sources.snapshot.folder.annotations(side).labels
    taken = _taken(((image, labelled / f"{image.stem}.txt") for image in images), predict, clock)
    if not taken:
        return Absent(why=f"None of the {side} images of {sources.snapshot.name} could be looked at.")
    short = f"Of {len(images)} images that were chosen, {len(taken)} could be shown within the limits."
    return Samples(
        side={Split.TEST: "test", Split.VALID: "validation"}[side],
        model=name,
        classes=tuple(map(str, sources.snapshot.manifest["classes"])),
        confidence=CONFIDENCE,
        samples=tuple(taken),
        note=short if len(taken) < len(images) else "",
    )


def _taken(pairs: Iterable[tuple[Path, Path]], predict: Predict, clock: Callable[[], float]) -> list[Sample]:
    """As many as there is time and room for, but one in any case."""
    deadline, room = clock() + LIMIT_S, _BYTES
    taken: list[Sample] = []
    for image, label in pairs:
        if taken and (clock() > deadline or room <= 0):
            break
        sample = _sample(image, label, predict)
        if sample is not None:
            taken.append(sample)
            room -= len(sample.jpeg)
    return taken


def detector(path: Path, imgsz: int) -> Predict:
    """Ultralytics' detector on the processor. `workers.training.environment.prepare` must have been called."""
    from ultralytics import YOLO  # noqa: PLC0415 - must not be imported before `environment.prepare`

    model = YOLO(str(path), task="detect")

    def predict(image: Any) -> list[Box]:
        (result,) = model.predict(image, imgsz=imgsz, conf=CONFIDENCE, device="cpu", verbose=False, save=False)
        corners, numbers = result.boxes.xyxyn.tolist(), result.boxes.cls.tolist()
        return [
            Box(number=int(number), left=left, top=top, right=right, bottom=bottom, confidence=float(sure))
            for (left, top, right, bottom), number, sure in zip(
                corners, numbers, result.boxes.conf.tolist(), strict=True
            )
        ]

    return predict


def _choose(snapshot: Snapshot, seed: str, number: int) -> tuple[Split, list[Path]]:
    """Images of the test side, else of the validation side; the same ones for the same training each time."""
    for side in (Split.TEST, Split.VALID):
        folder = snapshot.folder.annotations(side).images
        images = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        if images:
            return side, sorted(random.Random(seed).sample(images, min(number, len(images))))  # noqa: S311 - no secret
    return Split.TEST, []


def _sample(image: Path, label: Path, predict: Predict) -> Sample | None:
    from PIL import Image as pillow  # noqa: N813, PLC0415 - heavy
    from PIL import ImageOps  # noqa: PLC0415 - the same

    truth = labels.read(label)
    if truth is None or len(truth) > _MAX_BOXES:
        return None
    try:
        with warnings.catch_warnings():
            # Aerial photographs are large; Pillow refuses by itself what is twice as large as it warns about.
            warnings.simplefilter("ignore")
            with files.opened(image) as stream, pillow.open(stream, formats=pictures.FORMATS) as opened:
                whole = ImageOps.exif_transpose(opened).convert("RGB")
            found = predict(whole)
            whole.thumbnail((_EDGE, _EDGE))
            data = io.BytesIO()
            whole.save(data, "JPEG", quality=_QUALITY, optimize=True)
    except Exception:
        logger.warning("%s cannot be looked at", image, exc_info=True)
        return None
    return Sample(
        name=image.name,
        width=whole.width,
        height=whole.height,
        jpeg=data.getvalue(),
        truth=tuple(truth),
        found=tuple(found),
    )


def _imgsz(sources: Sources) -> int:
    card = sources.model.card if sources.model else {}
    told = (card.get("arguments") or {}).get("imgsz")
    return int(told) if isinstance(told, int) else _imgsz_of_run(sources)


def _imgsz_of_run(sources: Sources) -> int:
    import yaml  # noqa: PLC0415 - only for a run without a model

    try:
        told = yaml.safe_load(files.read_small(sources.run.arguments, limit=1 << 20))["imgsz"]
        return int(told)
    except (OSError, files.FileError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return _EDGE
