"""Section ``retrain`` of ``azaion.yaml``: when a training is filed by itself."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from cronsim import CronSim, CronSimError
from msgspec import Meta

from azaion.declarations.values import values

_Count = Annotated[int, Meta(ge=1, le=1_000_000_000, description="a whole number above 0")]
_Small = Annotated[int, Meta(ge=1, le=1_000_000, description="a whole number above 0")]
_Pixels = Annotated[int, Meta(ge=32, le=8192, multiple_of=32, description="a multiple of 32, up to 8192")]
_Priority = Annotated[int, Meta(ge=-1000, le=1000, description="a whole number from -1000 to 1000")]
_Overrides = Annotated[dict[str, Any], Meta(description="names with values")]
_Text = Annotated[str, Meta(min_length=1, max_length=200, description="a text")]

_WHERE: Final = "retrain"


@dataclass(frozen=True, kw_only=True)
class RetrainDeclaration:
    """When a training is filed by itself: after so many new annotations, at a time, or at whichever comes first.

    Attributes:
        annotations: so many validated ones that no model has been trained on.
        cron: a time, as crontab(5) writes it, in UTC: ``0 2 * * 0`` is two o'clock on Sundays.
        priority: of the training in the queue.
        model: the base model; this and what follows is the configuration's where it is left out.
        epochs: of the training.
        batch: images in a batch.
        imgsz: image size, in pixels.
        overrides: what else ultralytics is to be told, by its names.
    """

    annotations: _Count | None = None
    cron: _Text | None = None
    priority: _Priority = 0
    model: _Text | None = None
    epochs: _Small | None = None
    batch: _Small | None = None
    imgsz: _Pixels | None = None
    overrides: _Overrides | None = None

    @property
    def on(self) -> bool:
        """Whether any training is filed by itself."""
        return self.annotations is not None or self.cron is not None


def section(given: object, problems: list[str]) -> RetrainDeclaration:
    """What stands below ``retrain``; whatever is wrong joins the problems."""
    if not isinstance(given, dict):
        problems.append("retrain: expected keys with values, such as `annotations: 500`")
        return RetrainDeclaration()
    before = len(problems)
    found = RetrainDeclaration(**values(RetrainDeclaration, given, _WHERE, problems))
    if found.cron is not None:
        try:
            next(CronSim(found.cron, datetime.now(UTC)))
        except (CronSimError, StopIteration) as error:
            reason = str(error) or "there is no such day"
            problems.append(f"retrain.cron: {found.cron!r} is no time that crontab(5) knows: {reason}")
    elif given and found.annotations is None and len(problems) == before:
        problems.append("retrain: says not when; set `annotations: 500`, `cron: 0 2 * * 0`, or both")
    return found
