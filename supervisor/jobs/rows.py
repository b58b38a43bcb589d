"""From the rows of the database to jobs and attempts, and from a submission to a row."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from supervisor.jobs.model import FIRST_OF_CHAIN, Attempt, Intent, Job, Kind, Limits, Needs, State, Submission
from supervisor.processes import Identity


def columns_of(submission: Submission, *, uid: str, created: float, first: str = "") -> dict[str, Any]:
    """The row of a new job; ``first`` is the uid of the first job of its chain, if it is a later one."""
    parameters = {name: first if value == FIRST_OF_CHAIN else value for name, value in submission.parameters.items()}
    return {
        "uid": uid,
        "kind": submission.kind,
        "name": submission.name,
        "state": State.HELD if submission.held else State.QUEUED,
        "reason": f"held by {submission.owner}" if submission.held else "",
        "parameters": json.dumps(parameters),
        "owner": submission.owner,
        "priority": submission.priority,
        "key": submission.key,
        "after": submission.after,
        "begins": submission.begins,
        "retry_of": submission.retry_of,
        "preempt": int(submission.preempt),
        "devices": submission.devices,
        "attempt_limit": submission.limit,
        "needs": json.dumps(asdict(submission.needs)),
        "limits": json.dumps(asdict(submission.limits)),
        "created": created,
    }


def job_of(row: sqlite3.Row | Mapping[str, Any]) -> Job:
    """A job, of a whole row."""
    columns = dict(row)
    columns["limit"] = columns.pop("attempt_limit")
    columns["kind"] = Kind(columns["kind"])
    columns["state"] = State(columns["state"])
    columns["intent"] = Intent(columns["intent"]) if columns["intent"] else None
    columns["preempt"] = bool(columns["preempt"])
    columns["needs"] = _needs(columns["needs"])
    columns["limits"] = _limits(columns["limits"])
    for name in ("parameters", "artifacts", "adjusted"):
        columns[name] = json.loads(columns[name]) if columns[name] != "{}" else {}
    return Job(**columns)


@lru_cache(maxsize=256)
def _needs(text: str) -> Needs:
    return Needs(**json.loads(text))


@lru_cache(maxsize=256)
def _limits(text: str) -> Limits:
    return Limits(**json.loads(text))


def attempt_of(row: sqlite3.Row) -> Attempt:
    """An attempt, of a whole row."""
    columns = dict(row)
    del columns["job"]
    pid, start = columns.pop("child_pid"), columns.pop("child_start")
    return Attempt(**columns, child=Identity(pid, start) if pid is not None else None)
