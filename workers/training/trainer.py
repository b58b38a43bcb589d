"""Ultralytics' trainer, made durable and interruptible."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from ultralytics.cfg import get_cfg
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import RANK

from azaion import failpoints
from azaion.layout import RunFolder
from workers.training import curves
from workers.training.checkpoint import Checkpoint, CheckpointStore
from workers.training.errors import BaseModelError, CheckpointError, DataError, SpecError
from workers.training.reporter import Reporter
from workers.training.spec import Parameters
from workers.training.stop import StopSwitch

#: What ultralytics raises, beside torch's out-of-memory errors, on a model or a dataset that it cannot read.
UNREADABLE: Final = (OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, SyntaxError)

#: These follow the job on resume too; ultralytics would take them from the checkpoint.
_FOLLOW_THE_JOB: Final = ("epochs", "amp", "project", "name", "exist_ok")


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """What a trainer talks to."""

    run: RunFolder
    store: CheckpointStore
    stop: StopSwitch
    reporter: Reporter


class Trainer(DetectionTrainer):  # type: ignore[misc] # ultralytics is untyped
    """Trains, and leaves the final validation to `workers.training.final`.

    Every epoch ends with a durable checkpoint; then, and only then, it is reported, and a stop is heeded. An epoch is
    therefore lost by a crash only, and a checkpoint by none.
    """

    last: Any
    best: Any

    def __init__(self, arguments: Mapping[str, Any], wiring: Wiring, start: Checkpoint | None) -> None:
        self._wiring = wiring
        self._start = start
        self._period = int(arguments["save_period"])
        overrides = {**arguments, "save_dir": str(wiring.run.train)}
        if start is not None:
            overrides |= {"model": str(start.path), "resume": str(start.path)}
            if RANK in {-1, 0}:
                curves.cut_back(wiring.run.results, start.generation.epoch)
        super().__init__(overrides=overrides)
        self.save_period = -1  # ultralytics would keep every one of them for ever
        for event, callback in (
            ("on_train_start", Trainer._began),
            ("on_train_epoch_start", Trainer._epoch_began),
            ("on_train_batch_end", Trainer._batch_ended),
            ("on_fit_epoch_end", Trainer._epoch_ended),
        ):
            self.add_callback(event, callback)
        # The validator takes these over; they are called with it, not with us.
        self.add_callback("on_val_start", lambda validator: self._validation_began(validator))  # noqa: PLW0108
        self.add_callback("on_val_batch_end", lambda _validator: wiring.reporter.batch())

    # What ultralytics asks.

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """Take over the checkpoint's arguments, less those that follow the job."""
        job = {name: overrides[name] for name in _FOLLOW_THE_JOB}
        try:
            super().check_resume({name: value for name, value in overrides.items() if name not in job})
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{overrides['resume']} cannot be loaded: {_one_line(error.__cause__ or error)}"
            ) from error
        if self.resume:
            for name, value in job.items():
                setattr(self.args, name, value)

    def get_dataset(self) -> Any:
        """Read the description of the dataset; what is wrong with it is the data's fault."""
        try:
            return super().get_dataset()
        except UNREADABLE as error:
            raise DataError(f"the dataset cannot be used: {_one_line(error)}") from error

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Read the images' names and the labels; what is wrong with them is the data's fault."""
        try:
            return super().build_dataset(img_path, mode, batch)
        except UNREADABLE as error:
            raise DataError(f"the {mode} images cannot be used: {_one_line(error)}") from error

    def setup_model(self) -> Any:
        """Load the weights or build the architecture."""
        try:
            return super().setup_model()
        except UNREADABLE as error:
            kind = BaseModelError if self._start is None else CheckpointError
            raise kind(f"the model {self.args.model} cannot be loaded: {_one_line(error)}") from error

    def resume_training(self, ckpt: Any) -> None:
        """Go on after the checkpoint's epoch. One without its optimizer would silently begin something new."""
        start = self._start
        if start is None:
            return
        if ckpt.get("optimizer") is None or ckpt.get("epoch", -1) + 1 != start.generation.epoch:
            raise CheckpointError(
                f"{start.path} is no checkpoint of epoch {start.generation.epoch} that can be resumed"
            )
        super().resume_training(ckpt)
        self.best_fitness = self._wiring.store.best(start).generation.fitness

    def save_model(self) -> bool:
        """Save the epoch's checkpoint durably; see `workers.training.checkpoint`."""
        self._wiring.reporter.phase("saving")
        taken = _Sink()
        paths: Any = (self.last, self.best)
        self.last = self.best = taken
        try:
            super().save_model()
        finally:
            self.last, self.best = paths
        self._wiring.store.save(
            taken.data,
            epoch=self.epoch + 1,
            epochs=self.epochs,
            fitness=None if self.fitness is None else float(self.fitness),
            best=bool(self.best_fitness == self.fitness),
            finished=bool(self.stop),
            period=self._period,
        )
        return True

    def final_eval(self) -> None:
        """Nothing: ultralytics would strip the last checkpoint in place. See `workers.training.final`."""

    def close(self) -> None:
        """End the processes that load images; they would outlive us by seconds."""
        for name in ("train_loader", "test_loader"):
            if (loader := getattr(self, name, None)) is not None:
                loader.close()

    # What happens meanwhile.

    def _began(self) -> None:
        # From here on a stop waits for the end of the epoch.
        self._wiring.stop.hold()

    def _epoch_began(self) -> None:
        self._wiring.reporter.epoch_begins(
            self.epoch + 1,
            epochs=self.epochs,
            batches=len(self.train_loader),
            gpu_mem_gb=self._memory(),
        )

    def _batch_ended(self) -> None:
        failpoints.hit("train.batch")
        self._wiring.reporter.batch()

    def _validation_began(self, validator: Any) -> None:
        self._wiring.reporter.phase("validating", batches=len(validator.dataloader))

    def _epoch_ended(self) -> None:
        metrics = readable({**self.label_loss_items(self.tloss), **(self.metrics or {}), **self.lr})
        self._wiring.reporter.epoch_ends(metrics, gpu_mem_gb=self._memory())
        self._wiring.stop.check()

    def _memory(self) -> float | None:
        return None if self.device.type == "cpu" else round(float(self._get_memory()), 3)


class _Sink:
    """Stands where ultralytics expects a path, and keeps what it would have written there."""

    def __init__(self) -> None:
        self.data = b""

    def write_bytes(self, data: bytes) -> None:
        self.data = data


def check(overrides: Mapping[str, Any]) -> None:
    """Check the values of hyperparameters.

    Raises:
        SpecError: ultralytics would not take them.
    """
    try:
        get_cfg(overrides=dict(overrides))
    except (TypeError, ValueError) as error:
        raise SpecError(f"{_one_line(error)} Mend it and file the job again") from error


def arguments(parameters: Parameters, *, model: str, data: str, run: RunFolder, gpus: int = 1) -> dict[str, Any]:
    """Every argument that ultralytics gets from us; of the GPUs it sees only those of our lease."""
    device = ",".join(map(str, range(gpus))) if torch.cuda.is_available() else "cpu"
    return {
        **parameters.overrides,
        "model": model,
        "data": data,
        "epochs": parameters.epochs,
        "batch": parameters.batch,
        "imgsz": parameters.imgsz,
        "save_period": parameters.save_period,
        "workers": parameters.workers,
        "device": device,
        "amp": _amp(device, parameters.overrides.get("amp", True)),
        "project": str(run.path),
        "name": run.train.name,
        "exist_ok": True,
        "save": True,
        "val": True,
    }


def readable(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Ultralytics' figures under the names that users know: ``metrics/mAP50(B)`` is ``mAP50``. No NaN, no infinity."""
    figures = {name.removeprefix("metrics/").removesuffix("(B)"): float(value) for name, value in metrics.items()}
    return {name: round(value, 5) for name, value in figures.items() if math.isfinite(value)}


def _amp(device: str, wanted: Any) -> Any:
    """The precision: fp16 would make ultralytics fetch a model from the network to try it with, bf16 needs no trial."""
    if device == "cpu" or wanted in (False, "fp32"):
        return False
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else False


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
