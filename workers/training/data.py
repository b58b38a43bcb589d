"""The data that a run learns from: a view of a snapshot, checked before anything is loaded from it."""

from pathlib import Path
from typing import Any, Final

import yaml

from azaion.layout import RunFolder
from workers.training.errors import DataError

#: Nothing else may stand in the file: ultralytics runs ``download:`` as code.
_KEYS: Final = {"path", "train", "val", "test", "nc", "names", "channels"}

_REQUIRED: Final = ("train", "val")


def check(description: Path, run: RunFolder) -> None:
    """Check that the view can be learned from, and delete every cache in it: such a file is a pickle.

    Args:
        description: the view's ``data.yaml``.
        run: the run; the view lies inside, so that what ultralytics writes beside the images stays here too.

    Raises:
        DataError: it cannot; says what to do.
    """
    try:
        value = yaml.safe_load(description.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{description} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict) or not value.keys() <= _KEYS:
        surplus = ", ".join(sorted(set(map(str, value)) - _KEYS)) if isinstance(value, dict) else "no mapping"
        raise DataError(f"{description} holds what no dataset of ours has ({surplus}): form the dataset again")
    if not value.get("names"):
        raise DataError(f"{description} names no classes: put them into classes.json and form the dataset again")
    for split in _REQUIRED:
        folder = _folder(description, value, split)
        if not folder.resolve().is_relative_to(run.path.resolve()):
            raise DataError(
                f"{description}: {split} lies outside the run ({folder.resolve()}), where nothing may be written"
            )
        if not folder.is_dir() or not any(path.is_file() for path in folder.iterdir()):
            raise DataError(
                f"the dataset has no images in {split!r}: a model needs some to learn from and some to be judged by. "
                "Wait for more annotations (of more than one video), or name another dataset",
            )
    for cache in run.dataset.rglob("*.cache"):
        cache.unlink()


def _folder(description: Path, value: dict[str, Any], split: str) -> Path:
    folder = value.get(split)
    if not isinstance(folder, str):
        raise DataError(f"{description} names no folder for {split!r}: form the dataset again")
    return description.parent / str(value.get("path") or ".") / folder
