"""What the control socket says of trained models, and what can be asked of them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from aiohttp import web

from azaion import evaluation, files, models, promotions
from azaion.config import Config, PublishTarget
from azaion.errors import AzaionError
from azaion.evaluation import EvaluationError
from azaion.layout import Layout, ModelFolder
from azaion.models import Model, ModelError, Why
from azaion.promotions import Promotion
from azaion.publishing import contents, ledger
from azaion.publishing.ledger import Publication
from supervisor.control.protocol import stamp
from supervisor.jobs.events import Actor
from supervisor.jobs.model import Job, Kind, Submission
from supervisor.jobs.store import Store
from supervisor.publishing import refusal

#: How often each may fail; what is done already is not done again.
_ATTEMPTS: Final = 3

_Kind = TypeVar("_Kind")
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Priority = Annotated[int, msgspec.Meta(ge=-1000, le=1000)]


class ExportRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``azaionctl models export``; what is left out comes from the configuration."""

    format: Literal["onnx", "engine"] = "onnx"
    imgsz: Annotated[int, msgspec.Meta(ge=32, le=16384, multiple_of=32)] | None = None
    half: bool = False
    nms: bool = False
    priority: _Priority = 0


class EvaluateRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``azaionctl models evaluate``."""

    dataset: _Name | None = None
    gate: bool = False
    priority: _Priority = 0


class PublishRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``azaionctl publish``; what is left out comes from the configuration."""

    export: _Name | None = None
    target: Literal["azaion", "directory"] | None = None
    priority: _Priority = 0


_exports: Final = msgspec.json.Decoder(ExportRequest)
_evaluations: Final = msgspec.json.Decoder(EvaluateRequest)
_publications: Final = msgspec.json.Decoder(PublishRequest)


class ModelRoutes:
    """The part of the control socket below ``/v1/models``.

    Args:
        config: for where the models lie, and how they are exported.
        store: where jobs are filed, and where it is recorded who has asked for what.
        who: the caller of a request.
        filed: answers with a job that has just been filed.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        *,
        who: Callable[[web.Request], Actor],
        filed: Callable[[Job], web.Response],
    ) -> None:
        self._config = config
        self._layout = config.layout
        self._store = store
        self._who = who
        self._filed = filed

    def routes(self) -> list[web.RouteDef]:
        """What there is to ask for."""
        return [
            web.get("/v1/models", self._list),
            web.get("/v1/models/{name}", self._show),
            web.post("/v1/models/rollback", self._rollback),
            web.post("/v1/models/{name}/promote", self._promote),
            web.post("/v1/models/{name}/export", self._export),
            web.post("/v1/models/{name}/evaluate", self._evaluate),
            web.post("/v1/models/{name}/publish", self._publish),
        ]

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._do(lambda: listing(self._layout)))

    async def _show(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.json_response(await self._do(lambda: whole(self._layout, models.load(self._layout, name))))

    async def _promote(self, request: web.Request) -> web.Response:
        name, actor = request.match_info["name"], self._who(request)
        why = Why(by=str(actor), reason="by hand")

        def change() -> dict[str, Any]:
            before = models.current(self._layout)
            model = models.promote(self._layout, name, why)
            return {"model": model.name, "instead_of": before, "target": str(self._config.daemon.publish_target)}

        return self._changed("model-promoted", await self._do(change), actor)

    async def _rollback(self, request: web.Request) -> web.Response:
        actor = self._who(request)
        why = Why(by=str(actor), reason="rolled back")

        def change() -> dict[str, Any]:
            before = models.current(self._layout)
            model = models.rollback(self._layout, why)
            return {"model": model.name, "instead_of": before, "target": str(self._config.daemon.publish_target)}

        return self._changed("model-rolled-back", await self._do(change), actor)

    def _changed(self, event: str, told: dict[str, Any], actor: Actor) -> web.Response:
        if told["model"] != told["instead_of"]:
            self._store.note(event, f"{told['model']} instead of {told['instead_of'] or 'none'}", actor=actor)
        return web.json_response(told)

    async def _export(self, request: web.Request) -> web.Response:
        asked = _read(_exports, await request.read())
        model = await self._do(lambda: models.load(self._layout, request.match_info["name"]))
        imgsz = asked.imgsz or self._config.export.onnx_imgsz
        return self._file(
            request,
            Kind.EXPORT,
            name=f"{model.name} as {asked.format} {imgsz}",
            parameters={
                "of": None,
                "model": model.name,
                "formats": [asked.format],
                "imgsz": imgsz,
                "half": asked.half,
                "nms": asked.nms,
            },
            # An engine is built on the GPU that is to run it.
            devices=1 if asked.format == "engine" else 0,
            priority=asked.priority,
        )

    async def _evaluate(self, request: web.Request) -> web.Response:
        asked = _read(_evaluations, await request.read())
        model = await self._do(lambda: models.load(self._layout, request.match_info["name"]))
        if asked.dataset is not None and not (self._layout.datasets / Path(asked.dataset).name).is_dir():
            raise ModelError(f"there is no dataset {asked.dataset!r} in {self._layout.datasets}")
        return self._file(
            request,
            Kind.EVALUATE,
            name=f"evaluate {model.name}" + (f" on {asked.dataset}" if asked.dataset else ""),
            parameters={"of": None, "model": model.name, "dataset": asked.dataset, "gate": asked.gate},
            devices=1,
            priority=asked.priority,
        )

    async def _publish(self, request: web.Request) -> web.Response:
        asked = _read(_publications, await request.read())
        model = await self._do(lambda: models.load(self._layout, request.match_info["name"]))
        target = PublishTarget(asked.target) if asked.target is not None else None
        if reason := await self._do(lambda: refusal(self._config, target)):
            raise ModelError(f"{model.name} cannot be published: {reason}")
        await self._do(lambda: contents.check(model, asked.export))
        return self._file(
            request,
            Kind.PUBLISH,
            name=f"publish {model.name}",
            parameters={"of": None, "model": model.name, "export": asked.export, "target": asked.target},
            devices=0,
            priority=asked.priority,
        )

    def _file(
        self, request: web.Request, kind: Kind, *, name: str, parameters: dict[str, Any], devices: int, priority: int
    ) -> web.Response:
        filing = Submission(
            kind=kind,
            name=name,
            parameters=parameters,
            owner=self._who(request),
            priority=priority,
            devices=devices,
            limit=_ATTEMPTS,
        )
        return self._filed(self._store.submit(filing))

    async def _do(self, work: Callable[[], _Kind]) -> _Kind:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise ModelError(f"the models in {self._layout.models} cannot be used: {error}") from None


def listing(layout: Layout) -> dict[str, Any]:
    """Every model, the newest last, and which one is in use."""
    known, current = promotions.read(layout), models.current(layout)
    records = []
    for name in models.names(layout):
        try:
            records.append(_record(models.load(layout, name), current, known))
        except ModelError as error:
            records.append({"name": name, "current": name == current, "problem": str(error)})
    return {"current": current, "before": promotions.before(known, current), "models": records}


def whole(layout: Layout, model: Model) -> dict[str, Any]:
    """Everything that is known of a model."""
    known, current = promotions.read(layout), models.current(layout)
    card, folder = model.card, ModelFolder(path=model.path)
    return {
        **_record(model, current, known),
        "path": str(model.path),
        "arguments": card.get("arguments") or {},
        "lineage": card.get("lineage") or {},
        "parent": _parent(layout, card),
        "dataset_digest": (card.get("dataset") or {}).get("digest"),
        "dataset_damage": (card.get("dataset") or {}).get("damage") or [],
        "evaluations": [_evaluation(folder, name, brief=False) for name in evaluation.names(folder)],
        "promotions": [_promotion(each) for each in known if each.model == model.name],
    }


def _record(model: Model, current: str | None, known: Sequence[Promotion]) -> dict[str, Any]:
    card, folder = model.card, ModelFolder(path=model.path)
    latest = promotions.latest(known, model.name)
    return {
        "name": model.name,
        "current": model.name == current,
        "created": card.get("created"),
        "job": card.get("job"),
        "dataset": (card.get("dataset") or {}).get("name"),
        "metrics": card.get("metrics") or {},
        "epochs": card.get("epochs"),
        "best_epoch": card.get("best_epoch"),
        "release": card.get("release"),
        "classes": card.get("classes"),
        "weights": card.get("weights") or {},
        "gate": _read_if_there(folder.gate),
        "evaluations": [_evaluation(folder, name, brief=True) for name in evaluation.names(folder)],
        "exports": _exported(folder),
        "publications": [_publication(each) for each in ledger.read(folder)],
        "promoted": None if latest is None else _promotion(latest),
    }


def _evaluation(folder: ModelFolder, name: str, *, brief: bool) -> dict[str, Any]:
    try:
        found = evaluation.read(folder, name)
    except EvaluationError as error:
        return {"dataset": name, "problem": str(error)}
    if found is None:
        return {"dataset": name, "problem": "it has just gone"}
    record = {
        "dataset": name,
        "images": found.images,
        "boxes": found.boxes,
        "scores": {str(metric): asdict(score) for metric, score in found.scores.items()},
        "job": found.job,
        "time": stamp(found.time),
    }
    if brief:
        return record
    return record | {
        "imgsz": found.settings.imgsz,
        "confidence": found.confidence,
        "per_class": [asdict(each) for each in found.per_class],
    }


def _exported(folder: ModelFolder) -> list[dict[str, Any]]:
    if not folder.exports.is_dir():
        return []
    paths = sorted(path for path in folder.exports.iterdir() if not path.name.startswith("."))
    records = [(path, _read_if_there(folder.export(path.name).record)) for path in paths]
    return [{**record, "path": str(path / str(record.get("file")))} for path, record in records if record is not None]


def _promotion(entry: Promotion) -> dict[str, Any]:
    return {"time": stamp(entry.time), "by": entry.by, "reason": entry.reason, "before": entry.before}


def _publication(entry: Publication) -> dict[str, Any]:
    removed = None if entry.removed is None else stamp(entry.removed)
    return {**asdict(entry), "time": stamp(entry.time), "removed": removed}


def _parent(layout: Layout, card: dict[str, Any]) -> str | None:
    """The model that this one's training began with, if it was one of ours; its file else."""
    base = (card.get("lineage") or {}).get("base")
    source = base.get("source") if isinstance(base, dict) else None
    if not isinstance(source, str):
        return None
    path = Path(source)
    return path.parent.name if path.parent.parent == layout.models.resolve() else path.name


def _read_if_there(path: Path) -> dict[str, Any] | None:
    try:
        return files.read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, AzaionError) as error:
        return {"problem": f"{path} cannot be read: {error}"}


def _read(decoder: "msgspec.json.Decoder[_Kind]", body: bytes) -> _Kind:
    try:
        return decoder.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"the request cannot be read: {error}") from None
