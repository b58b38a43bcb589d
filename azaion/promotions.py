"""Which model was put to use when, by whom and why: what a rollback goes by.

The link ``models/azaion.pt`` is the truth, this is its history. It is written before the link is switched, so an entry
may tell of what a crash has kept from happening. A link that somebody has switched by hand has no entry.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import msgspec

from azaion import files
from azaion.errors import AzaionError
from azaion.layout import Layout

#: More than anybody rolls back.
_KEPT: Final = 1000


class PromotionError(AzaionError):
    """The history cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """One model put to use.

    Attributes:
        model: its name.
        time: wall-clock seconds.
        by: the user, or the job.
        reason: one line.
        before: the model that a rollback leads to; None if there was none.
        key: what put it to use once and must not do so again (the uid of a job); empty for people.
    """

    model: str
    time: float
    by: str
    reason: str
    before: str | None
    key: str = ""


class _Document(msgspec.Struct):
    promotions: list[Promotion] = []


def read(layout: Layout) -> tuple[Promotion, ...]:
    """Every promotion, the oldest first.

    Raises:
        PromotionError: the file cannot be read.
    """
    try:
        return tuple(msgspec.convert(files.read_json(layout.promotions), _Document).promotions)
    except FileNotFoundError:
        return ()
    except (OSError, files.FileError, msgspec.ValidationError) as error:
        raise PromotionError(
            f"{layout.promotions} cannot be read: {error}. Move it away; then only `models promote` puts one to use"
        ) from error


def latest(promotions: Sequence[Promotion], model: str | None) -> Promotion | None:
    """The entry that has put ``model`` to use the last time."""
    return next((each for each in reversed(promotions) if each.model == model), None)


def before(promotions: Sequence[Promotion], current: str | None) -> str | None:
    """Which model was in use before ``current``; None if nobody knows.

    Where the link was switched by hand, it is the one that was put to use last.
    """
    if (entry := latest(promotions, current)) is not None:
        return entry.before
    return promotions[-1].model if promotions else None


def add(layout: Layout, entry: Promotion) -> None:
    """Write down that a model is about to be put to use, durably."""
    kept = (*read(layout), entry)[-_KEPT:]
    files.write_json(layout.promotions, {"promotions": [asdict(each) for each in kept]})


def entry(model: str, *, by: str, reason: str, before: str | None, key: str = "") -> Promotion:
    """An entry of now."""
    return Promotion(model=model, time=time.time(), by=by, reason=reason, before=before, key=key)
