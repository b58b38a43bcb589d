"""What a shim is told of the attempt that it is to run."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from azaion.environment import env_file
from azaion.layout import AttemptFolder, Layout
from supervisor.jobs.model import Attempt, Job, Kind, Limits
from supervisor.jobs.scheduler import CPU
from supervisor.releases import pinned

#: The version of what the daemon and the shim tell each other.
PROTOCOL: Final = 1
#: What of the daemon's environment a run may see. No secret is among it.
ENVIRONMENT: Final = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "AZAION_FAILPOINTS")

#: Which worker does what.
WORKERS: Final[Mapping[Kind, str]] = MappingProxyType(
    {
        Kind.TRAIN: "workers.train",
        Kind.EVALUATE: "workers.evaluate",
        Kind.EXPORT: "workers.export",
        Kind.PUBLISH: "workers.publish",
    }
)


def spec_of(
    layout: Layout,
    job: Job,
    attempt: Attempt,
    devices: Sequence[str],
    confinement: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """The ``spec.json`` of an attempt: all that its shim and its worker are told.

    ``confinement`` is what the launcher says of what holds the attempt to its limits.
    """
    folder = layout.job(job.id, job.uid).attempt(attempt.number)
    run = layout.job(job.id, job.uid).run
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    gpus = [device.removeprefix("gpu") for device in devices if device != CPU]
    environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    common: dict[str, Any] = {
        "protocol": PROTOCOL,
        "job": job.id,
        "uid": job.uid,
        "attempt": attempt.number,
        "nonce": attempt.nonce,
        "kind": job.kind,
        "release": pinned.release(),
        "devices": devices,
        "config": str(layout.config),
        "run": str(run),
        "limits": {**_limits(job.limits), **confinement},
    }
    if job.kind in WORKERS:
        argv = [pinned.interpreter(), "-P", "-m", WORKERS[job.kind], str(folder.path)]
        told = {str(job.kind): {**job.parameters, **job.adjusted}}
        return common | {"argv": argv, "cwd": _cwd(job.kind, folder), "env": environment} | told
    given: Mapping[str, str] = job.parameters["env"]
    return common | {
        "argv": job.parameters["argv"],
        "cwd": job.parameters["cwd"],
        "env": environment | dict(given),
    }


def _cwd(kind: Kind, folder: AttemptFolder) -> str:
    """Where a worker works: where the daemon was started, if it must find secrets there and not in a credential."""
    if kind is Kind.PUBLISH and env_file(os.environ) == Path(".env"):
        return str(Path.cwd())
    return str(folder.path)


def _limits(limits: Limits) -> dict[str, Any]:
    """What the shim is to enforce. The time is not among it: it counts over all attempts, so the daemon keeps it."""
    given: dict[str, Any] = {"memory": limits.memory, "cpus": limits.cpus, "nice": limits.nice}
    return {name: value for name, value in given.items() if value is not None}
