"""The machine: memory, limits, control groups, clock."""

import ctypes
import os
import resource
import shutil
from pathlib import Path
from typing import Final

from azaion.words import size
from supervisor.doctor.model import Diagnosis, Patient, weak, well
from supervisor.health import memory as kernel
from supervisor.jobs import cgroups as groups

_LEAST_MEMORY: Final = 8 << 30
_LEAST_SHARED: Final = 1 << 30
_LEAST_FILES: Final = 4096
_SHARED: Final = Path("/dev/shm")  # noqa: S108 - only its size is looked at
#: adjtimex(2).
_TIMEX_BYTES: Final = 256
_TIME_ERROR: Final = 5


def memory(_patient: Patient) -> list[Diagnosis]:
    """Whether there is enough of it, and whether loaders can share it."""
    found = kernel.read()
    text = f"{size(found.total)}, {size(found.available)} available"
    cure = "add memory, or train with less: TRAINING_BATCH_SIZE, TRAINING_WORKERS in .env"
    said = [well("memory", text) if found.total >= _LEAST_MEMORY else weak("memory", text, cure)]
    shared = shutil.disk_usage(_SHARED).total
    if shared < _LEAST_SHARED:
        remount = f"sudo mount -o remount,size=50% {_SHARED}; of a container: --shm-size"
        said.append(weak("shared memory", f"{_SHARED} has {size(shared)}: loaders of images may fail", remount))
    return said


def pressure(_patient: Patient) -> list[Diagnosis]:
    """Whether the kernel measures how much is waited for memory."""
    if kernel.read().pressure is None:
        return [
            weak(
                "pressure",
                "the kernel does not measure it (PSI): a machine that swaps itself to death is not noticed",
                "add psi=1 to GRUB_CMDLINE_LINUX in /etc/default/grub; sudo update-grub && sudo reboot",
            )
        ]
    return [well("pressure", "measured by the kernel")]


def limits(_patient: Patient) -> list[Diagnosis]:
    """Whether a process may open enough files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    known = hard == resource.RLIM_INFINITY or hard >= _LEAST_FILES
    text = f"{soft} open files, at most {'any number' if hard == resource.RLIM_INFINITY else hard}"
    cure = "LimitNOFILE=65536 by sudo systemctl edit azaion; at a shell: nofile in /etc/security/limits.conf"
    return [well("limits", text) if known else weak("limits", text, cure)]


def cgroups(_patient: Patient) -> list[Diagnosis]:
    """Whether jobs can be held to their limits by control groups."""
    mount = Path("/sys/fs/cgroup")
    if not (mount / "cgroup.controllers").exists():
        return [
            weak(
                "cgroups",
                "version 2 is not what is mounted: limits of jobs are held less well",
                "add systemd.unified_cgroup_hierarchy=1 to GRUB_CMDLINE_LINUX in /etc/default/grub; "
                "sudo update-grub && sudo reboot",
            )
        ]
    absent = {"cpu", "memory"} - set((mount / "cgroup.controllers").read_text(encoding="ascii").split())
    if absent:
        cure = "add cgroup_enable=memory to GRUB_CMDLINE_LINUX in /etc/default/grub; sudo update-grub && sudo reboot"
        return [weak("cgroups", f"without {' and '.join(sorted(absent))}", cure)]
    here = "delegated to us here" if groups.place() is not None else "not delegated to this shell, as is usual"
    return [well("cgroups", f"version 2, {here}; azaiond needs Delegate=yes of its unit")]


def clock(_patient: Patient) -> list[Diagnosis]:
    """Whether the clock is kept right: logs, certificates and backups go by it."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    # With no mode set it only tells.
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    if state < 0:
        reason = os.strerror(ctypes.get_errno())
        return [weak("clock", f"the kernel does not tell whether it is synchronised: {reason}", "timedatectl")]
    if state == _TIME_ERROR:
        cure = "sudo timedatectl set-ntp true, or sudo apt install chrony"
        return [weak("clock", "nothing synchronises it", cure)]
    return [well("clock", "synchronised")]


def user(patient: Patient) -> list[Diagnosis]:
    """Whether this is the user whose eyes count."""
    if patient.config is None:
        return []
    try:
        owner = patient.config.layout.state.stat().st_uid
    except OSError:
        return []
    if owner not in {os.geteuid(), 0} and os.geteuid() != 0:
        name = _name(owner)
        return [
            weak("user", f"the state belongs to {name}: much is seen only by them", f"sudo -u {name} azaionctl doctor")
        ]
    return [well("user", _name(os.geteuid()))]


def _name(uid: int) -> str:
    import pwd  # noqa: PLC0415 - not everywhere

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
