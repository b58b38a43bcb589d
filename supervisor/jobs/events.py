"""What has happened, and who has asked for it."""

from dataclasses import dataclass
from typing import Final, Self


class Actor(str):
    """Whoever asks for something: a name that knows its uid, and whether an event tells of what was asked.

    Made anew for each request.
    """

    __slots__ = ("recorded", "uid")

    uid: int
    recorded: bool

    def __new__(cls, name: str, uid: int) -> Self:
        """The name is that of the user now; the uid is what the kernel says."""
        made = super().__new__(cls, name)
        made.uid = uid
        made.recorded = False
        return made

    def __deepcopy__(self, _memo: object) -> str:
        """In a record it is a name and nothing else."""
        return str(self)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened, for people and for the audit.

    Attributes:
        uid: of the user who has asked for it; None for what happened by itself.
    """

    id: int
    time: float
    job: int | None
    type: str
    text: str
    actor: str
    uid: int | None = None


@dataclass(frozen=True, kw_only=True)
class EventFilter:
    """Which events somebody wants to see; those that are as each given attribute says.

    Attributes:
        actor: a user's name or uid.
        since: not before this wall-clock time.
        types: of one of these types.
    """

    job: int | None = None
    actor: str | None = None
    since: float = 0.0
    types: tuple[str, ...] = ()

    #: For `parameters`.
    SQL = (
        "(:job IS NULL OR job = :job) AND (:actor IS NULL OR actor = :actor OR CAST(uid AS TEXT) = :actor)"
        " AND time >= :since AND (:types = '' OR instr(:types, ',' || type || ',') > 0)"
    )

    @property
    def parameters(self) -> dict[str, object]:
        """What `SQL` speaks of."""
        types = f",{','.join(self.types)}," if self.types else ""
        return {"job": self.job, "actor": self.actor, "since": self.since, "types": types}


ALL_EVENTS: Final = EventFilter()
