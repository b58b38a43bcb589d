"""What a publication is asked for, checked before anything is loaded."""

from typing import Literal

import msgspec

from azaion.settings import PublishTarget
from workers.assignment import Assignment


class Parameters(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The parameters of a publication.

    Attributes:
        of: the uid of the training whose model is meant; it is published only if it is the one in use.
        model: the model's name, where there is no such training.
        export: the name of the export that consumers get, or ``weights``; None is ONNX if there is one, else those.
        target: instead of AZAION_PUBLISH_TARGET.
    """

    of: str | None = None
    model: str | None = None
    export: str | None = None
    target: PublishTarget | None = None


class Spec(Assignment, kw_only=True, frozen=True):
    """What the daemon wrote for an attempt at a publication."""

    kind: Literal["publish"]
    publish: Parameters
