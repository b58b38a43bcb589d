"""What the job asks for, checked before anything heavy is loaded."""

from typing import Annotated, Any, Literal

import msgspec

from azaion.layout import AttemptFolder
from workers import assignment
from workers.assignment import Assignment, Positive
from workers.training.errors import SpecError

#: What a user may set beside the job's own parameters, by ultralytics' names.
HYPERPARAMETERS = frozenset(
    {
        *(
            "patience",
            "cache",
            "optimizer",
            "seed",
            "deterministic",
            "single_cls",
            "rect",
            "cos_lr",
            "close_mosaic",
            "amp",
        ),
        *(
            "fraction",
            "freeze",
            "multi_scale",
            "compile",
            "channels_last",
            "cls_remap",
            "pretrained",
            "dropout",
            "verbose",
        ),
        *("iou", "max_det", "agnostic_nms", "plots", "lr0", "lrf", "momentum", "weight_decay", "nbs"),
        *("warmup_epochs", "warmup_momentum", "warmup_bias_lr", "box", "cls", "cls_pw", "dfl"),
        *(
            "hsv_h",
            "hsv_s",
            "hsv_v",
            "degrees",
            "translate",
            "scale",
            "shear",
            "perspective",
            "flipud",
            "fliplr",
            "bgr",
        ),
        *("mosaic", "mixup", "cutmix", "copy_paste", "copy_paste_mode", "auto_augment", "erasing"),
    }
)

#: In any case, as ultralytics takes them.
OPTIMIZERS = frozenset({"auto", "sgd", "musgd", "adam", "adamax", "adamw", "nadam", "radam", "rmsprop"})

#: What the product decides itself: these would move files, download, or break resuming.
DECIDED = frozenset(
    {
        *("task", "mode", "model", "data", "epochs", "batch", "imgsz", "save_period", "workers", "device"),
        *("project", "name", "exist_ok", "save", "save_dir", "resume", "cfg", "time", "val", "split", "profile"),
        *("quantize", "distill_model", "augmentations", "source"),
    }
)


class Parameters(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The parameters of a run.

    Attributes:
        model: the model to begin with, see `workers.training.base_model.resolve`.
        epochs: how many epochs.
        batch: images a batch.
        imgsz: the edge of the square that images are scaled to.
        save_period: keep a checkpoint every so many epochs; nothing is kept where it is below 1.
        workers: processes that load images (none on a CPU, which has better to do).
        dataset: the snapshot's name, None to form one.
        promote: whether the model is put to use at the end; if not, an evaluation decides on that.
        overrides: further hyperparameters.
    """

    model: Annotated[str, msgspec.Meta(min_length=1)]
    epochs: Positive
    batch: Positive
    imgsz: Annotated[int, msgspec.Meta(ge=32)]
    save_period: int = -1
    workers: Annotated[int, msgspec.Meta(ge=0)] = 0
    dataset: str | None = None
    promote: bool = True
    overrides: dict[str, Any] = {}


class Spec(Assignment, kw_only=True, frozen=True):
    """What the daemon wrote for an attempt at a training."""

    kind: Literal["train"]
    attempt: Positive
    devices: tuple[str, ...] = ()
    train: Parameters

    @property
    def gpus(self) -> int:
        """How many it trains on; one process serves a CPU as well."""
        return max(1, len(self.devices))


def load(folder: AttemptFolder) -> Spec:
    """Read and check the spec of an attempt.

    Raises:
        SpecError: it is missing, unreadable or asks for something that cannot be done; says what.
    """
    spec = assignment.load(folder, Spec)
    _check_overrides(spec.train.overrides)
    return spec


def _check_overrides(overrides: dict[str, Any]) -> None:
    problems = [
        f"{name} is decided by the job itself" if name in DECIDED else f"{name} is no hyperparameter that can be set"
        for name in overrides
        if name not in HYPERPARAMETERS
    ]
    if not isinstance(overrides.get("pretrained", True), bool):
        problems.append("pretrained is true or false here; the weights to begin with are the job's model")
    if overrides.get("amp", True) not in (True, False, "bf16", "fp32"):
        problems.append("amp is true (bf16 where the GPU has it), false, 'bf16' or 'fp32'")
    if str(overrides.get("optimizer", "auto")).lower() not in OPTIMIZERS:
        problems.append(f"optimizer is one of {', '.join(sorted(OPTIMIZERS))}")
    if problems:
        raise SpecError(f"these settings cannot be used: {'; '.join(problems)}. Leave them out and file the job again")
