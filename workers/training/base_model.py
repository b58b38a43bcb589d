"""The model that a run begins with. Never a download."""

import importlib.util
import re
import zipfile
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from azaion import files
from azaion.layout import Layout, RunFolder
from workers.training.errors import BaseModelError

_OURS: Final = Path(__file__).parent

#: ``yolo26m`` is the architecture ``yolo26`` at scale ``m``.
_SCALED: Final = re.compile(r"(?P<family>.*\d)(?P<scale>[a-z])(?P<rest>(-.*)?)")

#: ultralytics evaluates this key as Python.
_EVALUATED: Final = "activation"


class BaseModel(msgspec.Struct, kw_only=True, frozen=True):
    """What to hand to the trainer.

    Attributes:
        path: weights, or an architecture inside the run folder.
        source: the file that it came from.
        sha256: of that file.
    """

    path: Path
    source: Path
    sha256: str


def resolve(name: str, layout: Layout, run: RunFolder) -> BaseModel:
    """Find the model called ``name``.

    Args:
        name: an absolute path; or a file's name, looked up among the models and below the root (weights, ``.pt``), and
            among our architectures and those of ultralytics (``.yaml``).
        layout: where to look.
        run: where an architecture is written down for the trainer.

    Raises:
        BaseModelError: there is no such model, or it cannot be read.
    """
    given = Path(name)
    if given.suffix not in {".pt", ".yaml"}:
        raise BaseModelError(
            f"the model {name!r} is neither weights (.pt) nor an architecture (.yaml): name one of these"
        )
    if not given.is_absolute() and given.name != name:
        raise BaseModelError(f"the model {name!r} is a relative path: give its name alone, or an absolute path")
    source = given if given.is_absolute() else _find(given, layout)
    if source is None or not source.is_file():
        raise BaseModelError(
            f"there is no model {name!r}: put the file into {layout.models} or {layout.root}, as nothing is downloaded",
        )
    source = source.resolve()
    try:
        digest = files.sha256(source)
        if given.suffix == ".pt":
            _check_weights(source)
            path = source
        else:
            path = run.base
            files.replace(path, yaml.safe_dump(_architecture(source, given.stem), sort_keys=False).encode())
    except (OSError, zipfile.BadZipFile, ValueError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise BaseModelError(f"the model {source} cannot be used: {text}. Put a good copy in its place") from error
    return BaseModel(path=path, source=source, sha256=digest)


def _find(name: Path, layout: Layout) -> Path | None:
    candidates = [layout.models / name, layout.root / name]
    if name.suffix == ".yaml":
        candidates.append(_OURS / name)
        stem = _SCALED.fullmatch(name.stem)
        wanted = {name.name, *((f"{stem['family']}{stem['rest']}.yaml",) if stem else ())}
        candidates += sorted(path for path in _shipped().rglob("*.yaml") if path.name in wanted)
    return next((path for path in candidates if path.is_file()), None)


def _shipped() -> Path:
    # Found, not imported: importing ultralytics is slow and writes files.
    package = importlib.util.find_spec("ultralytics")
    if package is None or package.origin is None:
        raise BaseModelError("ultralytics is not installed: pip install 'azaion-training[train]'")
    return Path(package.origin).parent / "cfg" / "models"


def _check_weights(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if torn := archive.testzip():
            raise ValueError(f"it is damaged in {torn}")


def _architecture(path: Path, stem: str) -> dict[str, Any]:
    """The architecture at the one scale that ``stem`` asks for, so that no later reader has to guess it."""
    value = yaml.safe_load(path.read_text())
    if not isinstance(value, dict) or not {"backbone", "head"} <= value.keys():
        raise ValueError("it describes no architecture (backbone and head)")
    if _EVALUATED in value:
        raise ValueError(f"its key {_EVALUATED!r} would be run as code: leave it out")
    if scales := value.get("scales"):
        match = _SCALED.fullmatch(stem)
        scale = match["scale"] if match else next(iter(scales))
        if scale not in scales:
            raise ValueError(f"it has no scale {scale!r}, only {', '.join(scales)}")
        value["scales"] = {scale: scales[scale]}
    return value
