"""What a job is: kinds, states, the transitions between them, attempts and causes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from azaion.progress import ExitCode
from supervisor.errors import SupervisorError
from supervisor.processes import Identity


class JobError(SupervisorError):
    """A job cannot be filed, found or changed as asked."""


class Kind(StrEnum):
    """What a job does."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    EXPORT = "export"
    PUBLISH = "publish"
    COMMAND = "command"


#: What may be begun again at any time: these find what is done already. A command might do its work twice.
REPEATABLE: Final = frozenset({Kind.TRAIN, Kind.EVALUATE, Kind.EXPORT, Kind.PUBLISH})


class State(StrEnum):
    """Where a job is. A terminal state is final."""

    HELD = "held"  # until somebody releases it
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Intent(StrEnum):
    """What has been asked of a job, the weaker first: a later wish counts if it is as strong."""

    PAUSE = "pause"  # step aside at the next epoch boundary, and go on when the turn comes
    STOP = "stop"  # end at the next epoch boundary
    CANCEL = "cancel"  # end within the grace


class Measure(StrEnum):
    """Why the daemon itself ends an attempt; the cause of that attempt."""

    TIME = "time"  # it has run for as long as it may
    HANG = "hang"  # it does not move any more


TERMINAL: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
WAITING: Final = frozenset({State.HELD, State.QUEUED})
ACTIVE: Final = frozenset({State.STARTING, State.RUNNING, State.STOPPING})

#: Every legal transition. `supervisor.jobs.store.Store` is the one door, and reads this table.
TRANSITIONS: Final = MappingProxyType(
    {
        State.HELD: frozenset({State.QUEUED, State.CANCELLED}),
        State.QUEUED: frozenset({State.HELD, State.STARTING, State.CANCELLED, State.FAILED}),
        State.STARTING: frozenset({State.RUNNING, State.STOPPING, State.QUEUED, *TERMINAL}),
        State.RUNNING: frozenset({State.STOPPING, State.QUEUED, *TERMINAL}),
        State.STOPPING: frozenset({State.STOPPING, State.QUEUED, *TERMINAL}),
        State.SUCCEEDED: frozenset[State](),
        State.FAILED: frozenset[State](),
        State.CANCELLED: frozenset[State](),
    },
)


def sources(target: State) -> frozenset[State]:
    """The states from which ``target`` can be reached."""
    return frozenset(source for source, targets in TRANSITIONS.items() if target in targets)


#: What a worker's exit code means. Any other is ``exit:N``.
CAUSES: Final[Mapping[int, str]] = MappingProxyType(
    {
        ExitCode.DATA: "data",
        ExitCode.NO_INPUT: "refused:model",
        ExitCode.UNREACHABLE: "network",
        ExitCode.DISK: "disk",
        ExitCode.INTERRUPTED: "interrupted",
        ExitCode.PROTOCOL: "transfer",
        ExitCode.REFUSED: "refused:target",
        ExitCode.CONFIG: "refused:config",
        ExitCode.CHECKPOINT: "checkpoint",
        ExitCode.OOM_GPU: "oom:gpu",
        ExitCode.OOM_RAM: "oom:ram",
        ExitCode.PARITY: "parity",
    },
)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of a job, kept for good.

    Attributes:
        number: from 1.
        nonce: random; every process of the attempt carries it in its environment.
        child: the leader of the run, once it is known.
        exit_code: of the leader; None while it runs, when it was killed by a signal, or when nobody knows.
    """

    number: int
    nonce: str
    reserved: float
    child: Identity | None = None
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    cause: str | None = None
    resumed_from_epoch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What must be free before a job starts.

    Attributes:
        ram: bytes of memory.
        vram: bytes of memory on each of its GPUs.
    """

    ram: int = 0
    vram: int = 0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What each attempt of a job may use; None is no limit.

    Attributes:
        memory: bytes of memory, of all its processes together.
        cpus: how many processors' worth of time (1.5 is one and a half).
        nice: its niceness, from 0 (as the daemon's) to 19.
        time_s: seconds of wall-clock time, over all attempts.
    """

    memory: int | None = None
    cpus: float | None = None
    nice: int | None = None
    time_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One row of the queue.

    Attributes:
        uid: random; tells this job's folder from that of another job with the same number in a restored database.
        parameters: what to do: for ``command`` argv, cwd and env; for ``train`` the hyperparameters.
        devices: how many GPUs (or, on a machine without one, whether the CPU slot) it needs; 0 for none.
        after: the job that must have succeeded before this one starts.
        chain: the first job of the chain that it is a part of; None if it stands alone.
        begins: the wall-clock time that its owner has set; it is not started before.
        retry_of: the job that this one is another try of.
        preempt: whether trainings of a lower priority are asked to step aside for it.
        limit: how many attempts may fail by their own code without a new verified epoch between them.
        failures: how many have, since the last new verified epoch.
        interruptions: how often the machine has interrupted it since the last new verified epoch.
        verified_epoch: epochs in the last verified checkpoint, as far as the daemon has heard.
        not_before: the wall-clock time before which it is not started (backoff).
        reason: one line for people: why it waits, or why it ended.
        needs: what must be free before it starts.
        limits: what each attempt may use.
        adjusted: parameters changed for its next attempt, as a smaller batch after its GPU ran out of memory.
        ran_s: seconds for which its ended attempts have run, less those in which the machine was suspended.
    """

    id: int
    uid: str
    kind: Kind
    name: str
    state: State
    parameters: dict[str, Any]
    owner: str
    priority: int = 0
    key: str | None = None
    devices: int = 1
    after: int | None = None
    chain: int | None = None
    begins: float = 0.0
    retry_of: int | None = None
    preempt: bool = False
    limit: int = 1
    failures: int = 0
    interruptions: int = 0
    verified_epoch: int = 0
    not_before: float = 0.0
    cause: str | None = None
    reason: str = ""
    intent: Intent | None = None
    intent_at: float | None = None
    grace_s: float | None = None
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    artifacts: dict[str, Any] = field(default_factory=dict)
    needs: Needs = Needs()
    limits: Limits = Limits()
    adjusted: dict[str, Any] = field(default_factory=dict)
    ran_s: float = 0.0


#: In parameters: stands for the uid of the first job of the same chain, which nobody knows before it is filed.
FIRST_OF_CHAIN: Final = "first-of-chain"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What somebody asks for. One that is ``held`` waits until somebody releases it."""

    kind: Kind
    name: str
    parameters: dict[str, Any]
    owner: str
    priority: int = 0
    key: str | None = None
    devices: int = 1
    after: int | None = None
    begins: float = 0.0
    retry_of: int | None = None
    preempt: bool = False
    held: bool = False
    limit: int = 1
    needs: Needs = Needs()
    limits: Limits = Limits()


@dataclass(frozen=True, kw_only=True)
class Maintenance:
    """Why nothing starts at the moment.

    Attributes:
        reason: for everyone who looks or submits.
        by: who has asked for it.
        since: the wall-clock time.
        stop_running: whether trainings are to step aside, too.
    """

    reason: str
    by: str
    since: float
    stop_running: bool

    def __str__(self) -> str:
        return f"maintenance by {self.by}" + (f": {self.reason}" if self.reason else "")
