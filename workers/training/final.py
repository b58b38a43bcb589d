"""The end of a run: the best checkpoint becomes the model, and is judged by images it has never learned from.

Both steps change no checkpoint, so that they can be repeated after any death.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ultralytics.utils.callbacks import get_default_callbacks
from ultralytics.utils.torch_utils import strip_optimizer

from azaion import failpoints, files
from azaion.layout import RunFolder
from workers.training.checkpoint import Checkpoint
from workers.training.errors import CheckpointError
from workers.training.judgement import Judge, harmless
from workers.training.reporter import Reporter
from workers.training.trainer import readable

#: Arguments of the training that the judgement shares.
_SHARED: Final = (
    *("data", "imgsz", "workers", "device", "iou", "max_det", "single_cls", "agnostic_nms", "plots"),
    *("channels_last", "cache", "seed", "deterministic", "verbose"),
)


def strip(best: Checkpoint, run: RunFolder) -> Path:
    """Write the model: ``best`` without the optimizer, in half precision. Complete or absent."""
    # torch refuses a name that has nothing but a suffix; nobody else writes here.
    temporary = run.final.with_name(f"{files.TEMPORARY_PREFIX}{run.final.name}")
    try:
        if not strip_optimizer(best.path, s=str(temporary)):
            raise CheckpointError(f"{best.path} holds no model")
        files.fsync_file(temporary)
        failpoints.hit("final.written")
        files.rename(temporary, run.final)
    finally:
        temporary.unlink(missing_ok=True)
    return run.final


def judge(model: Path, arguments: Mapping[str, Any], run: RunFolder, reporter: Reporter) -> dict[str, float]:
    """Validate ``model`` on the validation images, and keep what a report wants to know of that."""
    callbacks = get_default_callbacks()
    callbacks["on_val_start"].append(
        lambda validator: reporter.phase("validating", batches=len(validator.dataloader)),
    )
    callbacks["on_val_batch_end"].append(lambda _validator: reporter.batch())
    settings = {name: arguments[name] for name in _SHARED if name in arguments}
    # The same batches as in training: rectangular, twice the size.
    settings |= {"mode": "val", "split": "val", "model": str(model), "rect": True, "batch": arguments["batch"] * 2}
    if arguments["amp"]:
        settings["quantize"] = 16  # as in training; twice the memory might not be there
    validator = Judge(save_dir=run.train, args=settings, _callbacks=callbacks)
    try:
        metrics = readable(validator(model=str(model)))
        with harmless("the judgement of each class"):
            files.write_json(run.judgement, validator.judgement(), durable=False)
        return metrics
    finally:
        if validator.dataloader is not None:
            validator.dataloader.close()
