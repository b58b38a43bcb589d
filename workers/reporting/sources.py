"""Reads what there is of a training: the daemon's record, its attempts, its run, its model, its dataset.

Whatever is gone, torn or not there yet becomes `Absent` with the reason; nothing here fails for it.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from azaion import BUILD, dataset, evaluation, files, models
from azaion.dataset import DatasetError, Snapshot
from azaion.errors import AzaionError
from azaion.layout import AttemptFolder, JobFolder, Layout, ModelFolder, RunFolder
from azaion.models import Model
from azaion.report.facts import Absent, Attempt, Balance, Epoch, Facts, Job, Judgement, OnTest, Samples, Side
from azaion.report.facts import Model as ModelFacts
from workers.reporting import labels

#: A million epochs' worth of lines.
_MAX_BYTES: Final = 1 << 28
_MAX_YAML: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where what is known of a training lies."""

    record: Mapping[str, Any]
    layout: Layout
    folder: JobFolder
    model: Model | None
    snapshot: Snapshot | Absent

    @property
    def run(self) -> RunFolder:
        """Its run."""
        return RunFolder(path=self.folder.run)


def open_sources(record: Mapping[str, Any], layout: Layout) -> Sources:
    """Find out where everything lies.

    Args:
        record: the job, as ``show --json`` prints it.
        layout: of the installation.
    """
    folder = JobFolder(path=Path(record["folder"]))
    uid = folder.path.name.partition("-")[2]
    with suppress(AzaionError, OSError):
        model = models.find(layout, uid)
        return Sources(
            record=record, layout=layout, folder=folder, model=model, snapshot=_snapshot(layout, uid, model, folder)
        )
    return Sources(
        record=record, layout=layout, folder=folder, model=None, snapshot=_snapshot(layout, uid, None, folder)
    )


def facts(sources: Sources, samples: Samples | Absent) -> Facts:
    """All that a report tells."""
    attempts = tuple(_attempt(each, sources.folder) for each in sources.record["attempts"])
    older, note = _older(sources, attempts)
    return Facts(
        made=datetime.now(UTC),
        release=BUILD,
        job=_job(sources, attempts),
        attempts=attempts,
        older=older,
        epochs_note=note,
        model=_model(sources),
        judgement=_judgement(sources),
        tested=_tested(sources),
        samples=samples,
        balance=sources.snapshot if isinstance(sources.snapshot, Absent) else _balance(sources.snapshot),
        arguments=_arguments(sources),
    )


def _snapshot(layout: Layout, uid: str, model: Model | None, folder: JobFolder) -> Snapshot | Absent:
    """The dataset of a training: that of its model's card, the one it was filed with, or the one formed for it."""
    name = (model.card.get("dataset") or {}).get("name") if model else _wished(folder).get("dataset")
    try:
        if name:
            return dataset.load(layout, str(name))
        for known in reversed(dataset.names(layout)):
            with suppress(DatasetError):
                snapshot = dataset.load(layout, known)
                if snapshot.manifest["key"] == uid:
                    return snapshot
    except (DatasetError, OSError) as error:
        return Absent(why=f"The dataset {name} cannot be read, or was removed since: {error}")
    return Absent(why="No dataset is known of it: it has not formed one, or that was removed since.")


def _job(sources: Sources, attempts: tuple[Attempt, ...]) -> Job:
    record = sources.record
    progress = record.get("progress") or {}
    wished = _wished(sources.folder)
    overrides = wished.get("overrides") or {}
    given = {name: value for name, value in wished.items() if name != "overrides"} | overrides
    return Job(
        id=record["id"],
        name=record["name"],
        state=record["state"],
        cause=record["cause"],
        reason=record["reason"] or "",
        owner=str(record.get("owner") or ""),
        created=_time(record["created"]),
        started=_time(record["started"]),
        ended=_time(record["ended"]),
        epochs=int(progress.get("epochs") or wished.get("epochs") or _told(sources, attempts)),
        eta_s=progress.get("eta_s"),
        wished=given,
    )


def _told(sources: Sources, attempts: tuple[Attempt, ...]) -> int:
    card = sources.model.card if sources.model else {}
    asked = (card.get("arguments") or {}).get("epochs", 0)
    return int(asked or max((epoch.number for each in attempts for epoch in each.epochs), default=0))


def _wished(folder: JobFolder) -> dict[str, Any]:
    """The parameters of the newest attempt whose spec is there."""
    for path in sorted(folder.path.glob("[0-9]*"), key=lambda path: -int(path.name) if path.name.isdigit() else 0):
        with suppress(OSError, files.FileError):
            wished = files.read_json(AttemptFolder(path=path).spec).get("train")
            if isinstance(wished, dict):
                return wished
    return {}


def _attempt(record: Mapping[str, Any], folder: JobFolder) -> Attempt:
    mine = folder.attempt(record["n"])
    surroundings: dict[str, Any] = {}
    with suppress(OSError, files.FileError):
        surroundings = files.read_json(mine.surroundings)
    return Attempt(
        number=record["n"],
        started=_time(record["started"]),
        ended=_time(record["ended"]),
        exit_code=record["exit_code"],
        cause=record["cause"],
        resumed_from=record["resumed_from_epoch"],
        epochs=tuple(_epochs(mine)),
        surroundings=surroundings,
    )


def _epochs(folder: AttemptFolder) -> Iterator[Epoch]:
    """The epochs that an attempt has reported. A line that was torn by a crash is left out."""
    try:
        lines = files.read_small(folder.metrics, limit=_MAX_BYTES).splitlines()
    except (OSError, files.FileError):
        return
    for line in lines:
        with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, OSError):
            told = json.loads(line)
            ended, took = told.get("time"), told.get("epoch_s")
            yield Epoch(
                number=int(told["epoch"]),
                ended=None if ended is None else datetime.fromtimestamp(float(ended), UTC),
                seconds=None if took is None else float(took),
                metrics=_figures(told.get("metrics") or {}),
            )


def _older(sources: Sources, attempts: tuple[Attempt, ...]) -> tuple[tuple[Epoch, ...], str]:
    """The curves that the model or the run keeps, where the attempts tell of none or not of all."""
    if any(each.epochs for each in attempts):
        return (), ""
    places = [sources.run.results] + ([ModelFolder(path=sources.model.path).results] if sources.model else [])
    for path in places:
        with suppress(OSError, files.FileError, UnicodeDecodeError, csv.Error):
            if epochs := tuple(_rows(files.read_small(path, limit=_MAX_BYTES).decode())):
                return (
                    epochs,
                    "The folders of its attempts are gone: which attempt did which epoch is not known any more.",
                )
    if attempts and sources.record["removed"]:
        return (), "Its folders were removed by retention, and it has left no model that would keep its curves."
    return (), ""


def _rows(text: str) -> Iterator[Epoch]:
    """The epochs of a ``results.csv``."""
    for row in csv.DictReader(io.StringIO(text)):
        with suppress(ValueError, TypeError, KeyError):
            named = {
                str(name).strip().removeprefix("metrics/").removesuffix("(B)"): float(value)
                for name, value in row.items()
            }
            number = int(named.pop("epoch"))
            named.pop("time", None)
            yield Epoch(number=number, metrics=_figures(named))


def _figures(given: Mapping[str, Any]) -> dict[str, float]:
    return {
        str(name): float(value)
        for name, value in given.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _model(sources: Sources) -> ModelFacts | Absent:
    model = sources.model
    if model is None:
        return Absent(why="It has registered no model.")
    lineage = model.card.get("lineage") or {}
    base = lineage.get("base") or {}
    return ModelFacts(
        name=model.name,
        in_use=models.current(sources.layout) == model.name,
        best_epoch=int(model.card.get("best_epoch") or 0),
        epochs=int(model.card.get("epochs") or 0),
        metrics=_figures(model.card.get("metrics") or {}),
        base=str(base.get("source") or "") if isinstance(base, dict) else str(base),
        previous=lineage.get("previous"),
    )


def _judgement(sources: Sources) -> Judgement | Absent:
    places = [ModelFolder(path=sources.model.path).judgement] if sources.model else []
    for path in (*places, sources.run.judgement):
        try:
            return msgspec.convert(files.read_json(path), Judgement)
        except FileNotFoundError:
            continue
        except (OSError, files.FileError, msgspec.ValidationError) as error:
            return Absent(why=f"{path} cannot be read: {error}")
    if sources.model is not None:
        return Absent(
            why="The model was judged before this was kept. The evaluation of a model tells the same of test images."
        )
    if sources.record["state"] in {"succeeded", "failed", "cancelled"}:
        return Absent(why="It has ended before its model was judged on all validation images.")
    return Absent(why="The finished model is judged on all validation images when the last epoch is done.")


def _tested(sources: Sources) -> tuple[OnTest, ...] | Absent:
    if sources.model is None:
        return Absent(why="There is no model to evaluate yet.")
    folder = ModelFolder(path=sources.model.path)
    found = []
    for name in evaluation.names(folder):
        with suppress(evaluation.EvaluationError):
            if (told := evaluation.read(folder, name)) is not None:
                scores = {str(metric): (score.value, score.low, score.high) for metric, score in told.scores.items()}
                found.append(OnTest(dataset=told.dataset, images=told.images, scores=scores))
    return tuple(found) or Absent(why="It has not been evaluated on test images.")


def _balance(snapshot: Snapshot) -> Balance | Absent:
    manifest = snapshot.manifest
    try:
        # Of each class, by its number, the boxes on each side.
        counts, classes = manifest["class_counts"], tuple(map(str, manifest["classes"]))
        sides = tuple(
            Side(
                name=name,
                images=int(side["images"]),
                boxes=int(side["boxes"]),
                background=int(side["background"]),
                counts={each: int(counts.get(str(number), {}).get(name, 0)) for number, each in enumerate(classes)},
            )
            for name, side in manifest["splits"].items()
        )
        corrupted = int(manifest["corrupted"]["count"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Absent(why=f"The manifest of {snapshot.name} cannot be read: {type(error).__name__}: {error}")
    looked = labels.look(snapshot)
    return Balance(
        name=snapshot.name,
        sides=sides,
        classes=classes,
        corrupted=corrupted,
        per_image=looked.per_image,
        sizes=looked.sizes,
        looked_at=looked.number,
        images=sum(side.images for side in sides),
    )


def _arguments(sources: Sources) -> dict[str, Any] | Absent:
    places = [sources.run.arguments] + ([ModelFolder(path=sources.model.path).arguments] if sources.model else [])
    for path in places:
        with suppress(OSError, files.FileError, yaml.YAMLError, UnicodeDecodeError):
            read = yaml.safe_load(files.read_small(path, limit=_MAX_YAML))
            if isinstance(read, dict):
                return {str(name): value for name, value in read.items()}
    return Absent(why="The trainer has not written its arguments yet, or they were removed with the run.")


def _time(stamp: str | None) -> datetime | None:
    return None if stamp is None else datetime.fromisoformat(stamp)
