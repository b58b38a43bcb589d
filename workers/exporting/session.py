"""One attempt at an export, from the spec to the file beside the model.

It may be broken off anywhere: what is beside the model is whole and has been compared, and is not made again.
"""

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final

from azaion import dataset, failpoints, files
from azaion.dataset import Split
from azaion.errors import AzaionError
from azaion.layout import AttemptFolder, ExportFolder, Layout, ModelFolder
from azaion.models import Model
from azaion.progress import ExitCode
from workers import subject
from workers.attempt import Account
from workers.exporting import parity
from workers.exporting.parity import Parity
from workers.exporting.spec import Format, Spec
from workers.training import environment
from workers.training.errors import DataError, TrainingError
from workers.training.reporter import Reporter
from workers.training.stop import StopSwitch

#: So many images are enough to see a difference, and few enough for a processor.
_IMAGES: Final = 16


class ParityError(TrainingError):
    """The exported model does not find what the model finds."""

    exit_code: ClassVar[ExitCode] = ExitCode.PARITY


class Session:
    """One attempt at an export."""

    def __init__(self, spec: Spec, folder: AttemptFolder, stop: StopSwitch) -> None:
        self.nonce = spec.nonce
        self.resumption = "another attempt begins again"
        self.account = Account()
        self._spec = spec
        self._run = spec.run_folder
        self.scratch: Path | None = self._run.path
        self._reporter = Reporter(folder)
        self._stop = stop

    def run(self) -> None:
        """Write the model in every format that is asked for.

        Raises:
            ParityError: one finds something else than the model; says what.
            Interrupted: we were asked to stop.
            Exception: `workers.training.failures` says what each means.
        """
        self._reporter.phase("starting")
        settings = subject.configuration(self._spec.config)
        wanted = self._spec.export
        model = subject.find(settings.layout, of=wanted.of, name=wanted.model)
        imgsz = wanted.imgsz or settings.export.onnx_imgsz
        environment.prepare(self._run)
        records = [self._one(settings.layout, model, kind, imgsz) for kind in wanted.formats]
        self.account.artifacts = {"model": model.name, "path": records[0]["path"], "exports": records}
        self.account.message = "; ".join(_said(model, record) for record in records)

    def _one(self, layout: Layout, model: Model, kind: Format, imgsz: int) -> dict[str, Any]:
        """One format; returns what is known of it."""
        wanted = self._spec.export
        parts = [str(kind), str(imgsz), *(["fp16"] if wanted.half else []), *(["nms"] if wanted.nms else [])]
        target = ModelFolder(path=model.path).export("-".join(parts))
        if (known := _known(target, model)) is not None:
            return known
        from workers.exporting import suppression  # noqa: PLC0415 - must not be imported before `environment.prepare`

        suppression.provide()
        environment.settle(self._run)
        from workers.exporting import exporter  # noqa: PLC0415 - the same, and needs what `suppression` provides

        exporter.check(kind)
        self._reporter.phase("loading")
        paths, source = _images(layout, model)
        # Ultralytics writes beside the weights that it reads.
        copy = self._run.path / model.weights.name
        shutil.copyfile(model.weights, copy)
        self._reporter.phase("exporting")
        file = exporter.export(copy, kind, imgsz=imgsz, half=wanted.half, embedded=wanted.nms)
        failpoints.hit("export.written")
        self._reporter.phase("comparing", batches=len(paths))
        found = self._compare(copy, file, kind, paths, imgsz)
        if found.problem:
            raise ParityError(f"{target.path.name} of {model.name} does not find what the model finds: {found.problem}")
        failpoints.hit("export.compared")
        self._reporter.phase("registering")
        self._stop.hold()
        record = {
            "name": target.path.name,
            "format": str(kind),
            "file": target.file(file.suffix).name,
            "imgsz": imgsz,
            "half": wanted.half,
            "nms": wanted.nms,
            "model": model.name,
            "weights": model.card["weights"]["sha256"],
            "sha256": files.sha256(file),
            "size": file.stat().st_size,
            "parity": {**found.record(), "of": source},
            "job": self._spec.job,
            "time": time.time(),
        }
        _put(target, file, record, temporary=f"{files.TEMPORARY_PREFIX}{self._spec.uid}")
        for left in (copy, file):
            left.unlink(missing_ok=True)
        self._stop.release()
        return {**record, "path": str(target.path / record["file"])}

    def _compare(self, weights: Path, file: Path, kind: Format, paths: Sequence[Path], imgsz: int) -> Parity:
        from workers.exporting import exporter  # noqa: PLC0415 - as above

        wanted = self._spec.export
        pictures = exporter.pictures(paths, imgsz)
        if not pictures:
            raise DataError("none of the images to compare by can be read: look for a failing disk")
        own = exporter.model_look(weights, suppressed=wanted.nms)
        other = exporter.exported_look(file, kind, embedded=wanted.nms)
        reference, exported = [], []
        for picture in pictures:
            reference.append(own(picture))
            exported.append(other(picture))
            self._reporter.batch()
        compare = parity.compare if wanted.nms else parity.compare_places
        return compare(
            reference,
            exported,
            least=parity.floor(reference, embedded=wanted.nms),
            allowed=parity.tolerance(half=wanted.half, imgsz=imgsz),
        )


def _known(target: ExportFolder, model: Model) -> dict[str, Any] | None:
    """The record of an export that is there already and whole."""
    with suppress(OSError, files.FileError, KeyError, TypeError):
        record = files.read_json(target.record)
        file = target.path / Path(record["file"]).name
        whole = record["weights"] == model.card["weights"]["sha256"] and record["sha256"] == files.sha256(file)
        return {**record, "path": str(file)} if whole else None
    return None


def _put(target: ExportFolder, file: Path, record: dict[str, Any], *, temporary: str) -> None:
    """Put an export beside its model: the file and its record, or nothing."""
    building = ExportFolder(path=target.path.with_name(temporary))
    # Left by an earlier attempt that was killed.
    files.remove_tree(building.path)
    try:
        files.make_folder(building.path)
        shutil.copyfile(file, building.path / record["file"])
        files.write_json(building.record, record)
        files.fsync_tree(building.path)
        failpoints.hit("export.copied")
        # One that is damaged makes way; it is of no use to anybody.
        files.remove_tree(target.path)
        files.rename(building.path, target.path)
    except BaseException:
        files.remove_tree(building.path)
        raise
    failpoints.hit("export.registered")


def _images(layout: Layout, model: Model) -> tuple[list[Path], str]:
    """Images to compare by, and where they come from: the model's own dataset, or else those that ultralytics ships."""
    with suppress(AzaionError, OSError, KeyError, TypeError):
        snapshot = dataset.load(layout, str(model.card["dataset"]["name"]))
        for split in (Split.TEST, Split.VALID, Split.TRAIN):
            if found := sorted(snapshot.folder.annotations(split).images.iterdir()):
                return _spread(found), f"{snapshot.name}, {split}"
    from ultralytics.utils import ASSETS  # noqa: PLC0415 - must not be imported before `environment.prepare`

    return _spread(sorted(Path(ASSETS).glob("*.jpg"))), "ultralytics' samples"


def _spread(paths: Sequence[Path]) -> list[Path]:
    """Some of them, from the first to the last."""
    count = min(_IMAGES, len(paths))
    return [paths[place * len(paths) // count] for place in range(count)]


def _said(model: Model, record: dict[str, Any]) -> str:
    found = record["parity"]
    return (
        f"{model.name} as {record['name']}: {found['boxes']} boxes in {found['images']} images deviate by at most "
        f"{found['pixels']:.2f} pixels and {found['confidence']:.4f} in confidence"
    )
