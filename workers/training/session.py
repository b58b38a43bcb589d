"""One attempt at a run, from the spec to the registered model."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from azaion import BUILD, config, dataset, files, models
from azaion.dataset import Snapshot
from azaion.errors import AzaionError
from azaion.layout import AttemptFolder, Layout
from workers.attempt import Account
from workers.training import base_model, data, environment, nms, ranks
from workers.training.checkpoint import Checkpoint, CheckpointStore
from workers.training.errors import CheckpointError, DataError, SpecError
from workers.training.reporter import Reporter
from workers.training.spec import Spec
from workers.training.stop import StopSwitch

logger = logging.getLogger(__name__)


class Session:
    """One attempt at a run.

    It may be broken off anywhere: every step is either done already when the next attempt comes to it, or done again.
    """

    def __init__(self, spec: Spec, folder: AttemptFolder, stop: StopSwitch) -> None:
        self.nonce = spec.nonce
        self.scratch: Path | None = None
        self.resumption = "goes on from the last checkpoint"
        self._account = Account()
        self._store = CheckpointStore(spec.run_folder)
        self._spec = spec
        self._run = spec.run_folder
        self._folder = folder
        self._reporter = Reporter(folder)
        self._stop = stop

    @property
    def account(self) -> Account:
        """What it can say of itself so far."""
        return replace(self._account, verified_epoch=self._store.epoch)

    def run(self) -> None:
        """Train, judge and register; or what of it is left to do.

        Raises:
            Interrupted: we were asked to stop; the next attempt goes on.
            Exception: `workers.training.failures` says what each means.
        """
        self._reporter.phase("starting")
        layout = self._layout()
        if (registered := models.find(layout, self._spec.uid)) is not None:
            self._put_to_use(layout, registered)
            return
        environment.prepare(self._run)
        start = self._store.open()
        self._account.batch = self._spec.train.batch
        self._account.resumed_from_epoch = start.generation.epoch if start else None
        nms.provide()
        environment.settle(self._run)
        self._note_surroundings()
        self._check_overrides()
        if start is None:
            self._choose_base(layout)
        snapshot, description = self._take_data(layout)
        arguments = self._arguments(description)
        if start is None or not start.generation.ends(self._spec.train.epochs):
            self._train(arguments, start)
        self._finish(layout, snapshot, arguments)

    def _layout(self) -> Layout:
        try:
            return config.load(Path(self._spec.config)).layout
        except (AzaionError, OSError) as error:
            raise SpecError(f"the configuration {self._spec.config} cannot be read: {error}") from error

    def _note_surroundings(self) -> None:
        from workers.training import surroundings  # noqa: PLC0415 - must not be imported before `environment.prepare`

        with suppress(OSError):
            files.write_json(self._folder.surroundings, surroundings.facts(), durable=False)

    def _check_overrides(self) -> None:
        from workers.training import trainer  # noqa: PLC0415 - must not be imported before `environment.prepare`

        trainer.check(self._spec.train.overrides)

    def _choose_base(self, layout: Layout) -> None:
        """Write down which model the run begins with, so that later attempts and the model's card know it."""
        base = base_model.resolve(self._spec.train.model, layout, self._run)
        origin = {"path": str(base.path), "source": str(base.source), "sha256": base.sha256}
        files.write_json(self._run.origin, origin)

    def _take_data(self, layout: Layout) -> tuple[Snapshot, Path]:
        self._reporter.phase("dataset")
        with _blamed_on_the_data():
            if self._spec.train.dataset is None:
                snapshot = dataset.form(layout, today=_today(), key=self._spec.uid, progress=self._reporter.step)
            else:
                snapshot = dataset.load(layout, self._spec.train.dataset)
            description = dataset.view(snapshot, self._run.dataset)
        data.check(description, self._run)
        return snapshot, description

    def _arguments(self, description: Path) -> dict[str, Any]:
        from workers.training import trainer  # noqa: PLC0415 - the same

        model = files.read_json(self._run.origin)["path"]
        return trainer.arguments(
            self._spec.train, model=model, data=str(description), run=self._run, gpus=self._spec.gpus
        )

    def _train(self, arguments: dict[str, Any], start: Checkpoint | None) -> None:
        self._reporter.phase("loading")
        if self._spec.gpus > 1:
            try:
                ranks.run(self._folder, arguments, self._spec.gpus, self._stop)
            finally:
                # They have saved checkpoints behind our back.
                with suppress(CheckpointError):
                    self._store.open()
            self._stop.release()
            return
        from workers.training.trainer import Trainer, Wiring  # noqa: PLC0415 - the same

        wiring = Wiring(run=self._run, store=self._store, stop=self._stop, reporter=self._reporter)
        trainer = Trainer(arguments, wiring, start)
        try:
            trainer.train()
        finally:
            # After out-of-memory errors in its first epoch the trainer goes on with a smaller one.
            self._account.batch = trainer.batch_size
            trainer.close()
        self._stop.release()

    def _finish(self, layout: Layout, snapshot: Snapshot, arguments: dict[str, Any]) -> None:
        from workers.training import final  # noqa: PLC0415 - the same

        self._reporter.phase("validating")
        last = self._store.open()
        if last is None:
            raise AssertionError("training ended without a checkpoint")
        best = self._store.best(otherwise=last)
        weights = final.strip(best, self._run)
        metrics = final.judge(weights, arguments, self._run, self._reporter)
        # It reads every image and tells of none, so it is a phase of its own.
        self._reporter.phase("verifying")
        with _blamed_on_the_data():
            damage = dataset.verify(snapshot)
        self._reporter.phase("registering")
        self._reporter.ends(metrics)
        # What is left takes seconds, and a stop in the middle of it would only have it done twice.
        self._stop.hold()
        model = models.register(
            layout,
            key=self._spec.uid,
            attempt=self._spec.attempt,
            weights=weights,
            card={
                "job": self._spec.job,
                "metrics": metrics,
                "epochs": last.generation.epoch,
                "best_epoch": best.generation.epoch,
                "release": BUILD,
                "classes": snapshot.manifest["classes"],
                "arguments": arguments,
                "dataset": {
                    "name": snapshot.name,
                    "path": str(snapshot.path),
                    "digest": snapshot.manifest["digest"],
                    "damage": damage,
                },
                "lineage": {
                    "base": files.read_json(self._run.origin),
                    "previous": models.current(layout),
                },
            },
            files={
                path.name: path
                for path in (self._run.results, self._run.arguments, self._run.judgement)
                if path != self._run.judgement or path.exists()
            },
            today=_today(),
        )
        self._put_to_use(layout, model)

    def _put_to_use(self, layout: Layout, model: models.Model) -> None:
        metrics, origin = model.card["metrics"], model.card["dataset"]
        self._account.artifacts = {
            "model": model.name,
            "path": str(model.weights),
            "dataset": origin["name"],
            "map50": metrics.get("mAP50"),
            "map50_95": metrics.get("mAP50-95"),
        }
        if origin["damage"]:
            raise DataError(
                f"the dataset {origin['name']} was damaged while the run read it ({origin['damage'][0]}; "
                f"{len(origin['damage'])} in all): {model.name} is kept, but not put to use. Look for a failing disk, "
                f"then judge the model and promote it by hand, or train again",
            )
        use = "waits for its evaluation"
        if self._spec.train.promote:
            uid, by = self._spec.uid, f"job {self._spec.job}"
            # Not again after a death: somebody may have rolled back since.
            if not models.promoted(layout, uid):
                models.promote(layout, model.name, models.Why(by=by, reason="trained without a gate", key=uid))
            use = "is in use now"
        self._account.message = (
            f"mAP50 {metrics.get('mAP50', 0):.3f}, mAP50-95 {metrics.get('mAP50-95', 0):.3f} "
            f"after {model.card['epochs']} epochs; {model.name} {use}"
        )


@contextmanager
def _blamed_on_the_data() -> Iterator[None]:
    try:
        yield
    except (AzaionError, FileNotFoundError) as error:
        raise DataError(str(error)) from error


def _today() -> date:
    return datetime.now(UTC).date()
