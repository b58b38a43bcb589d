"""What the daemon and its clients tell each other: job records, and errors."""

import datetime as dt
from typing import Any

from supervisor.jobs.model import Attempt, Job, Maintenance
from supervisor.jobs.store import Event

#: The newest version of the protocol that this code speaks; in every status.
VERSION = 1


def stamp(seconds: float | None) -> str | None:
    """A time as RFC 3339 in UTC."""
    if seconds is None:
        return None
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def attempt_record(attempt: Attempt) -> dict[str, Any]:
    """An attempt as ``show --json`` prints it."""
    return {
        "n": attempt.number,
        "pid": attempt.child.pid if attempt.child else None,
        "started": stamp(attempt.started),
        "ended": stamp(attempt.ended),
        "exit_code": attempt.exit_code,
        "cause": attempt.cause,
        "resumed_from_epoch": attempt.resumed_from_epoch,
    }


def job_record(job: Job, *, waits: str | None = None, progress: dict[str, Any] | None = None) -> dict[str, Any]:
    """A job as ``list --json`` prints it; ``show --json`` adds its attempts."""
    told = progress or {}
    return {
        "id": job.id,
        "kind": str(job.kind),
        "name": job.name,
        "state": str(job.state),
        "cause": job.cause,
        "reason": waits or job.reason,
        "priority": job.priority,
        "key": job.key,
        "after": job.after,
        "begins": stamp(job.begins) if job.begins else None,
        "retry_of": job.retry_of,
        "owner": job.owner,
        "devices": job.devices,
        "created": stamp(job.created),
        "started": stamp(job.started),
        "ended": stamp(job.ended),
        "progress": {
            "phase": told.get("phase"),
            "epoch": told.get("epoch"),
            "epochs": told.get("epochs"),
            "batch": told.get("batch"),
            "batches": told.get("batches"),
            "eta_s": told.get("eta_s"),
            "metrics": told.get("metrics", {}),
            "gpu_mem_gb": told.get("gpu_mem_gb"),
        }
        if told
        else None,
        "artifacts": job.artifacts,
    }


def maintenance_record(maintenance: Maintenance | None) -> dict[str, Any] | None:
    """Why nothing starts, as ``status --json`` prints it; None if it may."""
    if maintenance is None:
        return None
    return {
        "reason": maintenance.reason,
        "by": maintenance.by,
        "since": stamp(maintenance.since),
        "stop_running": maintenance.stop_running,
    }


def event_record(event: Event) -> dict[str, Any]:
    """An event as ``events --json`` prints it."""
    return {
        "id": event.id,
        "time": stamp(event.time),
        "job": event.job,
        "type": event.type,
        "text": event.text,
        "actor": event.actor,
    }
