"""Where everything lies: permissions, disks, room."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from azaion.declarations.health import CHECKS
from supervisor.doctor.model import Diagnosis, Patient, ill, weak, well
from supervisor.health import disks as fullness
from supervisor.health.looks import Levels, Seen
from supervisor.health.model import Verdict

#: On these SQLite's log is not safe, or locks are not kept.
_FAR: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "glusterfs", "fuse.glusterfs"})
_FLEETING: Final = frozenset({"tmpfs", "ramfs"})
_MOUNTS: Final = Path("/proc/self/mountinfo")


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A filesystem that is mounted.

    Attributes:
        device: its major and minor number, as ``8:1``.
        kind: such as ``ext4``.
        read_only: whether nothing can be written.
    """

    point: Path
    device: str
    kind: str
    read_only: bool


def permissions(patient: Patient) -> list[Diagnosis]:
    """Whether the folders are there and can be written."""
    if patient.config is None:
        return []
    layout = patient.config.layout
    said = [
        diagnosis
        for name, path in (("root", layout.root), ("state", layout.state), ("spool", layout.spool))
        if (diagnosis := _permission(name, path, must=name == "root")) is not None
    ]
    return said or [well("permissions", f"{layout.root} and {layout.state} can be written")]


def _permission(name: str, path: Path, *, must: bool) -> Diagnosis | None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if must:
            return ill(name, f"{path} is not there", f"mount its disk, or: sudo install -d -o $USER {path}")
        # The daemon makes it, where it may.
        above = next(parent for parent in path.parents if parent.exists())
        return None if os.access(above, os.W_OK | os.X_OK) else ill(name, f"{path} cannot be made", _give(path))
    except OSError as error:
        return ill(name, f"{path}: {error.strerror}", _give(path))
    if not stat.S_ISDIR(mode):
        return ill(name, f"{path} is no folder", f"move it away: mv {path} {path}.old")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return ill(name, f"{path} cannot be written by this user", _give(path))
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return weak(name, f"everybody can write {path} (mode {stat.S_IMODE(mode):o})", f"chmod o-w {path}")
    return None


def _give(path: Path) -> str:
    return f"sudo install -d -o $USER {path}; what is in it: sudo chown -R $USER {path}"


def secrets(patient: Patient) -> list[Diagnosis]:
    """Whether others can read the passwords."""
    if patient.env_file is None:
        return [well("secrets", "no .env here: they come from the environment, or from systemd")]
    try:
        mode = stat.S_IMODE(patient.env_file.stat().st_mode)
    except OSError as error:
        return [ill("secrets", f"{patient.env_file}: {error.strerror}", f"sudo chown $USER {patient.env_file}")]
    if mode & 0o007:
        return [ill("secrets", f"others can read {patient.env_file} (mode {mode:o})", f"chmod 640 {patient.env_file}")]
    return [well("secrets", f"{patient.env_file} has mode {mode:o}")]


def disks(patient: Patient) -> list[Diagnosis]:
    """Whether what must last lies where it does, and has room."""
    if patient.config is None:
        return []
    layout = patient.config.layout
    table = tuple(mounts(_MOUNTS.read_text(encoding="utf-8", errors="replace")))
    said = []
    for name, path in (("root", layout.root), ("state", layout.state)):
        found = mount_of(path, table)
        said.append(_judge_kind(name, path, found))
    checks = patient.declarations.health.checks if patient.declarations is not None else CHECKS
    for usage in fullness.usages([path for path in (layout.root, layout.state) if path.exists()]):
        for check, judge in (("disk", _judge_room), ("inodes", fullness.judge_files)):
            seen = judge(usage, Levels.of(checks[check]))
            if seen is not None:
                text = f"{usage.path}: {seen.text}"
                said.append(Diagnosis(name=check, verdict=seen.verdict, text=text, cure=_cure(seen.verdict)))
    return said


def _judge_room(usage: fullness.Usage, levels: Levels) -> Seen:
    return fullness.DiskLook(levels)([usage])[0]


def _cure(verdict: Verdict) -> str:
    return "" if verdict is Verdict.OK else "azaionctl retention shows what could go; or give the disk more room"


def _judge_kind(name: str, path: Path, found: Mount | None) -> Diagnosis:
    label = f"{name} disk"
    if found is None:
        return weak(label, f"{path}: nobody knows on which disk it lies", f"findmnt -T {path}")
    what = f"{path}: {found.kind}{_speed(found)}"
    move = "AZAION_ROOT_DIR" if name == "root" else "AZAION_STATE_DIR"
    if found.read_only:
        cure = f"sudo dmesg | grep -i error; sudo mount -o remount,rw {found.point}"
        return ill(label, f"{what}, mounted read-only", cure)
    if found.kind in _FLEETING:
        return ill(label, f"{what}: all of it is lost with the power", f"set {move} to a folder on a disk, in .env")
    if found.kind in _FAR and name == "state":
        return ill(label, f"{what}: a database is not safe there", f"set {move} to a folder on a local disk, in .env")
    if found.kind == "overlay":
        return weak(label, f"{what}: lost with its container", f"mount a volume at {path}")
    return well(label, what)


def _speed(found: Mount) -> str:
    try:
        block = Path("/sys/dev/block", found.device).resolve()
        queue = next(folder / "queue" for folder in (block, block.parent) if (folder / "queue").is_dir())
        turns = (queue / "rotational").read_text(encoding="ascii").strip() == "1"
    except (OSError, StopIteration):
        return ""
    return ", a disk that turns" if turns else ", solid state"


def mounts(text: str) -> Iterator[Mount]:
    """What ``/proc/self/mountinfo`` tells."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        point = Path(fields[4].encode().decode("unicode_escape"))
        read_only = "ro" in {*fields[5].split(","), *rest[2].split(",")}
        yield Mount(point=point, device=fields[2], kind=rest[0], read_only=read_only)


def mount_of(path: Path, table: tuple[Mount, ...]) -> Mount | None:
    """The filesystem that a path lies on, or will."""
    real = path.resolve()
    fitting = [mount for mount in table if real == mount.point or mount.point in real.parents]
    # Of several at one place the last one is on top.
    return max(enumerate(fitting), key=lambda each: (len(each[1].point.parts), each[0]))[1] if fitting else None
