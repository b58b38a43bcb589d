"""From a model and a dataset to an evaluation, which lies beside the model afterwards."""

import logging
import time
from pathlib import Path
from typing import Final

from azaion import evaluation, failpoints
from azaion.dataset import Snapshot
from azaion.evaluation import Evaluation, EvaluationError, Settings
from azaion.layout import ModelFolder
from azaion.settings import Config
from workers.evaluation import scoring
from workers.evaluation.contender import Contender
from workers.training.errors import DataError
from workers.training.reporter import Reporter

#: So many sets of images are drawn for the confidence intervals, from this seed.
DRAWS: Final = 200
SEED: Final = 0
#: Raised when the same model would get another score on the same images.
VERSION: Final = 1

logger = logging.getLogger(__name__)


class Finding:
    """Scores models on the test images of one dataset, each only once.

    Args:
        settings: for what no model's card tells.
        snapshot: the dataset.
        description: what the validator reads first; None where there are no test images.
        folder: where ultralytics may write.
        reporter: is told how far we are.
        job: the job's number.
    """

    def __init__(
        self,
        *,
        settings: Config,
        snapshot: Snapshot,
        description: Path | None,
        folder: Path,
        reporter: Reporter,
        job: int,
    ) -> None:
        self._settings = settings
        self._snapshot = snapshot
        self._description = description
        self._folder = folder
        self._reporter = reporter
        self._job = job

    def __call__(self, model: Contender) -> Evaluation:
        """The evaluation of a model, the one beside it if nothing has changed since.

        Raises:
            DataError: the dataset has other classes.
        """
        settings = Settings(
            model=model.sha256,
            dataset=str(self._snapshot.manifest["digest"]),
            imgsz=model.imgsz,
            draws=DRAWS,
            seed=SEED,
            version=VERSION,
        )
        if model.keeps is not None and (known := _known(model.keeps, self._snapshot.name)) is not None:
            if known.settings == settings:
                return known
            logger.info("%s was evaluated in another way before; again", model.name)
        found = self._evaluate(model, settings)
        failpoints.hit("evaluation.made")
        if model.keeps is not None and found.images:
            evaluation.write(model.keeps, found)
            failpoints.hit("evaluation.written")
        return found

    def _evaluate(self, model: Contender, settings: Settings) -> Evaluation:
        from workers.evaluation import validator  # noqa: PLC0415 - must not be imported before `environment.prepare`

        self._reporter.phase("loading")
        names = validator.classes_of(model.weights)
        wanted = tuple(map(str, self._snapshot.manifest["classes"]))
        if names != wanted:
            raise DataError(
                f"the classes of {model.name} ({_brief(names)}) are not those of the dataset {self._snapshot.name} "
                f"({_brief(wanted)}): name a dataset with its classes"
            )
        images: list[scoring.Image] = []
        if self._description is not None:
            images, whole = validator.look(
                model.weights,
                self._description,
                imgsz=model.imgsz,
                batch=model.batch,
                workers=self._settings.training.workers,
                folder=self._folder,
                reporter=self._reporter,
            )
            logger.info("%s on %s, in ultralytics' words: %s", model.name, self._snapshot.name, whole)
        self._reporter.phase("scoring", batches=DRAWS)
        scores = scoring.score(
            images,
            names,
            draws=DRAWS,
            seed=SEED,
            average_precision=validator.average_precision,
            best_confidence=validator.best_confidence,
            progress=self._reporter.step,
        )
        return Evaluation(
            settings=settings,
            dataset=self._snapshot.name,
            classes=names,
            images=len(images),
            boxes=sum(len(image.wanted) for image in images),
            scores=scores.overall if scores else {},
            per_class=scores.per_class if scores else (),
            draws=scores.draws if scores else {},
            confidence=scores.confidence if scores else None,
            device=validator.device(),
            job=self._job,
            time=time.time(),
        )


def _known(model: ModelFolder, name: str) -> Evaluation | None:
    """The evaluation beside a model; one that cannot be read is made anew."""
    try:
        return evaluation.read(model, name)
    except EvaluationError as error:
        logger.warning("%s", error)
        return None


def _brief(names: tuple[str, ...]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 80 else f"{text[:80]}..."  # noqa: PLR2004 - a line of an error
