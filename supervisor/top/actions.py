"""What can be done to a job from the screen: when it makes sense, what is asked first, and what the daemon is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from supervisor.commands import text
from supervisor.top.lines import fit

_NAME: Final = 40
_WAITING: Final = frozenset({"held", "queued"})
_ACTIVE: Final = frozenset({"starting", "running", "stopping"})
_ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})


class Action(StrEnum):
    """Something that is done to one job."""

    CANCEL = "cancel"
    STOP = "stop"
    HOLD = "hold"
    RELEASE = "release"
    RETRY = "retry"
    PRIORITY = "priority"


#: In which states an action makes sense. The daemon has the last word; this only saves a question.
_SENSIBLE: Final[Mapping[Action, frozenset[str]]] = MappingProxyType(
    {
        Action.CANCEL: _WAITING | _ACTIVE,
        Action.STOP: _ACTIVE,
        Action.HOLD: frozenset({"queued"}),
        Action.RELEASE: frozenset({"held"}),
        Action.RETRY: _ENDED,
        Action.PRIORITY: _WAITING,
    }
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked before an action.

    Attributes:
        title: the action and the job, by number and name.
        text: what will happen.
        yes: what the button says that does it.
        number: what is asked for beside the consent: the number that stands there at first; None for nothing.
    """

    action: Action
    job: int
    title: str
    text: str
    yes: str
    number: int | None = None


def question(action: Action, job: Mapping[str, Any]) -> Question | str:
    """What to ask before doing it to this job; or, as plain text, why there is nothing to ask."""
    number, state = job["id"], job["state"]
    if state not in _SENSIBLE[action]:
        return f"job {number} is {state}: {_PITY[action]}"
    return Question(
        action=action,
        job=number,
        title=f"{_TITLES[action]} job {number}, {fit(job['name'], min(_NAME, len(job['name']))).rstrip()}?",
        text=_consequence(action, job),
        yes=f"{_TITLES[action]} it",
        number=job["priority"] if action is Action.PRIORITY else None,
    )


def toggled(job: Mapping[str, Any]) -> Action:
    """What the one key for both does to this job."""
    return Action.RELEASE if job["state"] == "held" else Action.HOLD


def request(asked: Question, number: int | None = None) -> tuple[str, Any]:
    """What the daemon is told: path and body."""
    path = f"/v1/jobs/{asked.job}/{asked.action}"
    return path, {"priority": number} if asked.action is Action.PRIORITY else None


def answer(asked: Question, job: Mapping[str, Any]) -> str:
    """What the daemon has made of it, in a line."""
    match asked.action:
        case Action.RETRY:
            return f"job {asked.job} is filed anew as job {job['id']}"
        case Action.PRIORITY:
            return f"job {job['id']} has priority {job['priority']}"
        case _:
            return f"job {job['id']} is {job['state']}"


_TITLES: Final = MappingProxyType(
    {
        Action.CANCEL: "Cancel",
        Action.STOP: "Stop",
        Action.HOLD: "Hold",
        Action.RELEASE: "Release",
        Action.RETRY: "Retry",
        Action.PRIORITY: "Reprioritise",
    }
)

_PITY: Final = MappingProxyType(
    {
        Action.CANCEL: "there is nothing left to cancel",
        Action.STOP: "only one that runs can be stopped; one that waits can be cancelled (c) or held (h)",
        Action.HOLD: "only one that waits can be held",
        Action.RELEASE: "only one that is held can be released",
        Action.RETRY: "only one that has ended can be filed anew",
        Action.PRIORITY: "only one that waits has a turn to change",
    }
)


def _consequence(action: Action, job: Mapping[str, Any]) -> str:
    training, active = job["kind"] == "train", job["state"] in _ACTIVE
    match action:
        case Action.CANCEL if not active:
            return "It will not start, and neither will what is to come after it."
        case Action.CANCEL:
            lost = "Epochs since the last checkpoint are lost. " if training else "What it has not written is lost. "
            return (
                f"It gets SIGTERM now, and SIGKILL after 30 s. {lost}"
                "It does not go on afterwards, and what is to come after it is cancelled."
            )
        case Action.STOP if training:
            return (
                "It ends at the next epoch boundary, with a checkpoint, however long that takes; no finished epoch is "
                "lost. It does not go on afterwards."
            )
        case Action.STOP:
            return "It gets SIGTERM, and as long as it likes to end."
        case Action.HOLD:
            return "It will not start until it is released. It keeps its place in the queue."
        case Action.RELEASE:
            return "It starts when its turn comes."
        case Action.RETRY:
            again = "begins from the start" if training else "runs again"
            return f"A new job with the same parameters {again}; this one stays as it is."
        case Action.PRIORITY:
            return f"Higher goes first. It has {job['priority']}, and was filed {text.since(job['created'])} ago."
