"""What a service and systemd tell each other: readiness, signs of life, and the listening socket it was handed.

Without systemd all of it does nothing. What systemd says stands in the environment, and is taken out of it, so that
no child of the daemon takes it for its own.
"""

import asyncio
import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from supervisor.errors import SupervisorError

#: The first of the descriptors that systemd hands over: sd_listen_fds(3).
_FIRST: Final = 3
#: So often within the time after which systemd loses its patience.
_SIGNS: Final = 4

_log = structlog.get_logger("azaion.daemon")


class HandoverError(SupervisorError):
    """What systemd has handed over is not what the configuration names."""


class Notifier:
    """Tells systemd how the daemon is.

    Args:
        environ: the environment; what is for this process is taken out.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        ours = usec.isdecimal() and pid in {"", str(os.getpid())}
        #: Seconds between two signs of life; None if nobody waits for them.
        self.pause: Final = int(usec) / 1e6 / _SIGNS if ours else None

    def ready(self) -> None:
        """The daemon serves."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """The daemon is on its way out; from now on no sign of life is waited for in vain."""
        self._tell("STOPPING=1")

    async def run(self) -> None:
        """Give signs of life from the loop, for as long as it goes round: one that is stuck must be seen."""
        while self.pause is not None:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self.pause)

    def _tell(self, what: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the zero byte of an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(what.encode(), address)
        except OSError as error:
            _log.warning("systemd does not listen", what=what, error=str(error))


def handed_over(environ: MutableMapping[str, str], path: Path) -> socket.socket | None:
    """The control socket on which systemd listens for us, if it does.

    Args:
        environ: the environment; what is for this process is taken out.
        path: where the configuration says that the daemon listens.

    Raises:
        HandoverError: what was handed over is another socket.
    """
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal() or int(count) < 1:
        return None
    for descriptor in range(_FIRST, _FIRST + int(count)):
        with suppress(OSError):
            os.set_inheritable(descriptor, False)
    try:
        listening = socket.socket(fileno=_FIRST)
        found = listening.getsockname() if listening.family == socket.AF_UNIX else "no unix socket"
    except OSError as error:
        raise HandoverError(f"systemd has handed over no socket ({error}); look: systemctl cat azaion.socket") from None
    if int(count) != 1 or found != str(path):
        listening.detach()
        raise HandoverError(
            f"azaion.socket listens on {found} and AZAION_SOCKET is {path}: give both the same path, "
            f"then: systemctl daemon-reload"
        )
    listening.setblocking(False)
    return listening
