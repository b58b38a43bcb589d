"""What clients may ask for, checked before anything happens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from azaion.config import Config, PublishTarget
from azaion.layout import Layout
from supervisor.jobs.events import EventFilter
from supervisor.jobs.model import (
    FIRST_OF_CHAIN,
    TERMINAL,
    Job,
    JobError,
    Kind,
    Limits,
    Maintenance,
    Needs,
    State,
    Submission,
)
from supervisor.publishing import refusal

#: How often a training may fail by its own code without a new epoch in between.
TRAIN_ATTEMPTS: Final = 3
#: The same for what follows a training.
STEP_ATTEMPTS: Final = 3
#: What can follow a training, in this order.
STEPS: Final = (Kind.EVALUATE, Kind.EXPORT, Kind.PUBLISH)

_Request = TypeVar("_Request")

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Reason = Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Text = Annotated[str, msgspec.Meta(max_length=131072, pattern=r"^[^\x00]*$")]
_Priority = Annotated[int, msgspec.Meta(ge=-1000, le=1000)]
_Id = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
_Time = Annotated[float, msgspec.Meta(ge=0, lt=1e11)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class LimitsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What each attempt may use; see `supervisor.jobs.model.Limits`."""

    memory: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 60)] | None = None
    cpus: Annotated[float, msgspec.Meta(ge=0.01, le=65536)] | None = None
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] | None = None
    time_s: Annotated[float, msgspec.Meta(ge=1, le=1e9)] | None = None


class NeedsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What must be free before the start; see `supervisor.jobs.model.Needs`."""

    ram: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)] = 0
    vram: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)] = 0


class CommandRequest(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="command"):
    """``azaionctl submit``."""

    argv: Annotated[list[_Text], msgspec.Meta(min_length=1, max_length=10_000)]
    cwd: _Text
    env: dict[_Text, _Text] = {}
    name: _Name | None = None
    priority: _Priority = 0
    key: _Name | None = None
    after: _Id | None = None
    begins: _Time = 0.0
    hold: bool = False
    preempt: bool = False
    needs: NeedsRequest = msgspec.field(default_factory=NeedsRequest)
    limits: LimitsRequest = msgspec.field(default_factory=LimitsRequest)
    devices: Annotated[int, msgspec.Meta(ge=0, le=64)] = 1


class TrainRequest(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="train"):
    """``azaionctl submit-train``; what is left out comes from the configuration."""

    model: _Text | None = None
    epochs: _Count | None = None
    batch: _Count | None = None
    imgsz: Annotated[int, msgspec.Meta(ge=32, le=8192, multiple_of=32)] | None = None
    save_period: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    workers: Annotated[int, msgspec.Meta(ge=0, le=256)] | None = None
    dataset: _Name | None = None
    devices: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    then: tuple[Literal["evaluate", "export", "publish"], ...] = ()
    overrides: dict[_Name, Any] = {}
    name: _Name | None = None
    priority: _Priority = 0
    key: _Name | None = None
    after: _Id | None = None
    begins: _Time = 0.0
    hold: bool = False
    preempt: bool = False
    needs: NeedsRequest = msgspec.field(default_factory=NeedsRequest)
    limits: LimitsRequest = msgspec.field(default_factory=LimitsRequest)


class PriorityRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``azaionctl priority``."""

    priority: _Priority


class MaintenanceRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``azaionctl maintenance``."""

    on: bool
    reason: _Reason = ""
    stop_running: bool = False


class ResumeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``azaionctl consumer resume``."""

    choice: Literal["first", "stored", "next"] | Annotated[int, msgspec.Meta(ge=0)] = msgspec.field(name="from")


_Decoder: Final = msgspec.json.Decoder(CommandRequest | TrainRequest)
_Change: Final = msgspec.json.Decoder(PriorityRequest)
_Maintenance: Final = msgspec.json.Decoder(MaintenanceRequest)
_Resume: Final = msgspec.json.Decoder(ResumeRequest)


def resume(body: bytes) -> str | int:
    """Where a client wants the consumer to go on.

    Raises:
        JobError: the request cannot be read.
    """
    return _read(_Resume, body).choice


def maintenance(body: bytes, by: str, now: float) -> Maintenance | None:
    """The maintenance that a client wants; None for its end.

    Raises:
        JobError: the request cannot be read.
    """
    wanted = _read(_Maintenance, body)
    if not wanted.on:
        return None
    return Maintenance(reason=wanted.reason, by=by, since=now, stop_running=wanted.stop_running)


def priority(body: bytes) -> int:
    """Which priority a client wants for a job.

    Raises:
        JobError: the request cannot be read.
    """
    return _read(_Change, body).priority


def again(job: Job, later: Sequence[Job], owner: str) -> list[Submission]:
    """Another try of a job that has ended, as a job of its own, and of those of its chain that would have followed.

    Args:
        job: the one that has ended.
        later: those that come after it in its chain.
        owner: who asks.

    Raises:
        JobError: it has not ended.
    """
    if job.state not in TERMINAL:
        raise JobError(f"job {job.id} is {job.state}: only one that has ended can be tried again")
    # What a new training makes is not what the old one made.
    made = {"of": FIRST_OF_CHAIN} if job.kind is Kind.TRAIN else {}
    return [_again(job, {}, owner), *(_again(each, made, owner) for each in later if each.state is not State.SUCCEEDED)]


def _again(job: Job, changed: Mapping[str, Any], owner: str) -> Submission:
    return Submission(
        kind=job.kind,
        name=job.name,
        parameters={**job.parameters, **changed},
        owner=owner,
        priority=job.priority,
        devices=job.devices,
        retry_of=job.id,
        limit=job.limit,
        needs=job.needs,
        limits=job.limits,
    )


def submissions(body: bytes, config: Config, owner: str) -> list[Submission]:
    """What a client asks for: a job, and those that are to follow it as a chain.

    Raises:
        JobError: the request cannot be read, or asks for what is not there.
    """
    request = _read(_Decoder, body)
    if isinstance(request, CommandRequest):
        return [_command(request, owner)]
    first = _train(request, config, owner)
    return [first, *(_step(kind, first, config) for kind in STEPS if _follows(kind, request, config))]


def _follows(kind: Kind, request: TrainRequest, config: Config) -> bool:
    """Whether such a step follows a training. Nothing is published where there is no target.

    Raises:
        JobError: it is to be published, and cannot be: better said now than after days.
    """
    if kind not in request.then or kind is not Kind.PUBLISH:
        return kind in request.then
    if config.daemon.publish_target is PublishTarget.NONE:
        return False
    if reason := refusal(config):
        raise JobError(f"the model could not be published: {reason}, or file it with --no-publish")
    return True


def _there(datasets: Path, name: str) -> bool:
    """Whether there is a dataset of this name, which leads nowhere else."""
    return Path(name).name == name != ".." and (datasets / name).is_dir()


def check_inputs(submission: Submission, config: Config) -> None:
    """Make sure that what a training is to begin with is there.

    Raises:
        JobError: its dataset or its model is not.
    """
    if submission.kind is not Kind.TRAIN:
        return
    name = submission.parameters.get("dataset")
    if name is not None and not _there(config.layout.datasets, name):
        raise JobError(
            f"there is no dataset {name!r} in {config.layout.datasets}; without a dataset a training forms a new one"
        )
    _check_weights(submission.parameters["model"], config.layout)


def event_filter(query: Mapping[str, str]) -> EventFilter:
    """Read ``?job=N&actor=NAME&since=SECONDS&type=T,U``.

    Raises:
        JobError: a number is none.
    """
    return EventFilter(
        job=int(number(query, "job", 0)) if "job" in query else None,
        actor=query.get("actor"),
        since=number(query, "since", 0.0),
        types=tuple(filter(None, query.get("type", "").split(","))),
    )


def preflight(query: Mapping[str, str]) -> tuple[Needs, int]:
    """Read ``?ram=BYTES&vram=BYTES&disk=BYTES``: what a start would need, and what is needed on each disk.

    Raises:
        JobError: a number is none, or less than none.
    """
    ram, vram, disk = (int(number(query, name, 0)) for name in ("ram", "vram", "disk"))
    if min(ram, vram, disk) < 0:
        raise JobError("nobody needs less than nothing")
    return Needs(ram=ram, vram=vram), disk


def _read(decoder: "msgspec.json.Decoder[_Request]", body: bytes) -> _Request:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise JobError(f"the request cannot be read: {error}") from None


def _command(request: CommandRequest, owner: str) -> Submission:
    if not Path(request.cwd).is_absolute():
        raise JobError(f"the working folder {request.cwd!r} is not an absolute path")
    if any("=" in name or not name or name == "AZAION_NONCE" for name in request.env):
        raise JobError("a variable's name is empty, contains `=`, or is AZAION_NONCE, which is ours")
    if request.needs.vram and not request.devices:
        raise JobError("what is to be free on its GPUs (--vram) says nothing of a job without one (--gpu 0)")
    return Submission(
        kind=Kind.COMMAND,
        name=request.name or " ".join(request.argv)[:80],
        parameters={"argv": request.argv, "cwd": request.cwd, "env": request.env},
        owner=owner,
        priority=request.priority,
        key=request.key,
        after=request.after,
        begins=request.begins,
        held=request.hold,
        preempt=request.preempt,
        needs=Needs(**msgspec.structs.asdict(request.needs)),
        limits=Limits(**msgspec.structs.asdict(request.limits)),
        devices=request.devices,
    )


def _train(request: TrainRequest, config: Config, owner: str) -> Submission:
    defaults = config.training
    if request.dataset is not None and not _there(config.layout.datasets, request.dataset):
        raise JobError(f"there is no dataset {request.dataset!r} in {config.layout.datasets}")
    model = request.model or defaults.model
    _check_weights(model, config.layout)
    epochs = request.epochs or defaults.epochs
    batch = request.batch or defaults.batch_size
    if batch % request.devices:
        near = max(1, batch // request.devices) * request.devices
        raise JobError(f"a batch of {batch} cannot be shared by {request.devices} GPUs; take --batch {near}")
    return Submission(
        kind=Kind.TRAIN,
        name=request.name or f"{Path(model).stem}, {epochs} epochs",
        parameters={
            "model": model,
            "epochs": epochs,
            "batch": batch,
            "imgsz": request.imgsz or defaults.imgsz,
            "save_period": defaults.save_period if request.save_period is None else request.save_period,
            "workers": defaults.workers if request.workers is None else request.workers,
            "dataset": request.dataset,
            "overrides": request.overrides,
            # Where the new model is held against the one in use, that decides.
            "promote": Kind.EVALUATE not in request.then,
        },
        owner=owner,
        priority=request.priority,
        key=request.key,
        after=request.after,
        begins=request.begins,
        held=request.hold,
        preempt=request.preempt,
        needs=Needs(**msgspec.structs.asdict(request.needs)),
        limits=Limits(**msgspec.structs.asdict(request.limits)),
        devices=request.devices,
        limit=TRAIN_ATTEMPTS,
    )


def _step(kind: Kind, train: Submission, config: Config) -> Submission:
    """What follows a training, with what it has made."""
    common: dict[str, Any] = {"of": FIRST_OF_CHAIN, "model": None}
    parameters = {
        Kind.EVALUATE: {**common, "dataset": None, "gate": True},
        Kind.EXPORT: {**common, "formats": ["onnx"], "imgsz": config.export.onnx_imgsz, "half": False, "nms": False},
        Kind.PUBLISH: {**common, "export": None, "target": None},
    }
    return Submission(
        kind=kind,
        name=f"{kind} of {train.name}",
        parameters=parameters[kind],
        owner=train.owner,
        priority=train.priority,
        devices=1 if kind is Kind.EVALUATE else 0,
        preempt=train.preempt,
        limit=STEP_ATTEMPTS,
    )


def _check_weights(model: str, layout: Layout) -> None:
    """Refuse weights that are not there now, not after hours in the queue. Architectures are the worker's to find."""
    given = Path(model)
    places = [given] if given.is_absolute() else [layout.models / given, layout.root / given]
    if given.suffix == ".pt" and not any(place.is_file() for place in places):
        raise JobError(
            f"there is no model {model!r}: put the file into {layout.models} or {layout.root}, or name another with "
            f"--model or TRAINING_MODEL; nothing is downloaded",
        )


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Which jobs to list."""

    states: list[State] | None
    limit: int

    @classmethod
    def read(cls, query: Mapping[str, str]) -> "Listing":
        """Read ``?state=S&limit=N``.

        Raises:
            JobError: a state does not exist, or the limit is no number.
        """
        limit = int(number(query, "limit", -1))
        if "state" not in query:
            return cls(states=None, limit=limit)
        try:
            return cls(states=[State(name) for name in query["state"].split(",")], limit=limit)
        except ValueError as error:
            raise JobError(f"{error}; the states are {', '.join(State)}") from None


def number(query: Mapping[str, str], name: str, default: float) -> float:
    """A number from a query.

    Raises:
        JobError: it is not a number.
    """
    try:
        value = float(query.get(name, default))
    except ValueError:
        raise JobError(f"{name} must be a number, not {query[name]!r}") from None
    if not abs(value) < 2**53:
        raise JobError(f"{name} is out of range")
    return value
