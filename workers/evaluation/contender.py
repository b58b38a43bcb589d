"""A model that is to be scored, whether of the registry or not."""

from dataclasses import dataclass
from pathlib import Path

from azaion import files
from azaion.layout import ModelFolder
from azaion.models import Model
from azaion.settings import Config


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model that is to be scored.

    Attributes:
        sha256: of the weights.
        imgsz: the edge of the square that images are scaled to, in pixels.
        batch: images at once, as many as fitted into the memory when it was trained.
        keeps: where its evaluations are kept; None for the file of the system before this one.
    """

    name: str
    weights: Path
    sha256: str
    imgsz: int
    batch: int
    keeps: ModelFolder | None


def of_model(model: Model, settings: Config) -> Contender:
    """A model of the registry, at the image size that it was trained with."""
    told = model.card.get("arguments") or {}
    return Contender(
        name=model.name,
        weights=model.weights,
        sha256=str(model.card["weights"]["sha256"]),
        imgsz=int(told.get("imgsz", settings.training.imgsz)),
        batch=int(told.get("batch", settings.training.batch_size)),
        keeps=ModelFolder(path=model.path),
    )


def of_file(file: Path, name: str, settings: Config) -> Contender:
    """A file of the system before this one, of which nothing is known."""
    return Contender(
        name=name,
        weights=file,
        sha256=files.sha256(file),
        imgsz=settings.training.imgsz,
        batch=settings.training.batch_size,
        keeps=None,
    )
