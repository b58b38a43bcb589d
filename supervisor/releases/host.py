"""The machine of a server: systemd, its journal, and the daemon that it runs."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final

from supervisor.control.client import SYSTEM_SOCKET, Client, ClientError
from supervisor.releases.model import ReleaseError

DAEMON: Final = "azaion.service"
SOCKET: Final = "azaion.socket"
#: Takes back at the boot what a power cut has cut off.
RECOVERY: Final = "azaion-recover.service"
#: What is started at every boot, and by which target.
ENABLED: Final = MappingProxyType(
    {SOCKET: "sockets.target", DAEMON: "multi-user.target", RECOVERY: "multi-user.target"}
)
#: A stop may take 45 s, a start 90.
_PATIENCE_S: Final = 180.0
_CALL_S: Final = 5.0


class Host:
    """What a deploy asks of the machine that it runs on."""

    def __init__(self, socket: Path = SYSTEM_SOCKET) -> None:
        self._client = Client(socket)

    @property
    def booted(self) -> bool:
        """Whether systemd runs this machine."""
        return Path("/run/systemd/system").is_dir()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the system's; its failure is the caller's to judge.

        Raises:
            ReleaseError: it cannot be run, or does not end.
        """
        try:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
            )
        except OSError as error:
            raise ReleaseError(f"{command[0]} cannot be run: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise ReleaseError(f"{' '.join(command)} does not end within {_PATIENCE_S:g} s") from None

    def must(self, *command: str) -> str:
        """The same for a command that may not fail; returns what it has printed."""
        done = self.run(*command)
        if done.returncode != 0:
            raise ReleaseError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
        return done.stdout

    def shown(self, *names: str, unit: str = DAEMON) -> dict[str, str]:
        """Properties of a unit."""
        told = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names)).stdout
        return dict(line.split("=", 1) for line in told.splitlines() if "=" in line)

    def restart(self) -> str:
        """Have the daemon started anew from the current release; returns what is wrong, if it does not start."""
        # How often it has failed before is no reason not to try; calls wait in the socket meanwhile.
        self.run("systemctl", "reset-failed", DAEMON, SOCKET)
        done = self.run("systemctl", "restart", DAEMON)
        if self.shown("ActiveState", unit=SOCKET).get("ActiveState") != "active":
            self.run("systemctl", "start", SOCKET)
        return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it ended at once"])[0]

    def errors(self, invocation: str) -> list[str]:
        """What one start of the daemon has logged as an error."""
        told = self.run(
            *("journalctl", "--no-pager", "--quiet", "-o", "cat", "-p", "err"), f"_SYSTEMD_INVOCATION_ID={invocation}"
        )
        return told.stdout.splitlines()

    def last_words(self, count: int = 5) -> list[str]:
        """The last lines of the daemon's in the journal, whoever wrote them."""
        told = self.run("journalctl", "--no-pager", "--quiet", "-o", "cat", "-u", DAEMON, "-n", str(count))
        return told.stdout.splitlines()

    def status(self) -> dict[str, Any] | None:
        """What the daemon says of itself and of everything; None if it does not answer."""
        with suppress(ClientError):
            told: dict[str, Any] = self._client.get("/v1/status", timeout=_CALL_S)
            return told
        return None

    @contextmanager
    def credentials(self) -> Iterator[dict[str, str]]:
        """The environment of a process that finds the settings just as the daemon does."""
        told = self.shown("LoadCredential").get("LoadCredential", "")
        # In memory: a link to a secret, none of it.
        with TemporaryDirectory(prefix="azaion-", dir="/run") as folder:
            for entry in told.split():
                name, _, path = entry.partition(":")
                if path.startswith("/") and Path(path).is_file():
                    Path(folder, name).symlink_to(path)
            yield {"CREDENTIALS_DIRECTORY": folder}
