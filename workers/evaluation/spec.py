"""What an evaluation is asked for, checked before anything heavy is loaded."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from azaion import files
from azaion.layout import AttemptFolder, RunFolder
from workers.training.errors import SpecError
from workers.training.spec import Positive


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


class Spec(msgspec.Struct, kw_only=True, frozen=True):
    """What the daemon wrote for this attempt; it may hold more than the worker needs."""

    protocol: Literal[1]
    kind: Literal["evaluate"]
    job: Positive
    uid: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_-]{1,64}\Z")]
    nonce: str
    config: str
    run: str
    evaluate: Parameters

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
