"""One attempt at an evaluation, from the spec to the verdict.

It may be broken off anywhere: what is evaluated already is not evaluated again, and no verdict promotes a model twice.
"""

import logging
import time
from contextlib import suppress
from pathlib import Path

import yaml

from azaion import dataset, declarations, failpoints, files, gate, models
from azaion.dataset import Snapshot, Split
from azaion.declarations.gate import GateDeclaration, Metric
from azaion.errors import AzaionError
from azaion.evaluation import Evaluation
from azaion.gate import Judged, Outcome, Verdict
from azaion.layout import AttemptFolder, Layout, ModelFolder
from azaion.models import MeanwhileError, Model, Why
from azaion.settings import Config
from workers import subject
from workers.attempt import Account
from workers.evaluation import contender
from workers.evaluation.finding import Finding
from workers.evaluation.spec import Spec
from workers.training import data, environment, nms
from workers.training.errors import DataError, SpecError
from workers.training.reporter import Reporter
from workers.training.stop import StopSwitch

logger = logging.getLogger(__name__)


class Session:
    """One attempt at an evaluation."""

    def __init__(self, spec: Spec, folder: AttemptFolder, stop: StopSwitch) -> None:
        self.nonce = spec.nonce
        self.resumption = "another attempt begins again"
        self.account = Account()
        self._spec = spec
        self._run = spec.run_folder
        self.scratch: Path | None = self._run.path
        self._reporter = Reporter(folder)
        self._stop = stop

    def run(self) -> None:
        """Score the model; where a gate is asked for, the one in use as well, and decide.

        Raises:
            Interrupted: we were asked to stop.
            Exception: `workers.training.failures` says what each means.
        """
        self._reporter.phase("starting")
        settings = subject.configuration(self._spec.config)
        layout, wanted = settings.layout, self._spec.evaluate
        model = subject.find(layout, of=wanted.of, name=wanted.model)
        rules = _rules(settings) if wanted.gate else None
        if rules is not None and models.promoted(layout, self._spec.uid):
            # An earlier attempt has, and died after it. Somebody may have rolled back since.
            self._tell(model, None, Verdict(outcome=Outcome.PROMOTED, reason=_reason(model)))
            return
        environment.prepare(self._run)
        nms.provide()
        environment.settle(self._run)
        snapshot = _snapshot(layout, wanted.dataset, model)
        images, description = self._view(snapshot)
        if not images and rules is None:
            raise DataError(f"the dataset {snapshot.name} has no test images: wait for more media, or name another")
        find = Finding(
            settings=settings,
            snapshot=snapshot,
            description=description if images else None,
            folder=self._run.train,
            reporter=self._reporter,
            job=self._spec.job,
        )
        chosen = contender.of_model(model, settings)
        found = find(chosen)
        if rules is None:
            self._tell(model, found, None)
            return
        verdict = self._decide(settings, rules, Judged(name=model.name, found=found), find)
        self._tell(model, found, verdict)

    def _view(self, snapshot: Snapshot) -> tuple[int, Path]:
        """How many test images there are, and what the validator reads first."""
        self._reporter.phase("dataset")
        try:
            description = dataset.view(snapshot, self._run.dataset, (Split.TEST,))
        except (AzaionError, FileNotFoundError) as error:
            raise DataError(str(error)) from error
        folder = f"{Split.TEST}/images"
        names = dict(enumerate(snapshot.manifest["classes"]))
        # Ultralytics insists on the other two sides.
        sides = dict.fromkeys(("train", "val", "test"), folder)
        told = {"path": str(self._run.dataset.absolute()), **sides, "nc": len(names), "names": names}
        description.write_text(yaml.safe_dump(told, allow_unicode=True, sort_keys=False), encoding="utf-8")
        count = sum(1 for _ in (self._run.dataset / folder).iterdir())
        if count:
            data.check(description, self._run)
        return count, description

    def _decide(self, settings: Config, rules: GateDeclaration, candidate: Judged, find: Finding) -> Verdict:
        """Hold the model against the one in use, write the verdict down, and only then let it take over."""
        layout = settings.layout
        while True:
            name, current = _current(settings, find)
            verdict = gate.decide(rules, candidate, current)
            self._reporter.phase("deciding")
            # What is left takes moments, and a stop in the middle of it would only have it done twice.
            self._stop.hold()
            record = verdict.record(rules, candidate, current)
            whole = {**record, "job": self._spec.job, "key": self._spec.uid, "time": time.time()}
            files.write_json(layout.model(candidate.name).gate, whole)
            failpoints.hit("gate.written")
            if verdict.outcome is Outcome.WAITS or name == candidate.name:
                return verdict
            why = Why(by=f"job {self._spec.job}", reason=verdict.reason, key=self._spec.uid)
            try:
                models.promote(layout, candidate.name, why, instead_of=name)
            except MeanwhileError as error:
                logger.info("%s; deciding again", error)
                self._stop.release()
            else:
                return verdict

    def _tell(self, model: Model, found: Evaluation | None, verdict: Verdict | None) -> None:
        """The last word."""
        scores = {str(metric): score.value for metric, score in found.scores.items()} if found else {}
        self.account.artifacts = {
            "model": model.name,
            "dataset": found.dataset if found else None,
            "images": found.images if found else None,
            **scores,
        }
        parts = []
        if found is not None and scores:
            first = found.scores[Metric.MAP50_95]
            parts.append(
                f"mAP50-95 {first.value:.3f} ({first.low:.3f} to {first.high:.3f}) on {found.images} test images of "
                f"{found.dataset}"
            )
        if verdict is not None:
            promoted = verdict.outcome is Outcome.PROMOTED
            self.account.artifacts |= {"promoted": promoted, "reason": verdict.reason}
            use = "is in use now" if promoted else "waits for `models promote`"
            parts.append(f"{model.name} {use}: {verdict.reason}")
        self.account.message = "; ".join(parts) or "there was nothing to find in the test images"


def _current(settings: Config, find: Finding) -> tuple[str | None, Judged | None]:
    """The model in use, with what is known of it."""
    layout = settings.layout
    name = models.current(layout)
    link = layout.current_model
    if name is None and not link.is_file():
        return None, None
    shown = name or f"{link.name} of the system before this one"
    try:
        if name is not None:
            model = models.load(layout, name)
            if problem := models.damage(model):
                return name, Judged(name=shown, found=None, problem=problem)
            chosen = contender.of_model(model, settings)
        else:
            chosen = contender.of_file(link, shown, settings)
        return name, Judged(name=shown, found=find(chosen))
    except AzaionError as error:
        return name, Judged(name=shown, found=None, problem=str(error))


def _snapshot(layout: Layout, name: str | None, model: Model) -> Snapshot:
    """The dataset to evaluate on."""
    name = name or (model.card.get("dataset") or {}).get("name")
    if name is None:
        raise SpecError(f"{model.name} was not trained here, so it has no dataset of its own: name one with --dataset")
    try:
        return dataset.load(layout, str(name))
    except AzaionError as error:
        raise DataError(str(error)) from error


def _rules(settings: Config) -> GateDeclaration:
    try:
        return declarations.read(settings.daemon.declarations, required=settings.declarations_required).gate
    except AzaionError as error:
        raise SpecError(" ".join(str(error).split())) from error


def _reason(model: Model) -> str:
    """Why a model was promoted, as it was written down."""
    with suppress(OSError, files.FileError):
        return str(files.read_json(ModelFolder(path=model.path).gate).get("reason", ""))
    return ""
