"""Any file that the daemon or the consumer read back may be anything: they start, or say which it is and what to do.

A server with a past is made once; then, again and again, one of its files is spoilt and it is started. Values that are
changed to others that might be true are left out: nobody can see that of a file.

AZAION_FUZZ says how often (a 5,000th of it), AZAION_SEED replays a run.
"""

import http.client
import json
import os
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml

from azaion.annotations import offset
from azaion.annotations.spool import Spool
from supervisor.control.client import ClientError
from tests.annotation_messages import created
from tests.installations import Installation
from tests.tallies import tally
from tests.waiting import until

STARTS: Final = max(1, int(os.environ.get("AZAION_FUZZ", "20000")) // 5000)
#: sysexits.h's EX_CONFIG, and the daemon's own last word.
GIVEN_UP: Final = {1, 78}
_TRACEBACK: Final = re.compile("Traceback|exception")

VALUES: Final[tuple[Any, ...]] = (
    *(
        None,
        True,
        -1,
        1 << 63,
        10**400,
        1e300,
        float("nan"),
        "",
        "\u0000",
        "\ud800",
        "../../x",
        "/etc/passwd",
        [],
        {},
        [[]],
    ),
    *("x" * 100_000, {"a": 1}, ["a"] * 10_000),
)
KINDS: Final = (
    *("flipped", "cut", "empty", "zeros", "noise", "typed", "typed", "typed", "large", "deep", "newer", "link"),
    *("folder", "fifo", "gone", "loop", "socket"),
)

#: What was not outlived when it was tried for the first time.
FOUND: Final = (
    ("var/jobs.sqlite", "link"),
    ("var/daemon.lock", "socket"),
    ("azaion/.consumer.lock", "link"),
    ("var/jobs/1-*/1/lock", "link"),
)

#: What looks at everything that there is.
LOOKS: Final = (
    *(
        "/v1/status",
        "/v1/jobs",
        "/v1/jobs/1",
        "/v1/jobs/2",
        "/v1/jobs/3",
        "/v1/jobs/4",
        "/v1/jobs/1/log",
        "/v1/jobs/1/tail",
    ),
    *("/v1/jobs/2/curves", "/v1/events", "/v1/consumer", "/metrics", "/health/detailed", "/queue/stats", "/info"),
    *("/v1/history", "/v1/datasets", "/v1/datasets/azaion-2026-01-01", "/v1/quarantine", "/v1/alerts", "/v1/services"),
    *("/v1/models", "/v1/models/azaion-2026-01-01", "/v1/retention", "/v1/health", "/v1/preflight"),
)


def other(rng: random.Random, value: Any) -> Any:
    """The same document with something in it that is no such thing."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        return value | {key: other(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], other(rng, value[at]), *value[at + 1 :]]
    return rng.choice(VALUES)


def typed(rng: random.Random, path: Path, data: bytes) -> bytes:
    """A document with a value of another kind; of a file that is none, any such document."""
    if path.suffix == ".yaml":
        with suppress(yaml.YAMLError):
            return yaml.safe_dump(other(rng, yaml.safe_load(data))).encode("utf-8", "surrogatepass")
    lines = data.splitlines() or [b"{}"]
    at = rng.randrange(len(lines))
    with suppress(ValueError):
        lines[at] = json.dumps(other(rng, json.loads(lines[at]))).encode()
        return b"\n".join(lines) + b"\n"
    return json.dumps(other(rng, {"a": 1})).encode()


def flipped(rng: random.Random, data: bytes) -> bytes:
    """Some bits the other way round, but none within a number: that would be another one."""
    made = bytearray(data)
    places = [at for at, byte in enumerate(data) if not 0x30 <= byte <= 0x39] or [0]
    for at in rng.choices(places, k=rng.choice((1, 1, 2, 8))):
        if made:
            made[at] ^= 1 << rng.randrange(8)
    return bytes(made)


def spoil(rng: random.Random, path: Path, kind: str, theirs: Path) -> None:  # noqa: C901, PLR0912 - a list
    """Make of a file what it should not be."""
    data = path.read_bytes()
    match kind:
        case "flipped" if path.suffix == ".sqlite":
            # In its first pages, where the schema is, or anywhere.
            at = rng.randrange(min(len(data), rng.choice((100, 4096, 1 << 30))))
            path.write_bytes(data[:at] + rng.randbytes(rng.choice((1, 16, 4096))) + data[at + 1 :])
        case "flipped":
            path.write_bytes(flipped(rng, data))
        case "cut":
            path.write_bytes(data[: rng.randrange(len(data) + 1)])
        case "empty":
            path.write_bytes(b"")
        case "zeros":
            at = rng.randrange(len(data) + 1)
            path.write_bytes(data[:at] + bytes(len(data) - at))
        case "noise":
            path.write_bytes(rng.randbytes(rng.choice((1, 20, 5000))))
        case "typed":
            path.write_bytes(typed(rng, path, data))
        case "large":
            os.truncate(path, 300 << 20)
        case "deep":
            path.write_bytes(rng.choice((b"[", b'{"a":', b"a:\n ", b"- ")) * 100_000)
        case "newer" if path.suffix == ".sqlite":
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA user_version = 9999")
            connection.close()
        case "newer":
            path.write_bytes(json.dumps({"version": 9999, "schema": 9999, "nonce": "x"}).encode())
        case _:
            path.unlink()
            if kind == "link":
                theirs.write_bytes(data)
                path.symlink_to(theirs)
            elif kind == "loop":
                path.symlink_to(path)
            elif kind == "folder":
                path.mkdir()
                (path / "x").touch()
            elif kind == "fifo":
                os.mkfifo(path)
            elif kind == "socket" and len(str(path)) < 100:
                with socket.socket(socket.AF_UNIX) as bound:
                    bound.bind(str(path))


class Past:
    """A server with a past that can be had again: jobs that ended well, badly, unseen, by a power cut; annotations."""

    def __init__(self, server: Installation) -> None:
        self.server = server
        self._kept = server.folder / "kept"
        self.theirs = server.folder / "theirs"
        server.start()
        for script in ("true", "exit 7"):
            server.wait(server.submit(f"echo x >> ledger-{script.split()[0]}; {script}"))
        unseen = server.submit("echo x >> ledger-unseen; while test ! -e go; do sleep 0.02; done; exit 7")
        lost = server.submit("echo x >> ledger-lost; test -e once && exit 9; touch once; exec sleep 100000")
        server.submit("touch NEVER", hold=True)
        for number in (unseen, lost):
            server.wait(number, "running")
        self._write_annotations()
        self._write_model()
        server.lose_power(lost)
        (server.folder / "go").touch()
        until(server.attempt(unseen).exit.exists, "it ends while nobody looks")
        self.ledgers = self.ran()
        self._kept.mkdir()
        for folder in (server.root, server.layout.state):
            shutil.copytree(folder, self._kept / folder.name, symlinks=True, ignore=self._sockets)

    @staticmethod
    def _sockets(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder, name).is_socket()]

    def _write_annotations(self) -> None:
        events = [created(name, number) for number, name in enumerate("abc")]
        Spool(self.server.layout.spool).append((event.status, event.body) for event in events)
        until(lambda: self.position() == 3, "the annotations are there")

    def _write_model(self) -> None:
        layout = self.server.layout
        model = layout.model("azaion-2026-01-01")
        model.path.mkdir()
        model.weights.write_bytes(b"weights")
        model.card.write_text(
            json.dumps(
                {
                    "name": "azaion-2026-01-01",
                    "metrics": {"a": 0.5},
                    "dataset": {"name": "x"},
                    "lineage": {"base": {"source": "x"}},
                    "weights": {"size": 7, "sha256": "0"},
                }
            )
        )
        layout.current_model.symlink_to(f"{model.path.name}/{model.weights.name}")
        entry = {"model": model.path.name, "time": 1.0, "by": "a", "reason": "b", "before": None, "key": ""}
        layout.promotions.write_text(json.dumps({"promotions": [entry]}))
        dataset = layout.datasets / "azaion-2026-01-01"
        dataset.mkdir(parents=True)
        facts = {"name": dataset.name, "key": "k", "classes": ["square"], "digest": "0", "format": 1}
        facts |= {"splits": {"train": {"images": 3}}, "totals": {"images": 3}, "corrupted": {"count": 0}}
        (dataset / "manifest.json").write_text(json.dumps(facts))
        (dataset / "files.tsv").write_text("")
        held = layout.quarantine / "7"
        held.mkdir()
        (held / "reason.json").write_text(json.dumps({"offset": 7, "reason": "x", "time": "2026-01-01T00:00:00+00:00"}))
        (held / "body").write_bytes(b"body")

    def position(self) -> int:
        """How far the consumer says that it has read; -1 if that cannot be told."""
        found = offset.read(self.server.layout.offset)
        return found.offset if found is not None else -1

    def ran(self) -> dict[str, int]:
        """How often each job has run, as they have written themselves."""
        return {path.name: len(path.read_text()) // 2 for path in self.server.folder.glob("ledger-*")}

    def again(self) -> None:
        """Have everything as it was."""
        for folder in (self.server.root, self.server.layout.state):
            shutil.rmtree(folder)
            shutil.copytree(self._kept / folder.name, folder, symlinks=True)
        self.theirs.unlink(missing_ok=True)

    def files(self) -> list[Path]:
        """All that is read back; logs and images are not."""
        layout = self.server.layout
        found = (*layout.state.rglob("*"), *layout.root.rglob("*"))
        ours = [path for path in found if path.is_file() and not path.is_symlink()]
        return sorted(
            path for path in ours if path.suffix not in {".jpg", ".log"} and path.name not in {"log", "classes.json"}
        )


def answers(server: Installation, path: str) -> int:
    """The status of an answer."""
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(10)
    with connection.sock:
        connection.sock.connect(str(server.layout.socket))
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status


@contextmanager
def begun(server: Installation) -> Iterator[bool]:
    """The daemon started; whether it answers. It is killed afterwards."""
    log = server.folder / "azaiond.log"
    log.unlink(missing_ok=True)
    daemon = server.launch()
    try:
        until(lambda: daemon.poll() is not None or server.answers(), "the daemon answers, or gives up", 15)
        yield daemon.poll() is None
    finally:
        if daemon.poll() is None:
            # The consumer ends with it, as it does when a daemon is stopped.
            with suppress(subprocess.TimeoutExpired):
                server.stop()
        if daemon.poll() is None:
            server.kill()


def undecided(server: Installation) -> bool:
    """Whether the daemon says that it cannot look after a run."""
    return "cannot look after" in (server.folder / "azaiond.log").read_text()


def settle(server: Installation) -> dict[str, Any]:
    """The jobs, once those are judged that had ended unseen; and the consumer has said something."""

    def jobs() -> dict[str, Any]:
        return {str(job["id"]): job for job in server.client.get("/v1/jobs")}

    def judged() -> bool:
        # A run whose lock is no file stays what it was: nobody can tell whether it is held. The log names it.
        return undecided(server) or not any(
            job["state"] in {"starting", "running", "stopping"} for job in jobs().values()
        )

    until(judged, "the jobs are judged", 15)

    def told() -> bool:
        # Where it cannot write how it is, it says so in its log.
        log = server.layout.consumer_log
        state = server.client.get("/v1/consumer").get("state")
        return state not in {None, "starting"} or (log.is_file() and b"cannot tell" in log.read_bytes())

    with suppress(ClientError):
        until(told, "the consumer tells how it is", 15)
    return jobs()


def one_start(past: Past, rng: random.Random, given: tuple[str, str] | None = None) -> tuple[Path, str, str]:
    """Spoil a file, start, and look; returns the file, what became of it, and what became of the daemon."""
    server = past.server
    past.again()
    # As often one of the few files of a kind as one of the many.
    kinds: dict[str, list[Path]] = {}
    for each in past.files():
        kinds.setdefault(each.name if each.suffix in {".json", ".yaml"} else each.suffix or each.name, []).append(each)
    path, kind = rng.choice(kinds[rng.choice(sorted(kinds))]), rng.choice(KINDS)
    if given is not None:
        path, kind = next(server.folder.glob(given[0])), given[1]
    name = path.relative_to(server.folder)
    said = f"{name} {kind}"
    print(said)
    spoil(rng, path, kind, past.theirs)
    theirs = past.theirs.read_bytes() if past.theirs.exists() else None
    with begun(server) as up:
        log = server.folder / "azaiond.log"
        if up:
            jobs = settle(server)
            wrong = {look: status for look in LOOKS if (status := answers(server, look)) >= 500}
            assert not wrong, (said, wrong, log.read_text()[-3000:])
            if not path.name.startswith("jobs.sqlite"):
                assert jobs["1"]["state"] == "succeeded", said
                ends = [jobs[number]["state"] for number in ("2", "3", "4", "5")]
                if path.name == "lock" and undecided(server):
                    assert str(name) in log.read_text(), said
                    ends = ["failed" if end == "running" else end for end in ends]
                assert ends == ["failed", "failed", "failed", "held"], (said, ends)
        else:
            assert server.daemon is not None
            assert server.daemon.returncode in GIVEN_UP, (said, server.daemon.returncode, log.read_text()[-3000:])
            assert path.name.partition("-wal")[0].partition("-shm")[0] in log.read_text(), (said, log.read_text())
    for told in (log, server.layout.consumer_log):
        if told.is_file() and (text := told.read_text(encoding="utf-8", errors="replace")):
            assert not _TRACEBACK.search(text), (said, text[-3000:])
    # A database that lacks its end is an older one, of which a job that waited then is run again.
    assert path.name.startswith("jobs.sqlite") or past.ran() == past.ledgers, said
    assert not (server.folder / "NEVER").exists(), said
    assert theirs is None or past.theirs.read_bytes() == theirs, f"{said}: a link was followed"
    return name, kind, "it starts" if up else "it says why not"


def test_random_spoilt_files_are_told_or_outlived(server: Installation) -> None:
    seed = int(os.environ.get("AZAION_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"AZAION_SEED={seed} AZAION_FUZZ={STARTS * 5000}")
    began = time.monotonic()
    past = Past(server)
    ends: Counter[str] = Counter()
    for number in range(seed - len(FOUND), seed + STARTS):
        try:
            given = FOUND[number - seed] if number < seed else None
            _, kind, end = one_start(past, random.Random(number), given)
        except BaseException:
            print(f"AZAION_SEED={number} AZAION_FUZZ=5000")
            past.again()
            raise
        ends[f"{kind}: {end}"] += 1
    past.again()
    note = f"{time.monotonic() - began:.1f} s; {dict(sorted(ends.items()))}"
    tally("state file spoilt", len(FOUND) + STARTS, "told or outlived; nothing runs again, or was not as it was", note)
