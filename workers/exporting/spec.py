"""What an export is asked for, checked before anything heavy is loaded."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from azaion import files
from azaion.layout import AttemptFolder, RunFolder
from workers.training.errors import SpecError
from workers.training.spec import Positive


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


class Spec(msgspec.Struct, kw_only=True, frozen=True):
    """What the daemon wrote for this attempt; it may hold more than the worker needs."""

    protocol: Literal[1]
    kind: Literal["export"]
    job: Positive
    uid: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_-]{1,64}\Z")]
    nonce: str
    config: str
    run: str
    export: Parameters

    @property
    def run_folder(self) -> RunFolder:
        """Where the work is done."""
        return RunFolder(path=Path(self.run).absolute())


def load(folder: AttemptFolder) -> Spec:
    """Read and check the spec of an attempt.

    Raises:
        SpecError: it is missing, unreadable or asks for something that cannot be done; says what.
    """
    try:
        return msgspec.convert(files.read_json(folder.spec), Spec)
    except (OSError, files.FileError, msgspec.ValidationError) as error:
        raise SpecError(f"{folder.spec}: {error}. File the job again with this setting mended") from None
