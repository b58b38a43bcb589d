"""What can be set. Each setting is declared once, here: its variable, its place in config.yaml, its type, its default.

Checking, rendering, ``.env.example`` (by its test) and the documentation follow from the declaration.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_type_hints

import msgspec
from msgspec import Meta

from azaion import layout
from azaion.errors import AzaionError

#: What an environment variable of ours looks like.
NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*")

#: How much of a wrong value an error shows.
_SHOWN_CHARACTERS: Final = 60

_PASSWORD_IN_URL: Final = re.compile(r"://[^/]*@")


class ConfigError(AzaionError):
    """The configuration cannot be used; ``problems`` names every reason, one line each."""

    def __init__(self, headline: str, problems: list[str], advice: str = "") -> None:
        super().__init__("\n".join([headline, *(f"  {problem}" for problem in problems), *filter(None, [advice])]))
        self.problems: Final = tuple(problems)


class Source(StrEnum):
    """Where annotations come from."""

    RABBITMQ = "rabbitmq"
    SPOOL = "spool"
    NONE = "none"  # another azaiond on the same data takes them in


class LauncherName(StrEnum):
    """How a job is started."""

    FORK = "fork"
    SYSTEMD = "systemd"
    SLURM = "slurm"


class PublishTarget(StrEnum):
    """Where a finished model goes."""

    AZAION = "azaion"
    DIRECTORY = "directory"
    NONE = "none"


class ModelFormat(StrEnum):
    """How a published model is encrypted."""

    AGE = "age"  # authenticated, for all who can choose
    LEGACY = "legacy"  # AES-256-CBC, for the consumers of the system before this one


class LogFormat(StrEnum):
    """How the log is written; ``auto`` is ``console`` at a terminal and ``json`` elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class SecretReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a secret is found; never its value. `azaion.environment.resolve` looks it up."""

    variable: Annotated[str, Meta(pattern=rf"^{NAME.pattern}\Z")]


Text = Annotated[str, Meta(pattern=r"^[^\x00-\x1f]{1,255}\Z", description="one line of at most 255 characters")]
#: rstream writes the length of a text in characters where the protocol wants bytes.
Ascii = Annotated[str, Meta(pattern=r"^[\x20-\x7e]{1,255}\Z", description="one line of at most 255 ASCII characters")]
Host = Annotated[str, Meta(pattern=r"^[^\s/@]{1,253}\Z", description="a host name or an address")]
Port = Annotated[int, Meta(ge=1, le=65535, description="a port, 1 to 65535")]
Url = Annotated[
    str,
    Meta(
        pattern=r"^(https://[^\s/@]+|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?)(/[^\s@]*)?\Z",
        description="an https:// address without user and password (http:// only to this machine itself)",
    ),
]
Email = Annotated[str, Meta(pattern=r"^[^\s@]+@[^\s@]+\Z", description="an email address")]
FolderName = Annotated[
    str,
    Meta(
        pattern=r"^[^\s/.][^/\x00-\x1f]{0,99}\Z",
        description="the plain name of a folder, without a slash and not beginning with a dot",
    ),
]
ModelFile = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00-\x1f]{1,1000}\.(pt|yaml|yml)\Z",
        description="the name of a model file, ending in .pt, .yaml or .yml",
    ),
]
Seconds = Annotated[int, Meta(ge=1, le=3600, description="a number of seconds, 1 to 3600")]
HangSeconds = Annotated[int, Meta(ge=0, le=604800, description="a number of seconds, up to a week; 0 is for ever")]
Positive = Annotated[int, Meta(ge=1, le=1_000_000, description="a whole number from 1")]
BatchSize = Annotated[int, Meta(ge=1, le=65536, description="a number of images, 1 to 65536")]
ImageSize = Annotated[int, Meta(ge=32, le=16384, multiple_of=32, description="a multiple of 32, 32 to 16384")]
WorkerCount = Annotated[int, Meta(ge=0, le=1024, description="a number of processes, 0 to 1024")]
Days = Annotated[int, Meta(ge=0, le=36500, description="a number of days up to 36500; 0 keeps for ever")]
Count = Annotated[int, Meta(ge=0, le=1_000_000, description="a whole number")]
Gpus = Annotated[
    str,
    Meta(
        pattern=r"^(auto|none|[0-9]{1,3}(,[0-9]{1,3})*)\Z",
        description="auto, none, or the numbers of GPUs separated by commas",
    ),
]
Bucket = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}\Z", description="the name of a bucket of an S3 server")
]
Group = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,31}\Z", description="the name of a Unix group")]

Default = str | Callable[[Path], Path] | None


def _variable(name: str, doc: str, *, default: Default = None) -> Mapping[str, Any]:
    """What a field tells of its variable. A ``default`` that is a function is given the state folder."""
    return {"name": name, "doc": doc, "default": default}


@dataclass(frozen=True, kw_only=True)
class Directories:
    """Where the data and the state lie."""

    root: Path = field(
        metadata=_variable("AZAION_ROOT_DIR", "Root of the data; must exist before the start, it is never made."),
    )
    data: FolderName = field(
        metadata=_variable("AZAION_DATA_DIR", "Folder of validated annotations, below the root."),
    )
    data_seed: FolderName = field(
        metadata=_variable("AZAION_DATA_SEED_DIR", "Folder of annotations nobody has validated yet, below the root."),
    )
    data_deleted: FolderName = field(
        metadata=_variable("AZAION_DATA_DELETED_DIR", "Folder of deleted annotations, below the root."),
    )
    state: Path = field(
        metadata=_variable(
            "AZAION_STATE_DIR",
            "The daemon's own state: jobs, logs, config.yaml; a relative path counts from the folder of .env.",
            default=str(layout.DEFAULT_STATE),
        ),
    )
    spool: Path = field(
        metadata=_variable(
            "AZAION_SPOOL_DIR",
            "The embedded stream of annotations; default: spool in the state folder.",
            default=layout.default_spool,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Api:
    """The Azaion REST API."""

    url: Url = field(metadata=_variable("AZAION_API_URL", "Base URL of the Azaion REST API."))
    email: Email = field(metadata=_variable("AZAION_API_EMAIL", "Login of the API."))
    password: SecretReference = field(metadata=_variable("AZAION_API_PASSWORD", "Password of the API."))
    folder: FolderName = field(
        metadata=_variable("AZAION_API_FOLDER", "Folder of the API that models are put into.", default="models")
    )
    salt: SecretReference | None = field(
        metadata=_variable(
            "AZAION_API_SALT", "What the platform mixes into the key of what it hands out; its operator tells it."
        ),
    )
    hardware: SecretReference | None = field(
        metadata=_variable(
            "AZAION_API_HARDWARE", "By what the API knows this machine; default: made of its /etc/machine-id."
        ),
    )
    ca: Path | None = field(
        metadata=_variable(
            "AZAION_API_CA", "Certificates (PEM) of the authority that signed the API's; default: the system's."
        ),
    )
    cdn_ca: Path | None = field(
        metadata=_variable("AZAION_CDN_CA", "The same for the CDN."),
    )
    cdn_bucket: Bucket | None = field(
        metadata=_variable(
            "AZAION_CDN_BUCKET", "Bucket of the models where cdn.yaml names none; default: AZAION_API_FOLDER."
        ),
    )
    cdn_region: Text = field(
        metadata=_variable("AZAION_CDN_REGION", "Region of the CDN where cdn.yaml names none.", default="us-east-1"),
    )


@dataclass(frozen=True, kw_only=True)
class RabbitMQ:
    """The broker that annotations come from."""

    host: Host = field(metadata=_variable("RABBITMQ_HOST", "Host of the broker."))
    port: Port = field(metadata=_variable("RABBITMQ_PORT", "Port of RabbitMQ Streams."))
    user: Text = field(metadata=_variable("RABBITMQ_USER", "User at the broker."))
    password: SecretReference = field(metadata=_variable("RABBITMQ_PASSWORD", "Password at the broker."))
    queue_name: Ascii = field(metadata=_variable("RABBITMQ_QUEUE_NAME", "Name of the stream of annotations."))
    vhost: Ascii = field(metadata=_variable("RABBITMQ_VHOST", "Virtual host of the stream.", default="/"))
    tls: bool = field(
        metadata=_variable("RABBITMQ_TLS", "Whether to speak TLS; the certificate is always verified.", default="false")
    )
    tls_ca: Path | None = field(
        metadata=_variable(
            "RABBITMQ_TLS_CA", "Certificates (PEM) of the authority that signed the broker's; default: the system's."
        ),
    )
    load_balancer: bool = field(
        metadata=_variable(
            "RABBITMQ_LOAD_BALANCER",
            "Whether RABBITMQ_HOST is a load balancer: connections then go only through it.",
            default="false",
        ),
    )
    heartbeat: Seconds = field(
        metadata=_variable(
            "RABBITMQ_HEARTBEAT",
            "Seconds between heartbeats; a connection that is silent for twice as long is given up.",
            default="20",
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a training run uses where `azaionctl submit-train` does not say otherwise."""

    model: ModelFile = field(metadata=_variable("TRAINING_MODEL", "File of the base model."))
    epochs: Positive = field(metadata=_variable("TRAINING_EPOCHS", "Training epochs."))
    batch_size: BatchSize = field(metadata=_variable("TRAINING_BATCH_SIZE", "Images in a batch."))
    imgsz: ImageSize = field(metadata=_variable("TRAINING_IMGSZ", "Image size of the training, in pixels."))
    save_period: Positive = field(metadata=_variable("TRAINING_SAVE_PERIOD", "Epochs between two kept checkpoints."))
    workers: WorkerCount = field(metadata=_variable("TRAINING_WORKERS", "Processes that load images."))


@dataclass(frozen=True, kw_only=True)
class Export:
    """How a model is exported."""

    onnx_imgsz: ImageSize = field(metadata=_variable("EXPORT_ONNX_IMGSZ", "Image size of the ONNX export, in pixels."))


@dataclass(frozen=True, kw_only=True)
class Publishing:
    """How a model leaves the server; where to, AZAION_PUBLISH_TARGET says."""

    directory: Path = field(
        metadata=_variable(
            "AZAION_PUBLISH_DIR",
            "Where the target directory puts models; default: published in the state folder.",
            default=layout.default_published,
        ),
    )
    format: ModelFormat = field(
        metadata=_variable(
            "AZAION_MODEL_FORMAT",
            "How published models are encrypted: age, or legacy for consumers that know nothing else.",
            default=ModelFormat.AGE,
        ),
    )
    keys: Path = field(
        metadata=_variable(
            "AZAION_KEYS_DIR",
            "The keys that models are encrypted and signed with; default: keys in the state folder.",
            default=layout.default_keys,
        ),
    )
    keep: Positive = field(
        metadata=_variable(
            "AZAION_PUBLISH_KEEP",
            "So many of the newest publications stay at the target; what is older is removed there.",
            default="5",
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """How the daemon runs."""

    socket: Path = field(
        metadata=_variable(
            "AZAION_SOCKET",
            "Control socket; default: /run/azaion/control.sock where that folder exists, else in the state folder.",
            default=layout.default_socket,
        ),
    )
    source: Source = field(
        metadata=_variable(
            "AZAION_SOURCE",
            "Where annotations come from: rabbitmq, spool (embedded, needs no server), or none: another azaiond "
            "does it.",
            default=Source.RABBITMQ,
        ),
    )
    launcher: LauncherName = field(
        metadata=_variable(
            "AZAION_LAUNCHER",
            "How jobs are started: fork, systemd or slurm.",
            default=LauncherName.FORK,
        ),
    )
    publish_target: PublishTarget = field(
        metadata=_variable(
            "AZAION_PUBLISH_TARGET",
            "Where models are published: azaion, directory or none.",
            default=PublishTarget.AZAION,
        ),
    )
    gpus: Gpus = field(
        metadata=_variable("AZAION_GPUS", "Which GPUs jobs may use: auto, none, or numbers as in 0,1.", default="auto"),
    )
    log_format: LogFormat = field(
        metadata=_variable(
            "AZAION_LOG_FORMAT",
            "How the log is written: auto, json or console.",
            default=LogFormat.AUTO,
        ),
    )
    hang_start_s: HangSeconds = field(
        metadata=_variable(
            "AZAION_HANG_START_S",
            "Seconds for which a training may stand still before its first batch; then it is resumed. 0: for ever.",
            default="1800",
        ),
    )
    hang_s: HangSeconds = field(
        metadata=_variable(
            "AZAION_HANG_S",
            "The same from its first batch on, between two batches.",
            default="900",
        ),
    )
    free_ram_mb: Count = field(
        metadata=_variable(
            "AZAION_FREE_RAM_MB", "No job starts with fewer megabytes of memory available.", default="1024"
        ),
    )
    free_disk_mb: Count = field(
        metadata=_variable(
            "AZAION_FREE_DISK_MB",
            "No job starts with fewer megabytes free on the disk of the data or of the state; runs go on.",
            default="2048",
        ),
    )
    free_vram_mb: Count = field(
        metadata=_variable(
            "AZAION_FREE_VRAM_MB", "No job starts on a GPU with fewer megabytes of memory free.", default="1024"
        ),
    )
    declarations: Path = field(
        metadata=_variable(
            "AZAION_DECLARATIONS",
            "Where services and the like are declared; default: azaion.yaml in the state folder, if it is there.",
            default=layout.default_declarations,
        ),
    )
    http_port: Port | None = field(
        metadata=_variable(
            "AZAION_HTTP_PORT",
            "Port of this host (127.0.0.1) for metrics and health, to look only; default: none.",
        ),
    )
    admin_group: Group | None = field(
        metadata=_variable("AZAION_ADMIN_GROUP", "Group whose members may change things; default: only the owner."),
    )

    @property
    def gpu_ids(self) -> tuple[int, ...] | None:
        """The GPUs that jobs may use; None means all that there are."""
        if self.gpus == "auto":
            return None
        return () if self.gpus == "none" else tuple(dict.fromkeys(map(int, self.gpus.split(","))))


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What is removed when, if nothing refers to it; see docs/retention.md. 0 days keep for ever."""

    run_days: Days = field(
        metadata=_variable(
            "RETENTION_RUN_DAYS",
            "Days for which the run of a job that has ended is kept: checkpoints, curves. 0: for ever.",
            default="30",
        ),
    )
    run_count: Count = field(
        metadata=_variable(
            "RETENTION_RUN_COUNT", "So many of the newest runs are kept, however old they are.", default="20"
        ),
    )
    attempt_days: Days = field(
        metadata=_variable(
            "RETENTION_ATTEMPT_DAYS",
            "Days for which the attempts of a job that has ended are kept: logs, metrics. 0: for ever.",
            default="90",
        ),
    )
    log_days: Days = field(
        metadata=_variable(
            "RETENTION_LOG_DAYS",
            "Days after which a large log of an attempt that has ended is cut to its last tenth. 0: never.",
            default="7",
        ),
    )
    log_mb: Positive = field(
        metadata=_variable(
            "RETENTION_LOG_MB",
            "A log of more megabytes is large.",
            default="100",
        ),
    )
    log_limit_mb: Count = field(
        metadata=_variable(
            "RETENTION_LOG_LIMIT_MB",
            "Megabytes that a log may take while it is being written; then its middle is cut out. 0: no limit.",
            default="256",
        ),
    )
    dataset_days: Days = field(
        metadata=_variable(
            "RETENTION_DATASET_DAYS",
            "Days for which a dataset that no model and no job refers to is kept. 0: for ever.",
            default="30",
        ),
    )
    corrupted_days: Days = field(
        metadata=_variable(
            "RETENTION_CORRUPTED_DAYS",
            "Days for which copies of annotations that no dataset could take are kept. 0: for ever.",
            default="90",
        ),
    )
    event_days: Days = field(
        metadata=_variable("RETENTION_EVENT_DAYS", "Days for which events are kept. 0: for ever.", default="365"),
    )
    free_gb: Count = field(
        metadata=_variable(
            "RETENTION_FREE_GB",
            "With fewer gigabytes free, what is due is removed at once. 0: never at once.",
            default="10",
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration. ``api`` and ``rabbitmq`` are None where they are not needed and not given in full."""

    directories: Directories
    api: Api | None
    rabbitmq: RabbitMQ | None
    training: Training
    export: Export
    publishing: Publishing
    daemon: Daemon
    retention: Retention

    @property
    def declarations_required(self) -> bool:
        """Whether somebody has named the file of the declarations, so that it must be there."""
        return self.daemon.declarations != layout.default_declarations(self.directories.state)

    @property
    def layout(self) -> layout.Layout:
        """The tree that this configuration describes."""
        return layout.Layout(
            root=self.directories.root,
            state=self.directories.state,
            data_name=self.directories.data,
            seed_name=self.directories.data_seed,
            deleted_name=self.directories.data_deleted,
            spool=self.directories.spool,
            socket=self.daemon.socket,
        )


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A declared setting.

    Attributes:
        name: the environment variable.
        section: its section in config.yaml.
        key: its key in the section.
        type: its Python type, with constraints.
        doc: what it is for, in one line.
        default: its value where it is not given; a function is given the state folder.
    """

    name: str
    section: str
    key: str
    type: Any
    doc: str
    default: Default

    @property
    def secret(self) -> bool:
        """Whether its value may be shown nowhere."""
        return SecretReference in {self.type, *get_args(self.type)}

    @property
    def optional(self) -> bool:
        """Whether it may be left out altogether."""
        return type(None) in get_args(self.type)

    @property
    def expected(self) -> str:
        """What a good value is, for the reader of an error."""
        if isinstance(self.type, type) and issubclass(self.type, StrEnum):
            return "one of " + ", ".join(self.type)
        if self.type in {Path, Path | None}:
            return "a path"
        if self.type is bool:
            return "true or false"
        if self.secret:
            return "'variable: NAME', for a secret never stands here itself"
        metas = (part for option in (self.type, *get_args(self.type)) for part in get_args(option))
        return next((str(meta.description) for meta in metas if isinstance(meta, Meta)), "another value")

    def convert(self, value: object, *, strict: bool = True) -> Any:
        """The value in its own type; unless ``strict``, a number may come as text.

        Raises:
            ValueError: it is no good; the message says what is expected, and shows no secret.
        """
        try:
            if isinstance(value, str):
                # An environment may hold bytes that are no text.
                value.encode()
            return msgspec.convert(value, self.type, strict=strict, dec_hook=_decode)
        except (msgspec.ValidationError, UnicodeEncodeError):
            raise ValueError(f"expected {self.expected}, got {self._shown(value)}") from None

    def _shown(self, value: object) -> str:
        if self.secret:
            return "something else"
        if not isinstance(value, str | int | float | None):
            # Its text may be without bounds.
            return f"a {type(value).__name__}"
        if isinstance(value, str) and _PASSWORD_IN_URL.search(value):
            return "an address with a password in it"
        text = repr(value)
        return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _decode(kind: type, value: object) -> object:
    """Convert what msgspec does not know itself."""
    if kind is Path and isinstance(value, str) and re.fullmatch(r"[^~\x00-\x1f][^\x00-\x1f]*", value):
        return Path(value)
    raise ValueError


def _declared() -> tuple[Variable, ...]:
    return tuple(
        Variable(section=section, key=item.name, type=hints[item.name], **item.metadata)
        for section, kind in SECTIONS.items()
        for hints in (get_type_hints(kind, include_extras=True),)
        for item in fields(kind)
    )


#: Every section of config.yaml.
SECTIONS: Final[dict[str, type]] = {
    "directories": Directories,
    "api": Api,
    "rabbitmq": RabbitMQ,
    "training": Training,
    "export": Export,
    "publishing": Publishing,
    "daemon": Daemon,
    "retention": Retention,
}

#: Every setting, in the order of config.yaml.
VARIABLES: Final = _declared()
