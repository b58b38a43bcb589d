"""What must be so before a release is put to use: the checklist, as far as a machine can tell."""

import grp
import json
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from azaion import words
from azaion.layout import SERVER_SETTINGS, STOPPED, ReleaseFolder
from supervisor.releases import etc, use
from supervisor.releases.host import Host
from supervisor.releases.model import Release, ReleaseError
from supervisor.releases.shelf import Shelf

USER: Final = "azaion"
#: Its members may read the settings: those who deploy.
READERS: Final = "deploy"
#: Less than this, and the next thing that happens is a full disk.
_FREE_BYTES: Final = 1 << 30
_MODE: Final = 0o640
_SYSTEMD: Final = 252
_PATIENCE_S: Final = 60.0


class Outcome(StrEnum):
    """What a check has found."""

    OK = "ok"
    WARNING = "warning"  # people should know; nothing speaks against it
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of the thing.
        text: one line.
        cure: what to do about it; empty if it is well.
    """

    name: str
    outcome: Outcome
    text: str
    cure: str = ""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What the checklist has found.

    Attributes:
        checks: in their order.
        before: what the daemon said of itself; None if none answers.
    """

    checks: tuple[Check, ...]
    before: Mapping[str, Any] | None

    @property
    def failed(self) -> list[Check]:
        """What speaks against it."""
        return [check for check in self.checks if check.outcome is Outcome.FAILED]


def look(shelf: Shelf, release: Release, host: Host, *, one_way: bool = False) -> Ready:
    """Look whether this release may be put to use here. Changes nothing.

    Args:
        shelf: the releases.
        release: the one that is to be put to use.
        host: the machine.
        one_way: there need be no way back from it.
    """
    folder, before = shelf.server.release(release.name), host.status()
    settings, told = _settings(folder, host)
    checks = [
        _whole(folder, release),
        _tested(release),
        state(shelf, release, one_way=one_way),
        settings,
        _secrets(shelf.server.settings),
        *_tree(told),
        *_disks(shelf, told),
        _units(shelf, folder),
        systemd(host),
        *_stopped(),
        *_health(before),
        _driver(before),
        _runs(shelf),
    ]
    return Ready(checks=tuple(checks), before=before)


def _ok(name: str, text: str) -> Check:
    return Check(name=name, outcome=Outcome.OK, text=text)


def _whole(folder: ReleaseFolder, release: Release) -> Check:
    """Made, and loads: what an image that was built and pushed is elsewhere."""
    told = _called([str(folder.python), "-P", "-c", "import supervisor.daemon, supervisor.ctl, workers.consumer"], {})
    if told.returncode != 0:
        reason = (told.stderr.strip().splitlines() or ["?"])[-1]
        return Check(
            name="release",
            outcome=Outcome.FAILED,
            text=f"{release.name} cannot be loaded: {reason}",
            cure=f"make it anew: sudo rm -r {folder.path}, and deploy the checkout again",
        )
    return _ok("release", f"{release.name}, made of {release.origin[:19]}, libraries of {release.environment}")


def _tested(release: Release) -> Check:
    """Nobody on this machine can know."""
    return Check(
        name="ci",
        outcome=Outcome.WARNING,
        text="whether its tests and its security scan were green cannot be seen from here",
        cure=f"look at the CI of {release.origin[:12]} before you go on",
    )


def state(shelf: Shelf, release: Release, *, one_way: bool) -> Check:
    """Whether the state can be read by it, and afterwards by the one that it takes over from."""
    current = shelf.current
    now = shelf.release(current).schema if current is not None else release.schema
    if release.schema < now:
        return Check(
            name="state",
            outcome=Outcome.FAILED,
            text=f"the state is of schema {now}, and {release.name} reads {release.schema} at the most",
            cure="there is no way back to it; mend what is wrong in a newer release",
        )
    if release.schema > now:
        return Check(
            name="state",
            outcome=Outcome.WARNING if one_way else Outcome.FAILED,
            text=f"it brings the state from schema {now} to {release.schema}: nothing can be rolled back afterwards",
            cure="" if one_way else "keep a copy of the state folder, and say --one-way",
        )
    return _ok("state", f"schema {now}, as it is")


def _settings(folder: ReleaseFolder, host: Host) -> tuple[Check, dict[str, Any]]:
    """Whether this very release takes the settings of this server, new variables included."""
    with host.credentials() as environment:
        env_file = Path(environment["CREDENTIALS_DIRECTORY"], "env")
        given = env_file if env_file.exists() else SERVER_SETTINGS
        command = [str(folder.python), "-P", "-m", "supervisor.ctl", "--json", "config", "check"]
        told = _called([*command, "--env-file", str(given)], environment)
    try:
        found: dict[str, Any] = json.loads(told.stdout)
    except ValueError:
        said = (told.stderr.strip().splitlines() or [f"exit code {told.returncode}"])[0]
        found = {"ok": False, "problems": [said.removeprefix("azaionctl: ")]}
    if not found["ok"]:
        problems = "; ".join(found["problems"])
        cure = f"mend {SERVER_SETTINGS}; every variable stands in {folder.example}"
        return Check(name="settings", outcome=Outcome.FAILED, text=problems, cure=cure), {}
    return _ok("settings", f"{SERVER_SETTINGS} has all that it needs"), found


def _secrets(path: Path) -> Check:
    """The permissions of the settings."""
    wanted = f"sudo chown root:{READERS} {path} && sudo chmod {_MODE:o} {path}"
    try:
        found = path.stat()
    except OSError as error:
        return Check(name="secrets", outcome=Outcome.FAILED, text=f"{path}: {error.strerror}", cure="azaionctl install")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o007:
        return Check(name="secrets", outcome=Outcome.FAILED, text=f"{path}: others can read it ({mode:o})", cure=wanted)
    if mode != _MODE or found.st_uid != 0 or found.st_gid != _group(READERS):
        text = f"{path} is {mode:o} {_owner(found)}, and should be {_MODE:o} root:{READERS}"
        return Check(name="secrets", outcome=Outcome.WARNING, text=text, cure=wanted)
    return _ok("secrets", f"{path} is {mode:o} {_owner(found)}")


def _stopped() -> list[Check]:
    """A daemon that somebody has stopped for longer proves nothing."""
    if not STOPPED.exists():
        return []
    text = f"somebody has stopped the daemon for longer ({STOPPED})"
    cure = f"sudo rm {STOPPED} && sudo systemctl start azaion.socket azaion"
    return [Check(name="stopped", outcome=Outcome.FAILED, text=text, cure=cure)]


def _tree(told: Mapping[str, Any]) -> list[Check]:
    """The folders of the data and of the state belong to the daemon."""
    checks = []
    for name in ("root", "state"):
        if name not in told:
            continue
        path = Path(told[name])
        try:
            found = path.stat()
        except OSError as error:
            checks.append(
                Check(
                    name="tree",
                    outcome=Outcome.FAILED,
                    text=f"{path}: {error.strerror}",
                    cure="mount its disk, or make it: azaionctl install",
                )
            )
            continue
        if found.st_uid != _user():
            cure = f"sudo chown {USER}:{USER} {path}"
            text = f"{path} belongs to {_owner(found)}, and the daemon is {USER}"
            checks.append(Check(name="tree", outcome=Outcome.FAILED, text=text, cure=cure))
    return checks or [_ok("tree", "the folders are there and the daemon's")]


def _disks(shelf: Shelf, told: Mapping[str, Any]) -> list[Check]:
    """Room for what comes."""
    told_of = (shelf.server.program, told.get("root"), told.get("state"))
    free = {path: shutil.disk_usage(path).free for each in told_of if each and (path := Path(each)).exists()}
    full = [
        Check(
            name="disk",
            outcome=Outcome.FAILED,
            text=f"{path}: {words.size(left)} free",
            cure="make room: azaionctl retention",
        )
        for path, left in free.items()
        if left < _FREE_BYTES
    ]
    return full or [_ok("disk", "free: " + ", ".join(f"{path} {words.size(left)}" for path, left in free.items()))]


def _units(shelf: Shelf, folder: ReleaseFolder) -> Check:
    """Whether somebody has changed what the release in use has put into /etc."""
    if (current := shelf.current) is not None:
        edited = [each.path.name for each in etc.changes(shelf.server, shelf.server.release(current))]
        if edited:
            return Check(
                name="units",
                outcome=Outcome.WARNING,
                text=f"{', '.join(edited)}: not as {current} has them, and lost by this deploy",
                cure="make your changes a drop-in: systemctl edit azaion",
            )
    coming = etc.changes(shelf.server, folder)
    socket = any(each.path.suffix == ".socket" and each.found is not None for each in coming)
    text = etc.told(coming) or "as they are"
    return _ok("units", f"{text}; the socket's change counts from the next boot on" if socket else text)


def systemd(host: Host) -> Check:
    """Whether this machine can run the units at all."""
    told = host.run("systemctl", "--version").stdout.split()
    version = int(told[1]) if len(told) > 1 and told[1].isdecimal() else 0
    if not host.booted or version < _SYSTEMD:
        text = f"systemd {version}" if host.booted else "systemd does not run this machine"
        cure = f"systemd {_SYSTEMD} is needed: Debian 12, Ubuntu 24.04 or newer; else use containers"
        return Check(name="systemd", outcome=Outcome.FAILED, text=text, cure=cure)
    if not any(Path(each).exists() for each in ("/usr/lib/polkit-1/polkitd", "/usr/libexec/polkitd")):
        text = "there is no polkit, and without it the daemon may start no run"
        return Check(name="systemd", outcome=Outcome.FAILED, text=text, cure="sudo apt-get install polkitd")
    return _ok("systemd", f"version {version}, polkit")


def _health(before: Mapping[str, Any] | None) -> list[Check]:
    """What is not well already is not the release's fault."""
    if before is None:
        return [Check(name="health", outcome=Outcome.WARNING, text="no daemon answers now", cure="")]
    bad = [each for each in before["health"]["findings"] if each["verdict"] == "critical"]
    named = "; ".join(f"{each['check']} {each['subject'] or ''}".strip() for each in bad)
    if bad:
        text = f"critical already, before anything was changed: {named}"
        return [Check(name="health", outcome=Outcome.WARNING, text=text, cure="azaionctl health")]
    return [_ok("health", "nothing is critical")]


def _driver(before: Mapping[str, Any] | None) -> Check:
    """The driver of the GPUs, where any is to be used."""
    gpus = [each for each in (before or {}).get("gpus", ()) if str(each["device"]).startswith("gpu")]
    if Path("/proc/driver/nvidia/version").exists():
        return _ok("driver", "NVIDIA's driver is loaded")
    if not gpus:
        return _ok("driver", "no GPU is used here")
    return Check(
        name="driver", outcome=Outcome.FAILED, text="NVIDIA's driver is not loaded", cure="nvidia-smi; azaionctl doctor"
    )


def _runs(shelf: Shelf) -> Check:
    going = use.runs(use.uses(Path("/", shelf.server.releases.relative_to(shelf.server.root))))
    if not going:
        return _ok("runs", "none")
    text = ", ".join(f"{who} with {name}" for who, name in sorted(going.items()))
    return _ok("runs", f"they go on as they were started: {text}")


def _called(command: list[str], environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    folder = SERVER_SETTINGS.parent if SERVER_SETTINGS.parent.is_dir() else Path("/")
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            env={**inherited, **environment},
            cwd=folder,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReleaseError(f"{command[0]} does not answer: {error}") from None


def _user() -> int | None:
    try:
        return pwd.getpwnam(USER).pw_uid
    except KeyError:
        return None


def _group(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _owner(found: os.stat_result) -> str:
    user, group = str(found.st_uid), str(found.st_gid)
    with suppress(KeyError):
        user = pwd.getpwuid(found.st_uid).pw_name
    with suppress(KeyError):
        group = grp.getgrgid(found.st_gid).gr_name
    return f"{user}:{group}"
