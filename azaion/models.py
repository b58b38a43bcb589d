"""The registry of trained models: dated folders, complete or absent, and a link to the one in use."""

import errno
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from typing import Any, Final

from azaion import failpoints
from azaion import files as durable
from azaion.errors import AzaionError
from azaion.layout import Layout, ModelFolder

_NAME: Final = re.compile(r"azaion-(\d{4}-\d{2}-\d{2})(?:-(\d+))?")
_KEY: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")

#: `rename` says so where the name is taken.
_TAKEN: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})

logger = logging.getLogger(__name__)


class ModelError(AzaionError):
    """A model is missing, unreadable or cannot be registered."""


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


def promote(layout: Layout, name: str) -> Model:
    """Put a model to use: ``models/azaion.pt`` leads to it from now on, durably.

    Rolling back is promoting an older one. An ``azaion.pt`` that is a file (of the system before this one) is
    registered as a model of its own first.

    Raises:
        ModelError: there is no such model, or its weights are gone or damaged; what is in use stays so.
    """
    model = load(layout, name)
    try:
        whole = model.card["weights"]["sha256"] == durable.sha256(model.weights)
    except (OSError, KeyError, TypeError) as error:
        raise ModelError(f"the weights of {name} cannot be checked: {error}. Promote another model") from error
    if not whole:
        raise ModelError(f"the weights of {name} are not those that were registered: promote another model")
    link = layout.current_model
    if link.is_dir() and not link.is_symlink():
        raise ModelError(f"{link} is a folder: move it away, then promote {name} again")
    if link.is_file() and not link.is_symlink():
        _keep_legacy(layout, link)
    durable.switch_link(link, f"{model.name}/{model.weights.name}")
    failpoints.hit("models.switched")
    return model


def load(layout: Layout, name: str) -> Model:
    """The model of this name.

    Raises:
        ModelError: there is none, or its card cannot be read.
    """
    folder = layout.model(name)
    if not _NAME.fullmatch(name) or not folder.path.is_dir():
        known = ", ".join(_names(layout)) or "none yet"
        raise ModelError(f"there is no model {name!r}; there are: {known}")
    try:
        return Model(name=name, path=folder.path, card=durable.read_json(folder.card))
    except (OSError, durable.FileError) as error:
        raise ModelError(f"the card of {name} cannot be read: {error}") from error


def load_all(layout: Layout) -> list[Model]:
    """Every model, the oldest first. One whose card cannot be read is left out, and logged."""
    found = []
    for name in _names(layout):
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


def _keep_legacy(layout: Layout, file: Path) -> None:
    """Copied, not moved: at no moment is there no model in use."""
    digest = durable.sha256(file)
    register(
        layout,
        key=f"legacy-{digest[:32]}",
        attempt=1,
        weights=file,
        card={"metrics": {}, "lineage": {"origin": f"found as {file.name} of the system before this one"}},
        files={},
        today=datetime.fromtimestamp(file.stat().st_mtime, UTC).date(),
    )


def _names(layout: Layout) -> list[str]:
    """The names of the models there are, the oldest first."""
    paths = layout.models.iterdir() if layout.models.is_dir() else ()
    matches = [match for path in paths if path.is_dir() and (match := _NAME.fullmatch(path.name))]
    return [match[0] for match in sorted(matches, key=lambda match: (match[1], int(match[2] or 1)))]
