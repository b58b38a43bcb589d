"""What a worker is told of its attempt: the part that all kinds of jobs share."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from azaion import files
from azaion.layout import AttemptFolder, RunFolder
from workers.training.errors import SpecError

Positive = Annotated[int, msgspec.Meta(ge=1)]

_Spec = TypeVar("_Spec", bound="Assignment")


class Assignment(msgspec.Struct, kw_only=True, frozen=True):
    """What the daemon wrote for this attempt; it may hold more than the worker needs."""

    protocol: Literal[1]
    job: Positive
    uid: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_-]{1,64}\Z")]
    nonce: str
    config: str
    run: str

    @property
    def run_folder(self) -> RunFolder:
        """Where the work is done."""
        return RunFolder(path=Path(self.run).absolute())


def load(folder: AttemptFolder, kind: type[_Spec]) -> _Spec:
    """Read and check the spec of an attempt.

    Raises:
        SpecError: it is missing, unreadable or asks for something that cannot be done; says what.
    """
    try:
        return msgspec.convert(files.read_json(folder.spec), kind)
    except (OSError, files.FileError, msgspec.ValidationError) as error:
        raise SpecError(f"{folder.spec}: {error}. File the job again with this setting mended") from None
