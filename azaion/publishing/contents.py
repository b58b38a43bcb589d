"""What of a model consumers get."""

from pathlib import Path
from typing import Final

import msgspec

from azaion import files
from azaion.gate import Outcome
from azaion.layout import ExportFolder, ModelFolder
from azaion.models import Model, damage
from azaion.publishing.errors import PublishingError
from azaion.settings import Config

#: In place of the name of an export.
WEIGHTS: Final = "weights"


class ContentsError(PublishingError):
    """A model has no such file, or it is not what was made."""


def source(settings: Config, model: Model, export: str | None = None) -> Path:
    """The file that consumers get, checked against what is recorded of it.

    Args:
        settings: say which ONNX export counts.
        model: the model.
        export: the name of one of its exports, or ``weights``; None is ONNX if it has been exported, else the weights.

    Raises:
        ContentsError: there is no such export, or the file is not what was made.
    """
    folder = ModelFolder(path=model.path)
    usual = f"onnx-{settings.export.onnx_imgsz}"
    if export is None:
        export = usual if folder.export(usual).path.is_dir() else WEIGHTS
    if export != WEIGHTS:
        return _exported(folder, model, export)
    if problem := damage(model):
        raise ContentsError(f"{problem}: publish another model")
    return model.weights


def check(model: Model, export: str | None) -> None:
    """See whether a model has such an export; nothing is read.

    Raises:
        ContentsError: it has not.
    """
    folder = ModelFolder(path=model.path)
    there = sorted(path.name for path in folder.exports.iterdir()) if folder.exports.is_dir() else []
    known = [*(each for each in there if not each.startswith(".")), WEIGHTS]
    if export is not None and export not in known:
        raise ContentsError(
            f"{model.name} has no export {export!r}; there are: {', '.join(known)}; "
            f"`azaionctl models export {model.name}` makes one"
        )


class _Gate(msgspec.Struct, frozen=True):
    outcome: Outcome
    reason: str = ""


def verdict(folder: ModelFolder) -> _Gate | None:
    """What the gate has said of a model; None if it was never asked, or nobody can read it."""
    try:
        return msgspec.convert(files.read_json(folder.gate), _Gate)
    except (OSError, files.FileError, msgspec.ValidationError):
        return None


def _exported(folder: ModelFolder, model: Model, name: str) -> Path:
    check(model, name)
    export: ExportFolder = folder.export(name)
    try:
        record = files.read_json(export.record)
        path = export.path / Path(record["file"]).name
        if record["sha256"] == files.sha256(path):
            return path
    except (OSError, files.FileError, KeyError, TypeError) as error:
        raise ContentsError(f"the export {name} of {model.name} cannot be read: {error}; export it again") from None
    raise ContentsError(f"the export {name} of {model.name} is damaged; export it again")
