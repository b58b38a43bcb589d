"""Section ``gate`` of ``azaion.yaml``: when a new model may take over by itself."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from azaion.declarations.values import values

_Share = Annotated[float, Meta(ge=-1, le=1, description="a number from -1 to 1")]
_Count = Annotated[int, Meta(ge=0, le=1_000_000, description="a whole number")]
_Flag = Annotated[bool, Meta(description="true or false")]

_WHERE: Final = "gate"


class Metric(StrEnum):
    """What a model is judged by."""

    MAP50_95 = "map50_95"
    MAP50 = "map50"
    PRECISION = "precision"
    RECALL = "recall"


@dataclass(frozen=True, kw_only=True)
class GateDeclaration:
    """When a new model may take over by itself.

    Attributes:
        metric: what both models are compared by, on the same test images.
        margin: how much worse than the current one it may be. Below 0: how much better it must be.
        minimum_images: with fewer test images nothing can be said.
        automatic: whether any model takes over by itself.
    """

    metric: Metric = Metric.MAP50_95
    margin: _Share = 0.01
    minimum_images: _Count = 20
    automatic: _Flag = True


def section(given: object, problems: list[str]) -> GateDeclaration:
    """What stands below ``gate``; whatever is wrong joins the problems."""
    if not isinstance(given, dict):
        problems.append("gate: expected keys with values, such as `margin: 0.01`")
        return GateDeclaration()
    return GateDeclaration(**values(GateDeclaration, given, _WHERE, problems))
