"""``docker compose``, by the production file of a server."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from azaion.layout import ContainersFolder
from supervisor.containers.images import ContainerError
from supervisor.releases.verification import Seen

#: An image of several gigabytes may take its time.
_PULL_S: Final = 3600.0
_COMMAND_S: Final = 300.0
_ASK_S: Final = 20.0
_SHOWN: Final = 600
#: Why nothing starts meanwhile.
REASON: Final = "deploy of containers"
#: What systemd would call the states of a container.
_STATES: Final = {"running": "active", "restarting": "activating", "exited": "failed", "dead": "failed"}


class Compose:
    """The containers of a folder.

    Args:
        folder: where the compose file lies.
        told: what the compose file is told: the images above all.
    """

    def __init__(self, folder: ContainersFolder, told: Path) -> None:
        self._base = [
            "docker",
            "compose",
            "--project-directory",
            str(folder.path),
            "--env-file",
            str(told),
            "--file",
            str(folder.compose),
        ]

    def check(self) -> None:
        """See whether the compose file and what it is told fit.

        Raises:
            ContainerError: they do not, or there is no engine.
        """
        self._run("config", "--quiet")

    def pull(self) -> None:
        """Have the images here.

        Raises:
            ContainerError: one cannot be had.
        """
        self._run("pull", "--quiet", limit_s=_PULL_S)

    def try_settings(self, service: str) -> None:
        """Have the image of a service look at the settings, before it takes over.

        Raises:
            ContainerError: it refuses them.
        """
        self._run("run", "--rm", "--no-deps", "-T", "--entrypoint", "azaionctl", service, "config", "check")

    def up(self, service: str) -> None:
        """Make the container of a service anew, if its image is another one.

        Raises:
            ContainerError: it cannot be started.
        """
        self._run("up", "--detach", "--no-deps", service)

    def status(self, service: str) -> Mapping[str, Any] | None:
        """What the azaiond of a service says; None if it does not answer."""
        try:
            return dict(json.loads(self._ctl(service, "--json", "status")))
        except (ContainerError, ValueError):
            return None

    def maintenance(self, service: str, state: str) -> None:
        """Have nothing start, or things start again.

        Raises:
            ContainerError: it does not answer.
        """
        reason = ("--reason", REASON) if state == "on" else ()
        self._ctl(service, "maintenance", state, *reason)

    def seen(self, service: str) -> Seen:
        """Look once."""
        found = self._inspect(service)
        if found is None:
            return Seen(active="inactive", restarts=0, pid=0, release=None)
        state = found["State"]
        active = _STATES.get(state["Status"], state["Status"])
        return Seen(
            active=active,
            restarts=int(found["RestartCount"]),
            pid=int(state["Pid"]),
            release=found["Config"]["Image"],
            errors=self._errors(service, state["StartedAt"]),
            status=self.status(service) if active == "active" else None,
        )

    def _inspect(self, service: str) -> dict[str, Any] | None:
        if not (identifier := self._run("ps", "--all", "--quiet", service).strip()):
            return None
        (found,) = json.loads(_output(["docker", "inspect", identifier.split()[0]], _ASK_S))
        return dict(found)

    def _errors(self, service: str, since: str) -> tuple[str, ...]:
        lines = self._run("logs", "--no-log-prefix", "--no-color", "--since", since, service).splitlines()
        return tuple(text for line in lines if (text := _error(line)))

    def _ctl(self, service: str, *arguments: str) -> str:
        return self._run("exec", "-T", service, "azaionctl", *arguments, limit_s=_ASK_S)

    def _run(self, *arguments: str, limit_s: float = _COMMAND_S) -> str:
        return _output([*self._base, *arguments], limit_s)


def _output(argv: list[str], limit_s: float) -> str:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except FileNotFoundError:
        raise ContainerError("there is no docker here; install Docker Engine with its compose plugin") from None
    except subprocess.TimeoutExpired:
        raise ContainerError(f"`{' '.join(argv)}` has not ended within {limit_s:g} s") from None
    if done.returncode != 0:
        raise ContainerError(f"`{' '.join(argv)}` ended with {done.returncode}: {done.stderr.strip()[-_SHOWN:]}")
    return done.stdout


def _error(line: str) -> str:
    """What a line of azaiond's log tells, if it is an error."""
    try:
        told = json.loads(line)
    except ValueError:
        return ""
    wrong = isinstance(told, dict) and told.get("level") in {"error", "critical"}
    return f"{told.get('logger')}: {told.get('event')}" if wrong else ""
