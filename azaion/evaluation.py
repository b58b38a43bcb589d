"""How good a model is on the test images of a dataset: what an evaluation finds, as it lies beside the model."""

from dataclasses import asdict, dataclass
from typing import Annotated

import msgspec

from azaion import files
from azaion.declarations.gate import Metric
from azaion.errors import AzaionError
from azaion.layout import ModelFolder

_Figure = Annotated[float, msgspec.Meta(ge=0, le=1)]


class EvaluationError(AzaionError):
    """An evaluation cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One figure with its confidence interval.

    Attributes:
        value: on all images.
        low, high: where it lies for 95 in 100 sets of images drawn from these.
    """

    value: _Figure
    low: _Figure
    high: _Figure


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """How good a model is at one class.

    Attributes:
        boxes: how many there are of it.
        images: how many images show it.
    """

    name: str
    boxes: int
    images: int
    scores: dict[Metric, Score]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an evaluation depends on: two with the same settings find the same.

    Attributes:
        model: SHA-256 of the weights.
        dataset: the digest of the dataset.
        imgsz: the edge of the square that images are scaled to, in pixels.
        draws: how many sets of images were drawn.
        seed: which ones.
        version: of the way in which it is done.
    """

    model: str
    dataset: str
    imgsz: int
    draws: int
    seed: int
    version: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How good a model is on the test images of a dataset.

    Attributes:
        dataset: its name.
        classes: of the model.
        images: how many there were; with none there are no scores.
        boxes: how many were to be found.
        scores: over all classes that the images show.
        per_class: the classes that the images show.
        draws: for each metric, its value on each set of images that was drawn. The same settings draw the same sets, so
            two models can be compared draw by draw.
        confidence: at which precision and recall are given, the one with the best F1; None without a score.
        job: which job has found it.
        time: wall-clock seconds.
    """

    settings: Settings
    dataset: str
    classes: tuple[str, ...]
    images: int
    boxes: int
    scores: dict[Metric, Score]
    per_class: tuple[ClassScores, ...]
    draws: dict[Metric, tuple[float, ...]]
    confidence: float | None
    device: str
    job: int
    time: float


def read(model: ModelFolder, dataset: str) -> Evaluation | None:
    """The evaluation of a model on a dataset; None if there has been none.

    Raises:
        EvaluationError: it cannot be read.
    """
    path = model.evaluation(dataset)
    try:
        return msgspec.convert(files.read_json(path), Evaluation)
    except FileNotFoundError:
        return None
    except (OSError, files.FileError, msgspec.ValidationError) as error:
        raise EvaluationError(f"{path} cannot be read: {error}. Evaluate the model again") from error


def write(model: ModelFolder, found: Evaluation) -> None:
    """Put an evaluation beside its model, durably; an earlier one on the same dataset makes way."""
    files.make_folder(model.evaluations)
    files.write_json(model.evaluation(found.dataset), asdict(found))


def names(model: ModelFolder) -> list[str]:
    """The datasets on which a model has been evaluated."""
    return sorted(path.stem for path in model.evaluations.glob("*.json")) if model.evaluations.is_dir() else []
