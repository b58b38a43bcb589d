"""What the daemon and its clients tell each other: job records, and errors."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import Any

from supervisor.gpus import Reading
from supervisor.jobs.events import Event
from supervisor.jobs.gate import Alert
from supervisor.jobs.model import Attempt, Job, Maintenance
from supervisor.jobs.preflight import Check

#: The newest version of the protocol that this code speaks; in every status.
VERSION = 1
#: What came of a request, by the type of its event.
_OUTCOMES = {"refused": "refused", "request-failed": "failed", "asked": "nothing changed"}


def stamp(seconds: float | None) -> str | None:
    """A time as RFC 3339 in UTC."""
    if seconds is None:
        return None
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def attempt_records(job: Job, attempts: Sequence[Attempt], now: float) -> list[dict[str, Any]]:
    """The attempts of a job as ``show --json`` prints them."""
    return [
        _attempt_record(attempt) | {"stood_aside_s": _stood_aside_s(job, attempt, later, now)}
        for attempt, later in zip_longest(attempts, attempts[1:])
    ]


def _stood_aside_s(job: Job, attempt: Attempt, later: Attempt | None, now: float) -> float | None:
    """For how long a job has waited after an attempt that stepped aside; None if this one did not."""
    if attempt.cause != "preempted" or attempt.ended is None:
        return None
    until = job.ended or now if later is None else later.started or now
    return round(max(0.0, until - attempt.ended), 3)


def _attempt_record(attempt: Attempt) -> dict[str, Any]:
    return {
        "n": attempt.number,
        "pid": attempt.child.pid if attempt.child else None,
        "started": stamp(attempt.started),
        "ended": stamp(attempt.ended),
        "exit_code": attempt.exit_code,
        "cause": attempt.cause,
        "resumed_from_epoch": attempt.resumed_from_epoch,
    }


def job_record(
    job: Job, *, chain: Sequence[int] = (), waits: str | None = None, progress: dict[str, Any] | None = None
) -> dict[str, Any]:
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
        "chain": list(chain),
        "begins": stamp(job.begins) if job.begins else None,
        "retry_of": job.retry_of,
        "owner": job.owner,
        "devices": job.devices,
        "needs": asdict(job.needs),
        "limits": asdict(job.limits),
        "adjusted": job.adjusted,
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


def device_record(device: str, job: int | None, reading: Reading | None) -> dict[str, Any]:
    """A device as ``status --json`` prints it, with what NVML has told of it."""
    record: dict[str, Any] = {"device": device, "job": job}
    number = device.removeprefix("gpu")
    if reading is None or not number.isdecimal():
        return record
    gpu = reading.gpu(int(number))
    problem = reading.absent or reading.problem or (gpu.problem if gpu is not None else "it is not shown by the driver")
    return record | {
        "name": gpu.name if gpu is not None else "",
        "total": gpu.total if gpu is not None else None,
        "free": gpu.free if gpu is not None else None,
        "celsius": gpu.temperature if gpu is not None else None,
        "busy_percent": gpu.busy_percent if gpu is not None else None,
        "processes": [asdict(tenant) for tenant in gpu.tenants] if gpu is not None else [],
        "problem": problem,
    }


def alert_record(alert: Alert) -> dict[str, Any]:
    """Something that needs somebody, as ``status --json`` prints it."""
    return {"job": alert.job, "since": stamp(alert.since), "text": alert.text}


def preflight_record(checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as ``preflight --json`` prints them."""
    return {"ok": all(check.ok for check in checks), "checks": [asdict(check) for check in checks]}


def event_record(event: Event) -> dict[str, Any]:
    """An event as ``events --json`` prints it."""
    return {
        "id": event.id,
        "time": stamp(event.time),
        "job": event.job,
        "type": event.type,
        "text": event.text,
        "actor": event.actor,
        "uid": event.uid,
        "outcome": None if event.uid is None else _OUTCOMES.get(event.type, "done"),
    }
