"""How a shim is started so that it outlives the daemon."""

import contextlib
import importlib.util
import os
import py_compile
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog

from azaion.layout import AttemptFolder
from supervisor.errors import SupervisorError
from supervisor.jobs import cgroups
from supervisor.jobs.cgroups import CgroupError
from supervisor.jobs.model import Limits
from supervisor.processes import finished

_log = structlog.get_logger("azaion.jobs")


class LaunchError(SupervisorError):
    """A shim could not be started, or a launcher cannot be used on this machine."""


class Launcher(Protocol):
    """Starts the shim of an attempt. The attempt has started when its ``state.json`` says so, not when this returns."""

    async def launch(self, folder: AttemptFolder) -> None:
        """Start the shim.

        Raises:
            LaunchError: it could not be started.
        """
        ...

    def confine(self, name: str, limits: Limits) -> Mapping[str, str]:
        """Prepare what holds an attempt to its limits, if this launcher can.

        Returns what the shim is told of it: the ``cgroup`` that it puts its run into, or the ``unit`` that it finds
        itself in. Nothing if there is neither: the shim then does what it can by itself, and ``state.json`` says how.

        Args:
            name: of the attempt, ``JOB-UID-NUMBER``.
            limits: what it may use.
        """
        ...

    def release(self, name: str) -> None:
        """Remove what `confine` has made, once nothing of the attempt is left."""
        ...

    async def close(self) -> None:
        """Let go of whatever is kept for the next start; what was started goes on."""
        ...


def shim_path() -> Path:
    """Where the shim lies. It is started by path, never imported."""
    found = importlib.util.find_spec("workers")
    if found is None or not found.submodule_search_locations:
        raise LaunchError("the package `workers` is not installed; install azaion-training again")
    return Path(found.submodule_search_locations[0], "shim.py")


def _compiled(path: Path) -> Path:
    """The bytecode of the shim: compiling it anew would be a third of its start. Itself, where none can be written."""
    try:
        return Path(py_compile.compile(str(path), doraise=True) or path)
    except (OSError, py_compile.PyCompileError):
        return path


#: What a shim needs of our environment: nothing, except what a test asks of it.
_ENVIRONMENT: Final = ("PATH", "AZAION_FAILPOINTS")


class ForkLauncher:
    """Double fork and setsid: for a laptop, or a container.

    The shim forks away from its first process, which ends at once, and makes itself a session of its own. It is then
    nobody's child but init's. One is always kept warm, waiting to be told its folder: that saves a third of the time
    from a submit to the start. It leaves when we do.
    """

    def __init__(self) -> None:
        self._shim = _compiled(shim_path())
        self._spare: _Warm | None = None
        self._groups = cgroups.place()

    async def launch(self, folder: AttemptFolder) -> None:
        """Start the shim; returns when its first process has ended, a few milliseconds later."""
        shim, self._spare = self._spare, None
        if shim is not None and shim.process.poll() is not None:
            os.close(shim.pipe)
            shim = None
        shim = shim or self._warm_up()
        try:
            os.write(shim.pipe, os.fsencode(folder.path) + b"\n")
        except OSError as error:
            raise LaunchError(f"cannot tell the shim its folder: {error}") from None
        finally:
            os.close(shim.pipe)
            code = await finished(shim.process)
        if code != 0:
            raise LaunchError(f"the shim's first process ended with {code}")
        if self._spare is None:
            # Starts overlap, and whoever ended first has warmed one up already.
            with contextlib.suppress(LaunchError):
                # This one has started; what is wrong with the next will be told by the next.
                self._spare = self._warm_up()

    def confine(self, name: str, limits: Limits) -> Mapping[str, str]:
        """Make a control group beside the daemon's own, if it has been given a tree to divide."""
        if self._groups is None or (limits.memory is None and limits.cpus is None):
            return {}
        try:
            return {"cgroup": str(cgroups.make(self._groups, name, limits))}
        except CgroupError as error:
            _log.warning("no control group", error=str(error))
            return {}

    def release(self, name: str) -> None:
        """Remove the group."""
        if self._groups is not None:
            cgroups.remove(self._groups, name)

    async def close(self) -> None:
        """Let the warm one go."""
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare.pipe)
            await finished(spare.process)

    def _warm_up(self) -> "_Warm":
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        try:
            reading, writing = os.pipe()
        except OSError as error:
            raise LaunchError(f"cannot start the shim: {error}") from None
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", self._shim, "--detach", "-"],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            os.close(writing)
            raise LaunchError(f"cannot start the shim: {error}") from None
        finally:
            os.close(reading)
        return _Warm(process, writing)


@dataclass(frozen=True)
class _Warm:
    """A shim that waits to be told its folder through a pipe."""

    process: subprocess.Popen[bytes]
    pipe: int


def refuse_under_systemd() -> None:
    """Refuse the fork launcher inside a systemd service that would take the runs down with it.

    Raises:
        LaunchError: this process is the main process of a service whose KillMode is not ``process``.
    """
    unit = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("/")[2]
    if "INVOCATION_ID" not in os.environ or not unit.endswith(".service"):
        return
    try:
        shown = subprocess.run(
            ["systemctl", "show", "-p", "KillMode", "-p", "MainPID", unit],  # noqa: S607 - wherever it lies
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        ).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return
    if f"MainPID={os.getpid()}" in shown and "KillMode=process" not in shown:
        raise LaunchError(
            f"AZAION_LAUNCHER=fork inside {unit}: its runs would die with the service. "
            f"Use AZAION_LAUNCHER=systemd, or set KillMode=process in the unit",
        )


def in_container() -> bool:
    """Whether this looks like a container: runs that are forked in one die with it."""
    return any(Path(path).exists() for path in ("/.dockerenv", "/run/.containerenv"))
