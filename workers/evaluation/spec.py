"""What an evaluation is asked for, checked before anything heavy is loaded."""

from typing import Literal

import msgspec

from workers.assignment import Assignment


class Parameters(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The parameters of an evaluation.

    Attributes:
        of: the uid of the training whose model is meant.
        model: the model's name, where there is no such training.
        dataset: the dataset whose test images are used; None for the model's own.
        gate: whether the model may take over from the current one.
    """

    of: str | None = None
    model: str | None = None
    dataset: str | None = None
    gate: bool = False


class Spec(Assignment, kw_only=True, frozen=True):
    """What the daemon wrote for an attempt at an evaluation."""

    kind: Literal["evaluate"]
    evaluate: Parameters
