"""A stand-in for the Azaion REST API: a process of its own, over HTTPS, as strict as the platform is said to be.

`Platform` starts it and tells it what trouble to make. What it knows of the platform, docs/publishing.md says, too.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from azaion.publishing.access import ApiAccess
from tests.certificates import certify
from tests.guards import Guard
from tests.ports import HOST, free_ports
from tests.waiting import until

#: The folder of the API that models lie in.
FOLDER = "models"


class Platform:
    """The API with one user on one machine.

    Attributes:
        access: what its client must know.
        ca: the authority that signed its certificate.
    """

    def __init__(self) -> None:
        (self._port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._cleanup = ExitStack()
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="az-api-"))
            self._cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._guard = Guard(self.folder)
            self._cleanup.callback(self._guard.release)
            self.ca = certify(self.folder)
        except BaseException:
            self._cleanup.close()
            raise
        self.access = ApiAccess(
            url=f"https://localhost:{self._port}",
            email="trainer@azaion.test",
            password=secrets.token_urlsafe(20),
            hardware=secrets.token_hex(32),
            salt=secrets.token_urlsafe(20),
            authority=self.ca,
        )

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self._port

    @property
    def variables(self) -> dict[str, str]:
        """What stands of it in `.env`."""
        return {
            "AZAION_API_URL": self.access.url,
            "AZAION_API_EMAIL": self.access.email,
            "AZAION_API_PASSWORD": self.access.password,
            "AZAION_API_HARDWARE": self.access.hardware,
            "AZAION_API_SALT": self.access.salt,
            "AZAION_API_CA": str(self.ca),
        }

    def path(self, name: str, folder: str = FOLDER) -> Path:
        """Where it keeps a file that was put there."""
        return self.folder / "files" / folder / name

    def keep(self, name: str, data: bytes, folder: str = FOLDER) -> None:
        """Put a file there by hand."""
        path = self.path(name, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def trouble(self, path: str = "", *, times: int = 1, **how: Any) -> None:
        """The next requests for what begins with ``path`` end badly.

        Args:
            path: ``login``, ``resources/get`` or the like.
            times: how many of them.
            how: ``status`` (with ``headers``), ``cut`` (after half of the answer), ``wait_s`` (before it is answered),
                ``endless`` (an answer without end), ``data`` (its bytes).
        """
        self._tell({"path": path, "times": times, **how})

    def tokens_last(self, seconds: float) -> None:
        """Every token given from now on is good for so long."""
        self._tell({"token_s": seconds})

    def forget(self) -> None:
        """No trouble any more, nobody is logged in, nothing has been seen."""
        self._tell({"forget": True})

    @property
    def seen(self) -> Counter[str]:
        """How many requests there were for each path."""
        return Counter(self._tell({}))

    def start(self) -> None:
        """Start it, on the same files and port if it ran before, and wait until it answers."""
        access = self.access
        settings = {
            "port": self._port,
            "email": access.email,
            "password": access.password,
            "hardware": access.hardware,
            "salt": access.salt,
        }
        (self.folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        with (self.folder / "log").open("ab") as log:
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "tests.azaion_api", self.folder],
                cwd=Path(__file__).parents[1],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._guard.tell(process)

        def ready() -> bool:
            assert process.poll() is None, (self.folder / "log").read_text()
            try:
                self._tell({})
            except OSError:
                return False
            return True

        until(ready, "the API answers")

    def kill(self) -> None:
        """SIGKILL it."""
        assert self._process is not None
        self._guard.tell()
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it and remove what it had."""
        if self._process is not None:
            self.kill()
        self._cleanup.close()

    def _tell(self, told: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"{self.access.url}/tests", json.dumps(told).encode())  # noqa: S310 - https
        trusting = ssl.create_default_context(cafile=self.ca)
        with urllib.request.urlopen(request, timeout=5, context=trusting) as answer:  # noqa: S310 - the same
            return json.load(answer)


@contextmanager
def platform() -> Iterator[Platform]:
    """One that is ready, and gone with all it had at the end."""
    made = Platform()
    try:
        made.start()
        yield made
    finally:
        made.close()


class _Api:
    """The API itself, in its own process."""

    def __init__(self, folder: Path) -> None:
        self._files = folder / "files"
        self._known = json.loads((folder / "settings.json").read_text())
        self._secret = secrets.token_bytes(32)
        self._token_s = 3600.0
        self._troubles: list[dict[str, Any]] = []
        self._seen: Counter[str] = Counter()

    @property
    def port(self) -> int:
        port: int = self._known["port"]
        return port

    @web.middleware
    async def around(self, request: web.Request, handler: Any) -> web.StreamResponse:
        path = request.path.lstrip("/")
        if path == "tests":
            return await self.tests(request)
        self._seen[path] += 1
        for trouble in self._troubles:
            if path.startswith(trouble["path"]) and trouble["times"] > 0:
                trouble["times"] -= 1
                return await self._spoilt(trouble, request, handler)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _spoilt(self, trouble: dict[str, Any], request: web.Request, handler: Any) -> web.StreamResponse:
        await asyncio.sleep(trouble.get("wait_s", 0.0))
        if "status" in trouble:
            # As careless as a server may be: it tells what it was asked.
            said = f"no luck; you sent {await request.text()} with {request.headers.get('Authorization')}"
            return web.Response(status=trouble["status"], text=said, headers=trouble.get("headers"))
        if "endless" in trouble:
            answer = web.StreamResponse()
            await answer.prepare(request)
            with suppress(ConnectionResetError):
                while True:
                    await answer.write(bytes(1 << 16))
                    # A write may never give way, and then nobody would notice that the client has gone.
                    await asyncio.sleep(0)
            return answer
        if "data" in trouble:
            return web.Response(body=trouble["data"].encode())
        if "cut" in trouble:
            answer = web.StreamResponse(headers={"Content-Length": "1000"})
            await answer.prepare(request)
            await answer.write(b"half")
            assert request.transport is not None
            request.transport.abort()
            return answer
        answered: web.StreamResponse = await handler(request)
        return answered

    async def tests(self, request: web.Request) -> web.Response:
        told = await request.json()
        if told.get("forget"):
            self._troubles.clear()
            self._seen.clear()
            self._token_s = 3600.0
            self._secret = secrets.token_bytes(32)
        elif "token_s" in told:
            self._token_s = told["token_s"]
        elif told:
            self._troubles.append(told)
        return web.json_response(self._seen)

    async def login(self, request: web.Request) -> web.Response:
        told = await request.json()
        if (told.get("email"), told.get("password")) != (self._known["email"], self._known["password"]):
            return web.Response(status=401, text=f"no such user or password: {told}")
        head = _encoded(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
        claims = {"sub": told["email"], "exp": time.time() + self._token_s, "jti": secrets.token_hex(4)}
        body = f"{head}.{_encoded(json.dumps(claims).encode())}"
        return web.json_response({"token": f"{body}.{self._signature(body)}"})

    async def put(self, request: web.Request) -> web.Response:
        self._admit(request)
        fields = await request.multipart()
        part = await fields.next()
        if getattr(part, "name", None) != "data" or not (name := getattr(part, "filename", None)):
            return web.Response(status=400, text="a file named data is wanted")
        path = self._path(request.match_info["folder"], name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(4)}")
        with temporary.open("wb") as stream:
            while piece := await part.read_chunk(1 << 16):  # type: ignore[union-attr]
                stream.write(piece)
        temporary.replace(path)
        return web.Response()

    async def get(self, request: web.Request) -> web.Response:
        self._admit(request)
        told = await request.json()
        if told.get("hardware") != self._known["hardware"]:
            return web.Response(status=403, text=f"this is not the machine that we know: {told}")
        path = self._path(request.match_info["folder"], told["fileName"])
        if not path.is_file():
            return web.Response(status=404, text="no such file")
        key = "-".join((self._known["email"], told["password"], told["hardware"], self._known["salt"]))
        return web.Response(body=await asyncio.to_thread(_encrypted, path, key))

    def _admit(self, request: web.Request) -> None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        body, _, signature = token.rpartition(".")
        if not body or not hmac.compare_digest(signature, self._signature(body)):
            raise web.HTTPUnauthorized(text="no such token")
        claims = body.partition(".")[2]
        if json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"] < time.time():
            raise web.HTTPForbidden(text="the token has expired")

    def _signature(self, body: str) -> str:
        return _encoded(hmac.digest(self._secret, body.encode(), "sha256"))

    def _path(self, folder: str, name: str) -> Path:
        if "/" in name or name.startswith("."):
            raise web.HTTPBadRequest(text="no such name")
        return self._files / folder / name


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _encrypted(path: Path, key: str) -> bytes:
    """As another program than ours does it."""
    start = os.urandom(16)
    command = ["/usr/bin/env", "openssl", "enc", "-aes-256-cbc", "-K", hashlib.sha256(key.encode()).hexdigest()]
    return (
        start
        + subprocess.run(
            [*command, "-iv", start.hex(), "-in", path], check=True, capture_output=True, timeout=30
        ).stdout
    )


def _serve(folder: Path) -> None:
    api = _Api(folder)
    app = web.Application(middlewares=[api.around], client_max_size=64 << 20)
    app.add_routes(
        [
            web.post("/login", api.login),
            web.post("/tests", api.tests),
            web.post("/resources/{folder}", api.put),
            web.post("/resources/get/{folder}", api.get),
        ]
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    web.run_app(app, host=HOST, port=api.port, ssl_context=context, print=None)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
