"""Whatever comes in by the control socket: the daemon lives, serves the honest, and does only what was validly asked.

AZAION_FUZZ says how many calls are made (a tenth of it here), AZAION_SEED replays a run.
"""

import json
import os
import random
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from supervisor.control.client import Client
from tests.installations import Installation
from tests.tallies import tally
from tests.waiting import until

#: The decoder's cases are a hundred times cheaper than a call.
CALLS: Final = max(1, int(os.environ.get("AZAION_FUZZ", "20000")) // 10)
GROWTH_KIB: Final = 32 << 10
#: What an honest caller may have to wait beside all of it, on a busy machine.
PATIENCE_S: Final = 5.0

_AT_ONCE: Final = 16

#: Every route that reads, and what its queries are about.
READING: Final = (
    *("/v1/status", "/v1/preflight", "/v1/jobs", "/v1/jobs/{}", "/v1/jobs/{}/wait", "/v1/jobs/{}/curves"),
    *("/v1/jobs/{}/tail", "/v1/jobs/{}/log", "/v1/events", "/v1/consumer", "/metrics", "/health", "/health/detailed"),
    *("/queue/stats", "/info", "/v1/history", "/v1/datasets", "/v1/datasets/{}", "/v1/quarantine", "/v1/alerts"),
    *(
        "/v1/quarantine/marked",
        "/v1/quarantine/{}",
        "/v1/services",
        "/v1/services/{}/log",
        "/v1/models",
        "/v1/models/{}",
    ),
    *("/v1/retention", "/v1/health"),
)
#: Every route that changes something, with a body that it would take.
CHANGING: Final[dict[str, Any]] = {
    "/v1/jobs": {"kind": "command", "argv": ["touch", "NEVER"], "cwd": "/", "hold": True, "devices": 0},
    "/v1/jobs/{}/cancel": {},
    "/v1/jobs/{}/stop": {},
    "/v1/jobs/{}/hold": {},
    "/v1/jobs/{}/release": {},
    "/v1/jobs/{}/priority": {"priority": 1},
    "/v1/jobs/{}/retry": {},
    "/v1/maintenance": {"on": 1, "reason": "strange"},
    "/v1/consumer/resume": {"incarnation": 1, "offset": 0},
    "/v1/quarantine/retry": {"ids": ["1"]},
    "/v1/quarantine/drop": {"ids": ["1"]},
    "/v1/services/{}/start": {},
    "/v1/services/{}/stop": {},
    "/v1/services/{}/restart": {},
    "/v1/services/start": {},
    "/v1/services/stop": {},
    "/v1/models/rollback": {},
    "/v1/models/{}/promote": {},
    "/v1/models/{}/export": {"formats": ["onnx"]},
    "/v1/models/{}/evaluate": {},
    "/v1/models/{}/publish": {},
    "/v1/retention/run": {},
    "/v1/health/mute": {"name": "disk", "hours": 1},
    "/v1/health/unmute": {"name": "disk"},
    "/v1/alerts/test": {},
}
QUERIES: Final = (
    *("after", "actor", "begin", "check", "epochs", "follow", "from", "grace", "job", "last", "limit", "lines", "now"),
    *("ram", "vram", "disk", "offset", "since", "state", "step", "timeout", "type", "attempt", "points", "until"),
)
WORDS: Final = (
    *(
        "",
        "0",
        "1",
        "-1",
        "1.5",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e15",
        "9" * 30,
        "9" * 400,
        "\u0663",
        "true",
        "null",
        "a",
    ),
    *(
        ".",
        "..",
        "%2e%2e",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%00",
        "%ff%fe",
        "a%0d%0ab",
        "x" * 5000,
        "running",
        "%F0%9F%92%A9",
    ),
)
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, -1, 0, 1 << 63, -(1 << 64), 10**400, 1.5, 1e300, "", "a", "\u0000", "\ud800", "../x", "x" * 300_000),
    *([], {}, [[]], ["a"] * 20_000, {"a": 1}, {"": None}, "NEVER", "/", "nan"),
)
HEADERS: Final = (
    *(
        "Content-Type: text/plain",
        "Content-Length: -1",
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding: x",
    ),
    *("Content-Encoding: gzip", "Content-Encoding: br", "Expect: 100-continue", "Expect: x", "Connection: upgrade"),
    *(
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
        "Range: bytes=0-",
    ),
    *(
        "X" * 9000 + ": 1",
        "X: " + "y" * 9000,
        "X: \x00",
        ": x",
        "no colon",
        "Host: a\r\nHost: b",
        "Cookie: " + "a=b;" * 500,
    ),
    *(
        "If-Modified-Since: never",
        "Content-Type: multipart/form-data; boundary=x",
        "Content-Type: application/json; charset=x",
    ),
    "Transfer-Encoding: chunked\r\nContent-Length: 3",
)
METHODS: Final = (
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PATCH",
    "CONNECT",
    "TRACE",
    "get",
    "X" * 100,
    "\x00",
)


def numbered(rng: random.Random, text: str) -> str:
    # What would validly start one of the two jobs that are held is left out.
    ours = () if text.endswith(("/release", "/retry")) else ("1", "2") * 8
    return text.replace("{}", rng.choice((*ours, *(word for word in WORDS if word != "1"))))


def query(rng: random.Random) -> str:
    pairs = "&".join(f"{rng.choice(QUERIES)}={rng.choice(WORDS)}" for _ in range(rng.choice((0, 1, 1, 2, 4))))
    return f"?{pairs}" if pairs else ""


def body(rng: random.Random, sample: Any) -> bytes:
    """A body, of which something is not as it should be; always so for what would start something."""
    match rng.randrange(8):
        case 0:
            return rng.randbytes(rng.randrange(2000))
        case 1:
            return rng.choice(
                (b"", b"[" * 50_000, b'{"a":' * 20_000, b"null", b"[]", b'"', b"1e9999", b"\xff\xfe{", b"{" * 9)
            )
        case 2:
            return json.dumps(sample).encode()[: rng.randrange(20)]
        case _:
            made = dict(sample) | {
                rng.choice((*sample, *QUERIES, "env", "limits", "needs", "model", "then")): rng.choice(VALUES)
            }
            if rng.random() < 0.3:
                made[rng.choice(("kind", "overrides", "key", "after", "begins", "name"))] = rng.choice(VALUES)
            text = json.dumps(made).encode()
            if rng.random() < 0.2:
                at = rng.randrange(len(text))
                text = text[:at] + rng.randbytes(rng.randrange(4)) + text[at + rng.randrange(4) :]
            return text


def chunked(rng: random.Random, data: bytes) -> bytes:
    """The same in chunks, of which one may be no good, and the end may be missing."""
    made = b""
    while data:
        size = rng.randrange(1, 4000)
        piece, data = data[:size], data[size:]
        told = (
            b"%x" % len(piece)
            if rng.random() < 0.95
            else rng.choice((b"-1", b"zz", b"f" * 30, b"", b"%x;" % len(piece)))
        )
        made += told + b"\r\n" + piece + b"\r\n"
    return made + rng.choice((b"0\r\n\r\n", b"0\r\n\r\n", b"", b"0\r\nX: y\r\n\r\n"))


def request(rng: random.Random) -> bytes:
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(4000))
    if rng.random() < 0.4:
        method, path, content = "GET", numbered(rng, rng.choice(READING)), b""
    else:
        path, sample = rng.choice(list(CHANGING.items()))
        method, path, content = "POST", numbered(rng, path), body(rng, sample)
    if rng.random() < 0.1:
        method = rng.choice(METHODS)
    headers = ["Host: x", *(rng.choice(HEADERS) for _ in range(rng.choice((0, 0, 0, 1, 2))))]
    if rng.random() < 0.2 and content:
        headers.append("Transfer-Encoding: chunked")
        content = chunked(rng, content)
    elif content or method == "POST":
        headers.append(f"Content-Length: {len(content) + rng.choice((0, 0, 0, 0, 0, 0, -1, 1, 10**9))}")
    head = f"{method} {path}{query(rng)} HTTP/1.{rng.choice('1111105')}\r\n" + "\r\n".join(headers) + "\r\n\r\n"
    made = head.encode("utf-8", "surrogateescape") + content
    return made[: rng.randrange(len(made))] if rng.random() < 0.1 else made


def call(path: Path, seed: int) -> str:
    """Make one call, all at once or slowly, and tell how it was answered: a status, or nothing."""
    rng = random.Random(seed)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(0.2)
        caller.connect(str(path))
        said = request(rng)
        with suppress(OSError):
            if rng.random() < 0.05:
                for begun in range(0, min(len(said), 60), 6):
                    caller.sendall(said[begun : begun + 6])
                    time.sleep(0.001)
                said = said[60:]
            caller.sendall(said)
            if rng.random() < 0.1:
                return "left"
            with suppress(TimeoutError):
                answer = caller.recv(4096)
                return answer[9:12].decode(errors="replace") if answer.startswith(b"HTTP/1.") else "nothing"
        return "nothing"


@contextmanager
def honest(server: Installation) -> Iterator[list[float]]:
    """Somebody who asks for the status all the time; gives how long each time took, in seconds."""
    took: list[float] = []
    wrong: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        client = Client(server.layout.socket)
        while not done.is_set():
            began = time.monotonic()
            try:
                client.get("/v1/status")
            except Exception as error:  # noqa: BLE001 - told to the test, which is in another thread
                wrong.append(error)
                return
            took.append(time.monotonic() - began)
            done.wait(0.05)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield took
    finally:
        done.set()
        asking.join()
    assert not wrong, wrong


def resident_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def test_random_calls_harm_nobody(server: Installation) -> None:
    seed = int(os.environ.get("AZAION_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"AZAION_SEED={seed} AZAION_FUZZ={CALLS * 10}")
    server.start()
    assert server.daemon is not None
    for _ in range(2):
        server.submit("touch NEVER", hold=True)
    live = server.submit("echo x >> ran; sleep 100000")
    until((server.folder / "ran").exists, "the job runs")
    names = {path.name for path in server.folder.iterdir()}
    ends: Counter[str] = Counter()
    used: list[int] = []
    began = time.monotonic()
    with honest(server) as took:
        for half in (range(seed, seed + CALLS // 2), range(seed + CALLS // 2, seed + CALLS)):
            with ThreadPoolExecutor(_AT_ONCE) as callers:
                for number, end in zip(
                    half, callers.map(lambda one: call(server.layout.socket, one), half), strict=True
                ):
                    said = f"AZAION_SEED={number} AZAION_FUZZ=10: {request(random.Random(number))[:200]!r}"
                    assert server.daemon.poll() is None, f"the daemon has ended: {said}"
                    assert not end.startswith("5"), f"answered by {end}: {said}"
                    ends[end] += 1
            used.append(resident_kib(server.daemon.pid))
    log = (server.folder / "azaiond.log").read_text(encoding="utf-8")
    assert not [line for line in log.splitlines() if "Traceback" in line or '"error"' in line], log[-4000:]
    assert len(took) > 2
    assert max(took) < PATIENCE_S
    assert used[-1] - used[0] < GROWTH_KIB
    assert {path.name for path in server.folder.iterdir()} == names
    assert not Path("/NEVER").exists()
    # The one that runs still does, for the first time; what was filed by chance is held, as it asked to be.
    assert (server.folder / "ran").read_text() == "x\n"
    jobs = {job["id"]: job for job in server.client.get("/v1/jobs")}
    assert jobs.pop(live)["state"] == "running"
    assert not [job for job in jobs.values() if job["started"] is not None or job["state"] not in {"held", "cancelled"}]
    assert server.wait(server.submit("true"))["state"] == "succeeded"
    assert {"200", "400", "404"} < set(ends) or CALLS < 1000, "all kinds of answers"
    waited = f"the honest one waited {1000 * max(took):.0f} ms at most"
    note = f"{time.monotonic() - began:.1f} s; {dict(sorted(ends.items()))}; {waited}"
    tally("hostile calls of the control socket", CALLS, "the daemon lives, serves, and starts nothing", note)
