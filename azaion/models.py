"""The registry of trained models: dated folders, complete or absent, and a link to the one in use."""

import contextlib
import errno
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from typing import Any, Final

from azaion import failpoints, promotions
from azaion import files as durable
from azaion.errors import AzaionError
from azaion.layout import Layout, ModelFolder

_NAME: Final = re.compile(r"azaion-(\d{4}-\d{2}-\d{2})(?:-(\d+))?")
_KEY: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")

#: `rename` says so where the name is taken.
_TAKEN: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})

#: What a card may have, each with parts of its own.
_PARTS: Final = ("arguments", "dataset", "lineage", "metrics", "weights")

#: In place of a name: whichever model is in use.
ANY: Final = "*"

logger = logging.getLogger(__name__)


class ModelError(AzaionError):
    """A model is missing, unreadable or cannot be registered."""


class MeanwhileError(ModelError):
    """Another model has been put to use meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A registered model.

    Attributes:
        name: ``azaion-YYYY-MM-DD`` or ``azaion-YYYY-MM-DD-N``.
        path: its folder.
        card: where it came from and how good it is; ``key`` and ``attempt`` say which run made it, ``weights`` holds
            the size and the SHA-256 of the weights.
    """

    name: str
    path: Path
    card: dict[str, Any]

    @property
    def weights(self) -> Path:
        """The weights."""
        return ModelFolder(path=self.path).weights


def register(
    layout: Layout,
    *,
    key: str,
    attempt: int,
    weights: Path,
    card: Mapping[str, Any],
    files: Mapping[str, Path],
    today: date,
) -> Model:
    """Copy a trained model into the registry. It is there completely and durably, or not at all.

    Args:
        layout: where the registry lies; it may be another filesystem than the run's.
        key: what made the model; a second call with the same key returns the model of the first.
        attempt: which attempt of it.
        weights: the weights.
        card: what to know of the model.
        files: more files to keep with it, by the name they get.
        today: the date in its name, UTC.

    Raises:
        ModelError: the registry is absent, or ``key`` cannot be one.
        OSError: on a full disk and the like; the registry is then as it was.
    """
    if not _KEY.fullmatch(key):
        raise ModelError(f"{key!r} cannot be a model's key: use letters, digits, '-' and '_'")
    if not layout.root.is_dir():
        raise ModelError(f"{layout.root} is absent: if it lies on a disk of its own, mount that disk")
    if (known := find(layout, key)) is not None:
        # Who registered it may have died before its name was flushed.
        durable.fsync_folder(layout.models)
        return known
    durable.make_folder(layout.models)
    # One name for each key: what a crash left of an earlier copy goes away here.
    temporary = ModelFolder(path=layout.models / f"{durable.TEMPORARY_PREFIX}{key}")
    durable.remove_tree(temporary.path)
    try:
        temporary.path.mkdir()
        shutil.copyfile(weights, temporary.weights)
        for name, source in files.items():
            shutil.copyfile(source, temporary.path / Path(name).name)
        whole = {
            **card,
            "key": key,
            "attempt": attempt,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights": {"size": temporary.weights.stat().st_size, "sha256": durable.sha256(temporary.weights)},
        }
        durable.write_json(temporary.card, whole)
        durable.fsync_tree(temporary.path)
        failpoints.hit("models.copied")
        path = _name(temporary.path, layout, today)
    except BaseException:
        durable.remove_tree(temporary.path)
        raise
    failpoints.hit("models.renamed")
    return Model(name=path.name, path=path, card=whole)


@dataclass(frozen=True, kw_only=True)
class Why:
    """Who puts a model to use, and why.

    Attributes:
        by: the user, or the job.
        reason: one line.
        key: for what must not do it twice: the uid of a job.
    """

    by: str = ""
    reason: str = ""
    key: str = ""


def promote(layout: Layout, name: str, why: Why = Why(), *, instead_of: str | None = ANY) -> Model:
    """Put a model to use: ``models/azaion.pt`` leads to it from now on, durably.

    An ``azaion.pt`` that is a file (of the system before this one) is registered as a model of its own first.

    Args:
        layout: where the registry lies.
        name: the model.
        why: for the history.
        instead_of: the model that must still be in use, as `current` tells it.

    Raises:
        ModelError: there is no such model, or its weights are gone or damaged; what is in use stays so.
        MeanwhileError: another model is in use than ``instead_of``.
        PromotionError: the history cannot be read.
    """
    model = _whole(layout, name)
    with _changing(layout):
        now = current(layout)
        if instead_of not in {ANY, now}:
            raise MeanwhileError(f"{now or 'nothing'} is in use meanwhile, not {instead_of or 'nothing'}")
        _use(layout, model, why, now=now, before=now)
    return model


def rollback(layout: Layout, why: Why = Why()) -> Model:
    """Put the model to use that was before the current one; once more, and it is the one before that.

    Raises:
        ModelError: nobody knows which one that was, or it is gone or damaged; what is in use stays so.
        PromotionError: the history cannot be read.
    """
    with _changing(layout):
        known, now = promotions.read(layout), current(layout)
        name = promotions.before(known, now)
        if name is None:
            raise ModelError(
                f"nobody knows of a model before {now or 'none'}: choose one of `models list` and use `models promote`"
            )
        model = _whole(layout, name)
        earlier = [each for each in known if each.model == name]
        # The entry that is undone tells nothing any more of what to go back to.
        _use(layout, model, why, now=now, before=earlier[-1].before if earlier else None)
    return model


def promoted(layout: Layout, key: str) -> bool:
    """Whether what ``key`` stands for has put a model to use already, durably."""
    known = promotions.read(layout)
    # The last entry may tell of what never happened.
    sure = known if known and known[-1].model == current(layout) else known[:-1]
    if not any(each.key == key for each in sure):
        return False
    # Who did it may have died before that was flushed.
    durable.fsync_folder(layout.models)
    return True


@contextlib.contextmanager
def _changing(layout: Layout) -> Iterator[None]:
    """Be the only one who changes what is in use."""
    with durable.locked(layout.promotions_lock):
        durable.remove_temporaries(layout.models)
        yield


def _whole(layout: Layout, name: str) -> Model:
    """The model of this name, if its weights are those that were registered."""
    model = load(layout, name)
    if problem := damage(model):
        raise ModelError(f"{problem}: promote another model")
    return model


def damage(model: Model) -> str:
    """What is wrong with a model's weights; empty if they are those that were registered."""
    try:
        whole = model.card["weights"]["sha256"] == durable.sha256(model.weights)
    except (OSError, KeyError, TypeError) as error:
        return f"the weights of {model.name} cannot be checked ({type(error).__name__}: {error})"
    return "" if whole else f"the weights of {model.name} are not those that were registered"


def _use(layout: Layout, model: Model, why: Why, *, now: str | None, before: str | None) -> None:
    """Switch the link, and write that down first."""
    link = layout.current_model
    if link.is_dir() and not link.is_symlink():
        raise ModelError(f"{link} is a folder: move it away, then promote {model.name} again")
    if link.is_file() and not link.is_symlink():
        now = before = _keep_legacy(layout, link).name
    if model.name != now:
        entry = promotions.entry(model.name, by=why.by, reason=why.reason, key=why.key, before=before)
        promotions.add(layout, entry)
        failpoints.hit("models.noted")
    durable.switch_link(link, f"{model.name}/{model.weights.name}")
    failpoints.hit("models.switched")


def load(layout: Layout, name: str) -> Model:
    """The model of this name.

    Raises:
        ModelError: there is none, or its card cannot be read.
    """
    folder = layout.model(name)
    if not _NAME.fullmatch(name) or not folder.path.is_dir():
        known = ", ".join(names(layout)) or "none yet"
        raise ModelError(f"there is no model {name!r}; there are: {known}")
    try:
        card = durable.read_json(folder.card)
    except (OSError, durable.FileError) as error:
        raise ModelError(f"the card of {name} cannot be read: {error}") from error
    if wrong := [key for key in _PARTS if not isinstance(card.get(key), dict | None)]:
        raise ModelError(f"{folder.card} is damaged ({', '.join(wrong)}): restore it from a backup")
    return Model(name=name, path=folder.path, card=card)


def load_all(layout: Layout) -> list[Model]:
    """Every model, the oldest first. One whose card cannot be read is left out, and logged."""
    found = []
    for name in names(layout):
        try:
            found.append(load(layout, name))
        except ModelError as error:
            logger.warning("%s", error)
    return found


def find(layout: Layout, key: str) -> Model | None:
    """The model that was registered under ``key``."""
    return next((model for model in load_all(layout) if model.card.get("key") == key), None)


def current(layout: Layout) -> str | None:
    """The name of the model in use, None if there is none, or one that is not of the registry."""
    link = layout.current_model
    if not link.is_symlink():
        return None
    name = link.readlink().parent.name
    return name if _NAME.fullmatch(name) else None


def _name(temporary: Path, layout: Layout, today: date) -> Path:
    for number in count(1):
        path = layout.models / (f"azaion-{today:%Y-%m-%d}" + (f"-{number}" if number > 1 else ""))
        # `rename` would take the place of an empty folder that somebody else made.
        if path.exists():
            continue
        try:
            durable.rename(temporary, path)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        else:
            return path
    raise AssertionError("there is always a next number")


def _keep_legacy(layout: Layout, file: Path) -> Model:
    """Copied, not moved: at no moment is there no model in use."""
    digest = durable.sha256(file)
    return register(
        layout,
        key=f"legacy-{digest[:32]}",
        attempt=1,
        weights=file,
        card={"metrics": {}, "lineage": {"origin": f"found as {file.name} of the system before this one"}},
        files={},
        today=datetime.fromtimestamp(file.stat().st_mtime, UTC).date(),
    )


def names(layout: Layout) -> list[str]:
    """The names of the models there are, the oldest first."""
    paths = layout.models.iterdir() if layout.models.is_dir() else ()
    matches = [match for path in paths if path.is_dir() and (match := _NAME.fullmatch(path.name))]
    return [match[0] for match in sorted(matches, key=lambda match: (match[1], int(match[2] or 1)))]
