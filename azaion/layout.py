"""The tree of the product: every path has its name here and nowhere else."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Where the state lies on a server; a laptop says otherwise by AZAION_STATE_DIR.
DEFAULT_STATE: Final = Path("/var/lib/azaion")

#: Made by systemd-tmpfiles on a server.
RUN_FOLDER: Final = Path("/run/azaion")

#: Made by whoever stops the daemon of a server for longer than until the next call.
STOPPED: Final = Path("/run/azaion.stopped")

#: The ``.env`` of a server, which its unit hands to the daemon.
SERVER_SETTINGS: Final = Path("/etc/azaion/.env")


def order(name: str) -> Path:
    """What the unit ``azaion-train@NAME.service`` runs: a line of shell, there for as long as the unit may need it."""
    return RUN_FOLDER / "orders" / name


def default_socket(state: Path) -> Path:
    """The control socket where AZAION_SOCKET does not name it."""
    return (RUN_FOLDER if RUN_FOLDER.is_dir() else state) / "control.sock"


def default_spool(state: Path) -> Path:
    """The embedded stream where AZAION_SPOOL_DIR does not name it."""
    return state / "spool"


def default_published(state: Path) -> Path:
    """What the target ``directory`` holds, where AZAION_PUBLISH_DIR does not name it."""
    return state / "published"


def default_keys(state: Path) -> Path:
    """The keys of publishing where AZAION_KEYS_DIR does not name them."""
    return state / "keys"


def default_declarations(state: Path) -> Path:
    """The user's declarations where AZAION_DECLARATIONS does not name them."""
    return state / "azaion.yaml"


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
    def surroundings(self) -> Path:
        """Versions, processor, GPU and host of the attempt; by the worker."""
        return self.path / "surroundings.json"

    @property
    def result(self) -> Path:
        """The worker's last word; durable, before it exits."""
        return self.path / "result.json"

    def rank(self, number: int) -> Path:
        """The last word of one of the processes that train on several GPUs."""
        return self.path / f"rank-{number}.json"

    @property
    def exit(self) -> Path:
        """How the child ended; durable, the shim's last act."""
        return self.path / "exit.json"


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A training run: what it keeps across the attempts of its job. Nothing of a run lies outside."""

    path: Path

    @property
    def dataset(self) -> Path:
        """The view of the snapshot that the trainer reads, and may write into."""
        return self.path / "dataset"

    @property
    def base(self) -> Path:
        """The architecture, when the run begins with one and not with trained weights."""
        return self.path / "model.yaml"

    @property
    def origin(self) -> Path:
        """Which model the run began with; written before the first epoch."""
        return self.path / "origin.json"

    @property
    def cache(self) -> Path:
        """Whatever the libraries want to keep: settings, fonts, compiled kernels, temporary files."""
        return self.path / ".cache"

    @property
    def train(self) -> Path:
        """The trainer's own folder: curves, plots, weights."""
        return self.path / "train"

    @property
    def results(self) -> Path:
        """The curves: one row an epoch."""
        return self.train / "results.csv"

    @property
    def arguments(self) -> Path:
        """Every argument that the trainer ran with."""
        return self.train / "args.yaml"

    @property
    def judgement(self) -> Path:
        """What the finished model takes for what, and its precision over recall, on the validation images."""
        return self.train / "judgement.json"

    @property
    def weights(self) -> Path:
        """Checkpoints and their manifest."""
        return self.train / "weights"

    @property
    def last(self) -> Path:
        """The last checkpoint."""
        return self.weights / "last.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the last one."""
        return self.weights / "last.previous.pt"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch so far."""
        return self.weights / "best.pt"

    @property
    def manifest(self) -> Path:
        """Size, SHA-256 and epoch of each checkpoint that is known to be whole."""
        return self.weights / "checkpoints.json"

    @property
    def final(self) -> Path:
        """The trained model: the best checkpoint without what only training needs."""
        return self.weights / "final.pt"

    def periodic(self, epoch: int) -> Path:
        """The checkpoint kept of this epoch (from 1)."""
        return self.weights / f"epoch{epoch}.pt"


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A trained model."""

    path: Path

    @property
    def weights(self) -> Path:
        """The weights."""
        return self.path / "azaion.pt"

    @property
    def card(self) -> Path:
        """Where it came from and how good it is."""
        return self.path / "model.json"

    @property
    def results(self) -> Path:
        """The curves of its run: one row an epoch."""
        return self.path / "results.csv"

    @property
    def arguments(self) -> Path:
        """Every argument that its trainer ran with."""
        return self.path / "args.yaml"

    @property
    def judgement(self) -> Path:
        """What it takes for what, and its precision over recall, on the validation images."""
        return self.path / "judgement.json"

    @property
    def gate(self) -> Path:
        """Whether it might take over by itself, and why, as the last evaluation with a gate has found."""
        return self.path / "gate.json"

    @property
    def evaluations(self) -> Path:
        """How good it is on the test images of datasets."""
        return self.path / "evaluations"

    def evaluation(self, dataset: str) -> Path:
        """How good it is on the test images of the dataset with this name."""
        return self.evaluations / f"{dataset}.json"

    @property
    def exports(self) -> Path:
        """The model in other formats: one folder for each."""
        return self.path / "exports"

    def export(self, name: str) -> "ExportFolder":
        """The folder of the export with this name."""
        return ExportFolder(path=self.exports / name)

    @property
    def publications(self) -> Path:
        """Where it was published: one folder for each publication."""
        return self.path / "publications"

    def publication(self, name: str) -> "PublicationFolder":
        """The folder of the publication with this name."""
        return PublicationFolder(path=self.publications / name)


@dataclass(frozen=True, kw_only=True)
class ExportFolder:
    """A model in another format. It is there with all that it holds, or not at all."""

    path: Path

    @property
    def record(self) -> Path:
        """Which file it is, its SHA-256, and how it compares to the model."""
        return self.path / "export.json"

    def file(self, suffix: str) -> Path:
        """The model in the format that ends so (``.onnx``)."""
        return self.path / f"azaion{suffix}"


@dataclass(frozen=True, kw_only=True)
class PublicationFolder:
    """What is known of a publication, and what is small enough to be sent again."""

    path: Path

    @property
    def record(self) -> Path:
        """Where it was published, when, by which job."""
        return self.path / "publication.json"

    @property
    def manifest(self) -> Path:
        """The signed manifest, as consumers get it."""
        return self.path / "manifest"

    @property
    def small(self) -> Path:
        """The small part."""
        return self.path / "small"


@dataclass(frozen=True, kw_only=True)
class StagingFolder:
    """A model that is ready to be sent, and stays so across crashes until it has arrived."""

    path: Path

    @property
    def order(self) -> Path:
        """What it is, and where it goes."""
        return self.path / "order.json"

    @property
    def whole(self) -> Path:
        """The encrypted model, before it is cut."""
        return self.path / "whole"

    @property
    def small(self) -> Path:
        """The small part."""
        return self.path / "small"

    @property
    def big(self) -> Path:
        """The big part."""
        return self.path / "big"

    @property
    def manifest(self) -> Path:
        """The signed manifest."""
        return self.path / "manifest"

    @property
    def upload(self) -> Path:
        """How far the big part is on its way."""
        return self.path / "upload.json"

    @property
    def upload_by_name(self) -> Path:
        """The same on its way to the name that consumers of the old system know."""
        return self.path / "upload-by-name.json"


@dataclass(frozen=True, kw_only=True)
class FetchFolder:
    """Where a consumer wants its model."""

    path: Path

    @property
    def lock(self) -> Path:
        """Held by whoever fetches into it."""
        return self.path / ".azaion-fetch.lock"

    @property
    def scratches(self) -> Path:
        """What has been fetched, and is not whole yet: one folder for each publication."""
        return self.path / ".azaion-fetch"

    def scratch(self, publication: str) -> StagingFolder:
        """The same of one publication."""
        return StagingFolder(path=self.scratches / publication)


@dataclass(frozen=True, kw_only=True)
class KeysFolder:
    """The keys of publishing. Of each kind the highest number is the one in use; docs/publishing.md tells the rest."""

    path: Path

    @property
    def lock(self) -> Path:
        """Held by whoever makes a key."""
        return self.path / ".lock"

    def signing(self, name: int | str) -> Path:
        """The private half of a pair of signing keys."""
        return self.path / f"signing-{name}.pem"

    def public(self, name: int | str) -> Path:
        """Its public half, or that of somebody else who is trusted."""
        return self.path / f"signing-{name}.pub"

    def identity(self, name: int | str) -> Path:
        """An age identity, which decrypts."""
        return self.path / f"age-{name}.txt"

    def recipients(self, name: int | str) -> Path:
        """Age recipients, for whom models are encrypted."""
        return self.path / f"recipients-{name}.txt"

    def legacy(self, name: int | str) -> Path:
        """A key string of the legacy format."""
        return self.path / f"legacy-{name}.key"


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
class ServiceFolder:
    """A service that outlives the daemon: one folder for each start, as for the attempts of a job, and one log."""

    path: Path

    @property
    def log(self) -> Path:
        """Standard output and error of every start; each start's own ``log`` is a hard link to it."""
        return self.path / "log"

    @property
    def previous_log(self) -> Path:
        """The log before it, which had grown large."""
        return self.path / "log.1"

    def start(self, number: int) -> AttemptFolder:
        """The folder of the start with this number (from 1)."""
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
class SnapshotFolder:
    """The files of one snapshot of the data, and of a view of it. ``split`` is ``train``, ``valid`` or ``test``."""

    path: Path

    def annotations(self, split: str) -> AnnotationFolder:
        """The annotations of a split."""
        return AnnotationFolder(path=self.path / split)

    @property
    def data(self) -> Path:
        """What the trainer reads first: the splits and the classes."""
        return self.path / "data.yaml"

    @property
    def files(self) -> Path:
        """One line a file: SHA-256, size, path, separated by tabs."""
        return self.path / "files.tsv"

    @property
    def manifest(self) -> Path:
        """What the snapshot was made of, in figures."""
        return self.path / "manifest.json"

    @property
    def staging(self) -> Path:
        """Where a snapshot that is being formed keeps what it has not looked at yet."""
        return self.path / ".staging"

    @property
    def listing(self) -> Path:
        """Where a snapshot that is being formed keeps the list of its files."""
        return self.path / ".listing"


@dataclass(frozen=True, kw_only=True)
class ReleaseFolder:
    """One release: a virtual environment with the product in it, what belongs into /etc, what it is. Never changed."""

    path: Path

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return self.path / "bin" / "python"

    @property
    def commands(self) -> Path:
        """``azaiond`` and ``azaionctl``."""
        return self.path / "bin"

    @property
    def libraries(self) -> Path:
        """Where each interpreter has its packages."""
        return self.path / "lib"

    @property
    def units(self) -> Path:
        """The units, and what goes with them."""
        return self.path / "etc" / "systemd"

    @property
    def example(self) -> Path:
        """Every setting that it knows."""
        return self.path / "etc" / "env.example"

    @property
    def record(self) -> Path:
        """What it is; a release without one is not whole."""
        return self.path / "release.json"


@dataclass(frozen=True, kw_only=True)
class ContainersFolder:
    """The folder from which a server runs containers instead of units."""

    path: Path = Path("/opt/azaion-training")

    @property
    def compose(self) -> Path:
        """What containers there are."""
        return self.path / "docker-compose.production.yml"

    @property
    def images(self) -> Path:
        """Of which images they are made, and what else the file above asks for."""
        return self.path / "containers.env"

    @property
    def candidate(self) -> Path:
        """The same as a deploy would have it."""
        return self.path / "containers.next.env"

    @property
    def previous(self) -> Path:
        """The same before the last deploy."""
        return self.path / "containers.previous.env"

    @property
    def lock(self) -> Path:
        """Held by the one process that deploys."""
        return self.path / ".deploy.lock"


@dataclass(frozen=True, kw_only=True)
class ServerLayout:
    """Where an installation lies on a server.

    Attributes:
        root: of the server's file system; another one while an image is made.
    """

    root: Path = Path("/")

    @property
    def program(self) -> Path:
        """The folder of the releases, and of what is known of their deploys."""
        return self.root / "opt/azaion"

    @property
    def releases(self) -> Path:
        """One folder a release."""
        return self.program / "releases"

    def release(self, name: str) -> ReleaseFolder:
        """The folder of the release with this name."""
        return ReleaseFolder(path=self.releases / name)

    @property
    def current(self) -> Path:
        """A link to the release that the daemon is started from."""
        return self.program / "current"

    @property
    def deploys(self) -> Path:
        """When which release took over from which, and what came of it."""
        return self.program / "deploys.json"

    @property
    def deploy_lock(self) -> Path:
        """Held by the one process that changes anything here."""
        return self.program / ".lock"

    @property
    def settings(self) -> Path:
        """The ``.env`` of the server."""
        return self.root / SERVER_SETTINGS.relative_to("/")

    @property
    def units(self) -> Path:
        """Where systemd finds units that people have installed."""
        return self.root / "etc/systemd/system"

    @property
    def sysusers(self) -> Path:
        """The user and the groups."""
        return self.root / "etc/sysusers.d/azaion.conf"

    @property
    def tmpfiles(self) -> Path:
        """The folders that are made at every boot."""
        return self.root / "etc/tmpfiles.d/azaion.conf"

    @property
    def polkit(self) -> Path:
        """What the user of the daemon may ask of systemd."""
        return self.root / "etc/polkit-1/rules.d/50-azaion.rules"

    @property
    def command(self) -> Path:
        """``azaionctl``, where everybody finds it."""
        return self.root / "usr/local/bin/azaionctl"

    @property
    def data(self) -> Path:
        """The root of the data, where the settings name no other."""
        return self.root / "azaion"

    @property
    def state(self) -> Path:
        """The state, where the settings name no other."""
        return self.root / DEFAULT_STATE.relative_to("/")


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
    def datasets_lock(self) -> Path:
        """Held by the one process that forms a snapshot; whatever temporary folder another one left is then dead."""
        return self.datasets / ".lock"

    @property
    def models(self) -> Path:
        """Trained models: ``azaion-YYYY-MM-DD[-N]/``."""
        return self.root / "models"

    @property
    def current_model(self) -> Path:
        """The model that is in use: a link to one of the dated folders' weights."""
        return self.models / "azaion.pt"

    @property
    def promotions(self) -> Path:
        """Which model was put to use when, by whom and why."""
        return self.models / "promotions.json"

    @property
    def promotions_lock(self) -> Path:
        """Held by whoever puts another model to use."""
        return self.models / ".lock"

    def model(self, name: str) -> ModelFolder:
        """The folder of the model with this name."""
        return ModelFolder(path=self.models / name)

    # The state.

    @property
    def database(self) -> Path:
        """Jobs, attempts, leases, events."""
        return self.state / "jobs.sqlite"

    @property
    def database_files(self) -> tuple[Path, ...]:
        """The database, and what SQLite keeps beside it while it is open."""
        return (self.database, *(self.database.with_name(f"{self.database.name}{end}") for end in ("-wal", "-shm")))

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
    def consumer_request(self) -> Path:
        """Where a blocked consumer is to go on; by the daemon, removed by the consumer when it is done."""
        return self.state / "consumer-request.json"

    @property
    def consumer_log(self) -> Path:
        """Standard output and error of the consumer."""
        return self.state / "consumer.log"

    @property
    def health_probe(self) -> Path:
        """Written again and again to see whether, and how fast, the state can be written."""
        return self.state / "health.json"

    @property
    def jobs(self) -> Path:
        """One folder a job."""
        return self.state / "jobs"

    def job(self, number: int, uid: str) -> JobFolder:
        """The folder of a job; ``uid`` tells it from one of the same number in a restored database."""
        return JobFolder(path=self.jobs / f"{number}-{uid}")

    @property
    def publishing(self) -> Path:
        """Models on their way out: one folder a model."""
        return self.state / "publishing"

    @property
    def publishing_lock(self) -> Path:
        """Held by the one process that publishes."""
        return self.state / "publishing.lock"

    def staging(self, model: str) -> StagingFolder:
        """The folder of a model on its way out."""
        return StagingFolder(path=self.publishing / model)

    @property
    def services(self) -> Path:
        """One folder a service."""
        return self.state / "services"

    def service(self, name: str) -> ServiceFolder:
        """The folder of a service."""
        return ServiceFolder(path=self.services / name)

    @property
    def prunable(self) -> tuple[Path, ...]:
        """The folders that retention removes from."""
        return (self.jobs, self.datasets, self.corrupted)

    @staticmethod
    def trash(folder: Path) -> Path:
        """What retention has taken out of a folder and not yet deleted; on the same filesystem as what it was."""
        return folder / ".trash"

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
            self.services,
        )
