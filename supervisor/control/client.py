"""The client side of the control socket: standard library only, so that a command costs milliseconds."""

import http.client
import json
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import urlencode

from azaion.errors import AzaionError

#: Where an installed daemon listens.
SYSTEM_SOCKET: Final = Path("/run/azaion/control.sock")
#: Made by whoever stops that daemon for longer.
STOPPED: Final = Path("/run/azaion.stopped")
#: The state folders that a daemon may have when nothing says where it is: installed, then development.
_STATES: Final = (Path("/var/lib/azaion"), Path("var"))

#: An answer that takes longer than this is remarked upon.
_LONG_S: Final = 5.0
_WHY: Final = "to see why: `systemctl status azaion`, or its log"

#: `sun_path` holds 108 bytes, the last of them zero.
_MAX_SOCKET_BYTES: Final = 107


class ClientError(AzaionError):
    """The daemon refused what was asked."""


class UnreachableError(ClientError):
    """There is no daemon to talk to, or it went away."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("azaiond", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        if len(os.fsencode(self._path)) > _MAX_SOCKET_BYTES:
            raise UnreachableError(f"{self._path} is too long for a socket, which may have {_MAX_SOCKET_BYTES} bytes")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if self.timeout is not None:
            # While others wait we wait behind them. Python's own timeout would have the kernel refuse us at once.
            limit = struct.pack("ll", int(self.timeout), int(self.timeout % 1 * 1e6))
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self.sock.connect(str(self._path))
        self.sock.settimeout(self.timeout)


def find_socket(given: Path | None) -> Path:
    """Where the daemon listens, by the same variables that the daemon goes by.

    In this order: the option, ``AZAION_SOCKET`` or ``AZAION_STATE_DIR`` of the environment or of ``./.env``, the
    installed daemon's socket if it is there, and ``control.sock`` in the state folder.
    """
    if given is not None:
        return given
    environment = {**_environment_file(), **os.environ}
    if path := environment.get("AZAION_SOCKET"):
        return Path(path)
    if state := environment.get("AZAION_STATE_DIR"):
        if _there(SYSTEM_SOCKET.parent):
            return SYSTEM_SOCKET
        return Path(state, "control.sock")
    candidates = [SYSTEM_SOCKET, *(state / "control.sock" for state in _STATES)]
    return next((path for path in candidates if _there(path)), candidates[0])


def _there(path: Path) -> bool:
    """Whether there is something that we can see; the folder of somebody else (``sudo -u``) shows us nothing."""
    try:
        return path.exists()
    except OSError:
        return False


def _environment_file() -> dict[str, str]:
    if not _there(Path(".env")):
        return {}
    from dotenv import dotenv_values  # noqa: PLC0415 - only where there is something to read

    try:
        return {name: value for name, value in dotenv_values(".env").items() if value}
    except (OSError, UnicodeDecodeError):
        return {}


class Client:
    """Calls of the control socket. Every method raises `UnreachableError` or `ClientError`.

    Attributes:
        impatient: is told when an answer takes long. While a daemon cannot start its callers wait in systemd's socket.
    """

    impatient: ClassVar[Callable[[str], None] | None] = None

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, path: str, query: Mapping[str, Any] | None = None, timeout: float = 60.0) -> Any:
        """Ask for something."""
        return self._call("GET", path, query, None, timeout)

    def post(self, path: str, body: Any = None, query: Mapping[str, Any] | None = None, timeout: float = 60.0) -> Any:
        """Change something."""
        return self._call("POST", path, query, body, timeout)

    def _call(self, method: str, path: str, query: Mapping[str, Any] | None, body: Any, timeout: float) -> Any:
        with self._response(method, path, query, body, timeout) as response:
            return _decode(response.read())

    # Generators, so that what goes wrong with a piece at its taker's is not mistaken for the daemon's.

    def pieces(self, path: str, query: Mapping[str, Any] | None = None) -> Iterator[bytes]:
        """Ask for something that comes piece by piece; ends when the daemon does."""
        with self._response("GET", path, query, None, None) as response:
            while data := response.read1(1 << 16):
                yield data

    def lines(self, path: str, query: Mapping[str, Any] | None = None) -> Iterator[bytes]:
        """Ask for something that comes line by line; ends when the daemon does."""
        with self._response("GET", path, query, None, None) as response:
            yield from response

    @contextmanager
    def _response(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Any,
        timeout: float | None,
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _Connection(self.path, timeout)
        target = f"{path}?{urlencode(query)}" if query else path
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        try:
            try:
                response = self._ask(connection, method, target, data, headers)
            except (ConnectionResetError, BrokenPipeError):
                # The daemon went away before it said a word. Where systemd keeps its socket the next one answers; only
                # a question may be put again, since nobody knows what became of an order.
                if method != "GET":
                    raise
                connection.close()
                response = self._ask(connection, method, target, data, headers)
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise ClientError(_complaint(response.status, response.read()))
            yield response
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if self.path == SYSTEM_SOCKET and _there(STOPPED):
                raise UnreachableError(
                    f"azaiond has been stopped on purpose ({STOPPED}): "
                    f"sudo rm {STOPPED} && sudo systemctl start azaion.socket azaion"
                ) from None
            raise UnreachableError(
                f"no azaiond listens on {self.path} ({error.strerror}): start it with `azaiond`, "
                f"or name its socket with --socket or AZAION_SOCKET",
            ) from None
        except PermissionError:
            raise UnreachableError(
                f"you may not open {self.path}: ask to be put into the group that owns it",
            ) from None
        except BlockingIOError:
            raise UnreachableError(
                f"azaiond at {self.path} has taken no call for {timeout:g} s, and too many wait: look at its log"
            ) from None
        except TimeoutError:
            raise UnreachableError(
                f"azaiond at {self.path} has not answered within {timeout:g} s: {_WHY}",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"azaiond at {self.path} went away: {str(error) or type(error).__name__}") from None
        finally:
            connection.close()

    def _ask(
        self, connection: _Connection, method: str, target: str, data: bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        connection.request(method, target, data, headers)
        # Who asks for the end of a job waits for it, and knows that.
        if Client.impatient is not None and "/wait" not in target:
            ready, _, _ = select.select([connection.sock], [], [], _LONG_S)
            if not ready:
                Client.impatient(f"azaiond at {self.path} does not answer yet, still waiting; {_WHY}")
        return connection.getresponse()


def _decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise ClientError("the daemon's answer is not JSON; is another program listening there?") from None


def _complaint(status: int, data: bytes) -> str:
    try:
        return str(json.loads(data)["error"])
    except (ValueError, KeyError, TypeError):
        text = data.decode(errors="replace").strip()
        return f"the daemon answered {status}: {text}"
