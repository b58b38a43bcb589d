"""Control groups (version 2) for single attempts, where the daemon has been given a tree of its own.

It has one if it sits in a leaf of it and its parent lets memory and processors be limited below, as
``DelegateSubgroup=`` of systemd makes it. Then each attempt gets a group beside the daemon's. Nothing is moved or
enabled here: a tree that is not ready is not ours.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from azaion.errors import AzaionError
from supervisor.jobs.model import Limits

#: The period over which a share of processors is counted, in microseconds.
_PERIOD_US: Final = 100_000
_MOUNT: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")
_PREFIX: Final = "azaion-"


class CgroupError(AzaionError):
    """A control group cannot be made."""


def place(own: Path = _OWN, mount: Path = _MOUNT) -> Path | None:
    """Where groups for attempts can be made; None where there is no such place."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    parent = (mount / path.strip("/")).parent
    # The root of all groups has no limits of its own, and is nobody's to divide.
    if path == "/" or not (parent / "memory.max").exists() or not _delegated(parent):
        return None
    try:
        enabled = (parent / "cgroup.subtree_control").read_text(encoding="ascii").split()
    except OSError:
        return None
    writable = all(os.access(path, os.W_OK) for path in (parent, parent / "cgroup.procs"))
    return parent if writable and {"memory", "cpu"} <= set(enabled) else None


def _delegated(parent: Path) -> bool:
    """Whether the group has been given to us. Root may write everywhere, so there systemd's mark is needed."""
    if os.geteuid() != 0:
        return True
    for name in ("user.delegate", "trusted.delegate"):
        with suppress(OSError):
            if os.getxattr(parent, name) == b"1":
                return True
    return False


def make(parent: Path, name: str, limits: Limits) -> Path:
    """Make a group with these limits.

    Raises:
        CgroupError: it cannot be made.
    """
    group = parent / f"{_PREFIX}{name}"
    settings = {}
    if limits.memory is not None:
        # The whole attempt goes, not one process of it.
        settings = {"memory.max": str(limits.memory), "memory.oom.group": "1"}
    if limits.cpus is not None:
        settings["cpu.max"] = f"{round(limits.cpus * _PERIOD_US)} {_PERIOD_US}"
    try:
        group.mkdir(exist_ok=True)
        for setting, value in settings.items():
            (group / setting).write_text(value, encoding="ascii")
    except OSError as error:
        remove(parent, name)
        raise CgroupError(f"the control group {group} cannot be made: {error}") from None
    return group


def remove(parent: Path, name: str) -> None:
    """Remove the group of an attempt of which nothing is left."""
    with suppress(OSError):
        # Its files are the kernel's and go with it.
        (parent / f"{_PREFIX}{name}").rmdir()
