"""What a report tells of. Whatever is not there is `Absent`, and says why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Absent:
    """Something that is not there.

    Attributes:
        why: in one sentence for people, with what to do if there is something.
    """

    why: str


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """An epoch that was done; its checkpoint is durable.

    Attributes:
        number: from 1.
        ended: None if nobody has written that down.
        seconds: how long it took, with its validation.
        metrics: by the names that users know.
    """

    number: int
    ended: datetime | None = None
    seconds: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of the job.

    Attributes:
        cause: why it ended otherwise than well; see docs/jobs.md.
        resumed_from: how many epochs it found done.
        epochs: that it did, in their order; empty where its folder is gone.
        surroundings: versions, processor, GPU and host, as the worker wrote them down.
    """

    number: int
    started: datetime | None = None
    ended: datetime | None = None
    exit_code: int | None = None
    cause: str | None = None
    resumed_from: int | None = None
    epochs: tuple[Epoch, ...] = ()
    surroundings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job:
    """The training.

    Attributes:
        epochs: how many were asked for; 0 if nobody knows.
        wished: its parameters, as it was filed.
    """

    id: int
    name: str
    state: str
    cause: str | None = None
    reason: str = ""
    owner: str = ""
    created: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    epochs: int = 0
    eta_s: float | None = None
    wished: Mapping[str, Any] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model that came of it."""

    name: str
    in_use: bool
    best_epoch: int
    epochs: int
    metrics: Mapping[str, float]
    base: str = ""
    previous: str | None = None


@dataclass(frozen=True, kw_only=True)
class JudgedClass:
    """How the finished model does at one class on the validation images.

    Attributes:
        curve: the precision at evenly spaced recalls from 0 to 1, at IoU 0.5.
        ap50: average precision at IoU 0.5; ``ap``: the mean from 0.5 to 0.95.
    """

    number: int
    boxes: int
    images: int
    precision: float
    recall: float
    ap50: float
    ap: float
    curve: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How the finished model does on the validation images, as ``workers/training/judgement.py`` writes it.

    Attributes:
        confusion: found class, true class, how often; the number after the last class is the background.
        confidence: boxes that are less sure do not count in ``confusion``.
        overlap: boxes that overlap by so much (IoU) are the same there.
    """

    images: int
    confidence: float
    overlap: float
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, int, int], ...]
    per_class: tuple[JudgedClass, ...]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of the dataset, as its manifest has it."""

    name: str
    images: int
    boxes: int
    background: int
    counts: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Balance:
    """What the dataset is made of.

    Attributes:
        per_image: how many images have 0, 1, 2, ... boxes; of those that were looked at.
        sizes: the edge of each box as a part of the image's (square root of its area), in twentieths, counted.
        looked_at: how many labels were read for ``per_image`` and ``sizes``.
    """

    name: str
    sides: tuple[Side, ...]
    classes: tuple[str, ...]
    corrupted: int = 0
    per_image: Mapping[int, int] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()
    looked_at: int = 0
    images: int = 0


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box, its edges in parts of the image's width and height; ``confidence`` is None for what is true."""

    number: int
    left: float
    top: float
    right: float
    bottom: float
    confidence: float | None = None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image with what is in it and what was found.

    Attributes:
        jpeg: the picture, made small.
    """

    name: str
    width: int
    height: int
    jpeg: bytes
    truth: tuple[Box, ...]
    found: tuple[Box, ...]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Some images of one side of the dataset, with what the model found in them."""

    side: str
    model: str
    classes: tuple[str, ...]
    confidence: float
    samples: tuple[Sample, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class OnTest:
    """How the model does on test images, with the interval that holds 95 in 100 draws."""

    dataset: str
    images: int
    scores: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All of a report.

    Attributes:
        made: when it was made.
        epochs_note: what is missing in the curves; empty if nothing is.
        older: epochs without an attempt, of a run whose attempts are gone.
    """

    made: datetime
    release: str
    job: Job
    attempts: tuple[Attempt, ...]
    older: tuple[Epoch, ...] = ()
    epochs_note: str = ""
    model: Model | Absent
    judgement: Judgement | Absent
    tested: tuple[OnTest, ...] | Absent
    samples: Samples | Absent
    balance: Balance | Absent
    arguments: Mapping[str, Any] | Absent
