"""What an export is asked for, checked before anything heavy is loaded."""

from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from workers.assignment import Assignment


class Format(StrEnum):
    """What a model can be written as, by ultralytics' names; each ends as its file does."""

    ONNX = "onnx"
    TENSORRT = "engine"


class Parameters(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The parameters of an export.

    Attributes:
        of: the uid of the training whose model is meant.
        model: the model's name, where there is no such training.
        formats: what to write.
        imgsz: the edge of the square that the exported model takes, in pixels; None for the configuration's.
        half: whether it computes with 16 bits.
        nms: whether overlapping boxes are suppressed in it, so that its output is final.
    """

    of: str | None = None
    model: str | None = None
    formats: Annotated[tuple[Format, ...], msgspec.Meta(min_length=1)] = (Format.ONNX,)
    imgsz: Annotated[int, msgspec.Meta(ge=32, le=16384, multiple_of=32)] | None = None
    half: bool = False
    nms: bool = False


class Spec(Assignment, kw_only=True, frozen=True):
    """What the daemon wrote for an attempt at an export."""

    kind: Literal["export"]
    export: Parameters
