"""The table of the jobs."""

from collections.abc import Mapping
from typing import Any, Final

from rich.text import Text

from supervisor.commands import text
from supervisor.top.lines import STATES, fit
from supervisor.top.source import Look

#: Cells of the columns of a job before its name.
_ID, _STATE, _KIND, _PRIORITY = 5, 9, 8, 4
#: Of what is left, for its name: the reason why it waits matters more.
_NAME_SHARE: Final = 0.4


def jobs(look: Look) -> list[dict[str, Any]]:
    """The rows of the table: what runs, then what waits in the order of its turn, then what has ended last."""
    told = look.status["jobs"]
    rows = {job["id"]: job for job in (*told["active"], *told["waiting"])}
    for job in look.ended:
        # Ended between two questions: the later answer is the truer one.
        rows[job["id"]] = job
    order = {"active": 0, "waiting": 1, "ended": 2}
    group = {job["id"]: order["active"] for job in told["active"]} | {
        job["id"]: order["waiting"] for job in told["waiting"]
    }
    group |= {job["id"]: order["ended"] for job in look.ended}
    return sorted(rows.values(), key=lambda job: group[job["id"]])


def columns(width: int) -> Text:
    """The heading of the table."""
    return _row("ID", "STATE", "KIND", "PRIO", "NAME", "WHAT", width)


def row(job: Mapping[str, Any], width: int) -> Text:
    """A job in a line."""
    line = _row(str(job["id"]), job["state"], job["kind"], str(job["priority"]), job["name"], _what(job), width)
    state = STATES.get(job["state"], "")
    if state == "dim":
        line.stylize(state)
    elif state:
        line.stylize(state, _ID + 1, _ID + 1 + _STATE)
    return line


def _row(number: str, state: str, kind: str, priority: str, name: str, what: str, width: int) -> Text:
    room = max(0, width - _ID - _STATE - _KIND - _PRIORITY - 5)
    for_name = min(40, round(room * _NAME_SHARE))
    parts = [f"{number:>{_ID}}", fit(state, _STATE), fit(kind, _KIND), f"{priority:>{_PRIORITY}}", ""]
    return Text(" ".join(parts) + f"{fit(name, for_name)} {fit(what, max(0, room - for_name))}", no_wrap=True)


def _what(job: Mapping[str, Any]) -> str:
    """What matters of it: how far it is, why it waits, how it ended."""
    if job["state"] in {"succeeded", "failed", "cancelled"}:
        why = job["reason"] or job["cause"] or ""
        return f"{text.since(job['ended'])} ago{': ' if why else ''}{why}"
    told = job["progress"]
    if told and told["epochs"]:
        return f"{100 * done(told):3.0f} %  {told['epoch']}/{told['epochs']}  ETA {text.duration(told['eta_s'])}"
    if job["state"] in {"held", "queued"}:
        return str(job["reason"] or ("held" if job["state"] == "held" else "about to start"))
    phase = f"{told['phase']}, " if told and told["phase"] else ""
    return f"{phase}since {text.since(job['started'])}" if job["started"] else phase or "starting"


def done(told: Mapping[str, Any]) -> float:
    """Which part of a training is done, from 0 to 1."""
    epochs, batches = told["epochs"] or 0, told["batches"] or 0
    done = max(0, (told["epoch"] or 0) - 1) + ((told["batch"] or 0) / batches if batches else 0.0)
    return min(1.0, done / epochs) if epochs else 0.0
