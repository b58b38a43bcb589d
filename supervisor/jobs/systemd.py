"""The launcher ``systemd``: each attempt in a unit of its own, which nothing reaches that happens to the daemon's."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from azaion import files, layout
from azaion.layout import AttemptFolder
from supervisor.jobs.launchers import LaunchError, shim_path
from supervisor.jobs.model import Limits
from supervisor.processes import finished

#: systemd runs this machine, not merely lies on it: sd_booted(3).
BOOTED: Final = Path("/run/systemd/system")
#: The polkit rule allows these and no others.
_NAME: Final = re.compile(r"[0-9A-Za-z_-]{1,200}")
#: systemd answers in milliseconds; a machine that swaps, or polkit's first start, may take some seconds.
_PATIENCE_S: Final = 60.0
_SHOWN: Final = 500
#: The one kind that is given the secrets of the settings.
_PUBLISH: Final = "publish"


def unit_of(name: str, kind: str = "") -> str:
    """The unit of an attempt of a job of this kind, or of a start of a service."""
    return f"azaion-{kind if kind == _PUBLISH else 'train'}@{name}.service"


def name_of(folder: AttemptFolder) -> str:
    """The name of an attempt by its folder: ``JOB-UID-NUMBER`` for a job, ``NAME-NUMBER`` for a service.

    Raises:
        LaunchError: no unit can have that name.
    """
    name = f"{folder.path.parent.name}-{folder.path.name}"
    if not _NAME.fullmatch(name):
        raise LaunchError(f"{folder.path} gives no name for a unit of systemd")
    return name


def properties(limits: Limits) -> list[str]:
    """What systemd is told of limits. The niceness is the shim's to set, the time the daemon's to keep."""
    told = []
    if limits.memory is not None:
        # Else the run would swap, and the whole machine with it, instead of ending with its cause.
        told += [f"MemoryMax={limits.memory}", "MemorySwapMax=0"]
    if limits.cpus is not None:
        told.append(f"CPUQuota={limits.cpus * 100:g}%")
    return told


class SystemdLauncher:
    """Starts ``azaion-train@NAME.service``, whose one line of shell runs the shim.

    The line names the interpreter and the shim of this very release, so that the unit needs to know neither, and a
    release that comes later changes nothing for what is being started.

    Raises:
        LaunchError: systemd does not run this machine, or knows no such unit.
    """

    def __init__(self) -> None:
        _check()
        # -I and -S: the shim needs nothing but the standard library, so the interpreter behind the environment will do.
        self._shim = (os.path.realpath(sys.executable), "-I", "-S", str(shim_path().resolve()))
        self._limits: dict[str, Limits] = {}

    async def launch(self, folder: AttemptFolder) -> None:
        """Start the unit; returns when systemd has started it."""
        name = name_of(folder)
        unit = unit_of(name, str(files.read_json(folder.spec).get("kind", "")))
        order = layout.order(name)
        try:
            order.write_text(f"exec {shlex.join([*self._shim, str(folder.path)])}\n", encoding="utf-8")
            if told := properties(self._limits.pop(name, Limits())):
                await _systemctl("set-property", "--runtime", unit, *told)
            await _systemctl("start", unit)
        except OSError as error:
            raise LaunchError(f"cannot write {order}: {error.strerror}; have its folder made: {_MAKE}") from None
        except LaunchError:
            order.unlink(missing_ok=True)
            raise

    def confine(self, name: str, limits: Limits) -> Mapping[str, str]:
        """Note what the unit is to hold the attempt to."""
        if not properties(limits):
            return {}
        self._limits[name] = limits
        return {"unit": name}

    def release(self, name: str) -> None:
        """Forget it; the unit removes its order itself."""
        self._limits.pop(name, None)

    async def close(self) -> None:
        """Nothing is kept."""


_MAKE: Final = "sudo systemd-tmpfiles --create azaion.conf"


def _check() -> None:
    """Refuse what cannot work, with what to do about it."""
    if not BOOTED.is_dir():
        raise LaunchError(
            "AZAION_LAUNCHER=systemd: systemd does not run this machine; set AZAION_LAUNCHER=fork",
        )
    orders = layout.order("x").parent
    if not os.access(orders, os.W_OK | os.X_OK):
        raise LaunchError(f"AZAION_LAUNCHER=systemd: {orders} cannot be written; install the units, then: {_MAKE}")
    try:
        told = subprocess.run(
            ["systemctl", "show", "--property=LoadState", "--value", unit_of("x")],  # noqa: S607 - wherever it lies
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"AZAION_LAUNCHER=systemd: systemctl does not answer: {error}") from None
    # No answer at all is no reason to refuse: a bus that is late at boot will be there when the first job starts.
    if told == "not-found":
        raise LaunchError(
            "AZAION_LAUNCHER=systemd: there is no azaion-train@.service; install the units of etc/systemd, "
            "then: sudo systemctl daemon-reload"
        )


async def _systemctl(*arguments: str) -> None:
    """Run systemctl; raises LaunchError with its words if it fails."""
    try:
        process = subprocess.Popen(  # noqa: ASYNC220 - vfork and exec: a millisecond
            ["systemctl", "--no-ask-password", "--quiet", *arguments],  # noqa: S607 - wherever it lies
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except OSError as error:
        raise LaunchError(f"cannot run systemctl: {error}") from None
    with process:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                code = await finished(process)
        except TimeoutError:
            raise LaunchError(f"systemctl {arguments[0]}: no answer within {_PATIENCE_S:g} s") from None
        finally:
            if process.returncode is None:
                # Not reaped yet, so the number is still its own. What it has asked for goes on all the same.
                process.kill()
        if code != 0:
            said = process.stderr.read() if process.stderr is not None else b""
            text = " ".join(said.decode(errors="replace").split())[:_SHOWN] or f"exit code {code}"
            raise LaunchError(f"systemctl {arguments[0]}: {text}")
