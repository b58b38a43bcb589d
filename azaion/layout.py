"""The tree of the product: every path has its name here and nowhere else."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class AttemptFolder:
    """The files of one attempt of a job: what the daemon, the shim and the worker tell each other.

    The shim knows these names too (it imports nothing); ``tests/unit/test_shim.py`` holds the two together.
    """

    path: Path

    @property
    def spec(self) -> Path:
        """What to run, and this attempt's nonce; by the daemon, before anything starts."""
        return self.path / "spec.json"

    @property
    def request(self) -> Path:
        """The intent (stop or cancel); by the daemon, before a signal is sent."""
        return self.path / "request.json"

    @property
    def lock(self) -> Path:
        """Held by the shim and inherited by all that it starts."""
        return self.path / "lock"

    @property
    def state(self) -> Path:
        """Boot id, PIDs and start times; by the shim, before the child may exec."""
        return self.path / "state.json"

    @property
    def log(self) -> Path:
        """Standard output and error of the child."""
        return self.path / "log"

    @property
    def progress(self) -> Path:
        """How far the worker is; replaced atomically by the worker."""
        return self.path / "progress.json"

    @property
    def metrics(self) -> Path:
        """One JSON line an epoch; appended by the worker."""
        return self.path / "metrics.jsonl"

    @property
    def result(self) -> Path:
        """The worker's last word; durable, before it exits."""
        return self.path / "result.json"

    @property
    def exit(self) -> Path:
        """How the child ended; durable, the shim's last act."""
        return self.path / "exit.json"


@dataclass(frozen=True, kw_only=True)
class JobFolder:
    """What a job keeps across its attempts."""

    path: Path

    @property
    def run(self) -> Path:
        """The training run: checkpoints, curves, the view of the dataset."""
        return self.path / "run"

    def attempt(self, number: int) -> AttemptFolder:
        """The folder of the attempt with this number (from 1)."""
        return AttemptFolder(path=self.path / str(number))


@dataclass(frozen=True, kw_only=True)
class AnnotationFolder:
    """A folder of annotations: images and, under the same stem, their labels."""

    path: Path

    @property
    def images(self) -> Path:
        """``NAME.jpg`` and so on."""
        return self.path / "images"

    @property
    def labels(self) -> Path:
        """``NAME.txt``, YOLO text."""
        return self.path / "labels"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where everything lies.

    Attributes:
        root: the data (AZAION_ROOT_DIR). Never made by the product: an absent one may be an unmounted disk.
        state: the daemon's own state (AZAION_STATE_DIR); may be another filesystem.
        data_name: folder of validated annotations, below the root.
        seed_name: folder of annotations that nobody has validated yet, below the root.
        deleted_name: folder of deleted annotations, below the root.
        spool: the embedded stream of messages.
        socket: the control socket.
    """

    root: Path
    state: Path
    data_name: str = "data"
    seed_name: str = "data-seed"
    deleted_name: str = "data_deleted"
    spool: Path
    socket: Path

    # The data.

    @property
    def data(self) -> AnnotationFolder:
        """Validated annotations."""
        return AnnotationFolder(path=self.root / self.data_name)

    @property
    def seed(self) -> AnnotationFolder:
        """Annotations that nobody has validated yet."""
        return AnnotationFolder(path=self.root / self.seed_name)

    @property
    def deleted(self) -> AnnotationFolder:
        """Deleted annotations."""
        return AnnotationFolder(path=self.root / self.deleted_name)

    @property
    def corrupted(self) -> Path:
        """Copies of annotations that no dataset can take, each with its reason."""
        return self.root / "data-corrupted"

    @property
    def records(self) -> Path:
        """``NAME.json``: where each annotation came from, and the last event that was applied to it."""
        return self.root / "records"

    @property
    def quarantine(self) -> Path:
        """Messages that could not be applied: ``OFFSET/`` with the raw bytes and the reason."""
        return self.root / "quarantine"

    @property
    def offset(self) -> Path:
        """The next message to read."""
        return self.root / "offset.yaml"

    @property
    def tree_lock(self) -> Path:
        """Held by the one consumer for as long as it lives."""
        return self.root / ".consumer.lock"

    @property
    def commit_lock(self) -> Path:
        """Held while a group of messages is committed, or while a snapshot is taken between two groups."""
        return self.root / ".commit.lock"

    @property
    def classes(self) -> Path:
        """The user's classes."""
        return self.root / "classes.json"

    @property
    def datasets(self) -> Path:
        """Snapshots: ``azaion-YYYY-MM-DD[-N]/``."""
        return self.root / "datasets"

    @property
    def models(self) -> Path:
        """Trained models: ``azaion-YYYY-MM-DD[-N]/``."""
        return self.root / "models"

    @property
    def current_model(self) -> Path:
        """The model that is in use: a link to one of the dated folders' weights."""
        return self.models / "azaion.pt"

    # The state.

    @property
    def database(self) -> Path:
        """Jobs, attempts, leases, events."""
        return self.state / "jobs.sqlite"

    @property
    def daemon_lock(self) -> Path:
        """Held by the one daemon for as long as it lives."""
        return self.state / "daemon.lock"

    @property
    def config(self) -> Path:
        """The rendered configuration."""
        return self.state / "config.yaml"

    @property
    def consumer_status(self) -> Path:
        """What the consumer says of itself; replaced atomically."""
        return self.state / "consumer.json"

    @property
    def consumer_log(self) -> Path:
        """Standard output and error of the consumer."""
        return self.state / "consumer.log"

    @property
    def jobs(self) -> Path:
        """One folder a job."""
        return self.state / "jobs"

    def job(self, number: int, uid: str) -> JobFolder:
        """The folder of a job; ``uid`` tells it from one of the same number in a restored database."""
        return JobFolder(path=self.jobs / f"{number}-{uid}")

    def folders(self) -> tuple[Path, ...]:
        """Every folder that the product makes below the root and the state folder."""
        annotations = (self.data, self.seed, self.deleted)
        return (
            *(folder.images for folder in annotations),
            *(folder.labels for folder in annotations),
            self.corrupted,
            self.records,
            self.quarantine,
            self.datasets,
            self.models,
            self.jobs,
        )
