"""Everything that a soak needs: a server on a small disk, its broker, CDN and API, a clock and a boot to change."""

import os
import secrets
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from supervisor import processes
from supervisor.control.client import Client, ClientError
from tests.azaion_api import Platform, platform
from tests.brokers import Broker, broker
from tests.consumers import broker_variables
from tests.installations import Installation
from tests.objects import BUCKET, ObjectStore, SeaweedFS, running
from tests.proxies import Proxy
from tests.published_models import Publisher
from tests.soak.judge import Blow
from tests.training_runs import draw_shapes

#: What a training asks for, and enough for the work of some minutes.
DISK_MB: Final = 2048
_CLOCK: Final = Path(__file__).with_name("clock.c")
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
#: The annotations that come in have nine classes.
_CLASSES: Final = ", ".join(f'{{"Id": {number}, "Name": "class-{number}"}}' for number in range(9))


@dataclass(frozen=True, kw_only=True)
class Plant:
    """One server and all around it.

    Attributes:
        folder: of the server, on its small disk.
        ledger: what the jobs write themselves; on another disk, which is never full.
        drawn: the annotations that were there before.
        blows: what was done to each job by its key, and how often.
    """

    server: Installation
    publisher: Publisher
    rabbit: Broker
    proxy: Proxy
    objects: ObjectStore
    api: Platform
    folder: Path
    ledger: Path
    device: Path
    clock: Path
    drawn: frozenset[str]
    blows: defaultdict[str, Counter[Blow]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def boot(self) -> str:
        return _BOOT.read_text(encoding="ascii").strip()

    def client(self) -> Client:
        return Client(self.server.layout.socket)

    def set_clock(self, shift_s: float) -> None:
        """Set the daemon's clock so far ahead of the true time."""
        with self.clock.open("r+b") as file:
            file.write(struct.pack("d", shift_s))

    def reboot(self) -> None:
        """The power goes, and comes back: everything that belongs to the server is gone at once, in another boot."""
        daemon = self.server.daemon
        assert daemon is not None
        if daemon.poll() is None:
            # What it keeps ready to become a run bears no mark of ours yet, and nothing new may come.
            daemon.send_signal(signal.SIGSTOP)
        family = _children(daemon.pid)
        daemon.kill()
        while found := [process for process in family if processes.send(process, signal.SIGKILL)]:
            family = [process for process in found if processes.alive(process)]
        while marked := list(self._processes()):
            for process in marked:
                processes.send(process, signal.SIGKILL)
        daemon.wait()
        _set_boot(_BOOT)

    def _processes(self) -> Iterator[processes.Identity]:
        """All that runs from the server's folder, or for one of its attempts."""
        mark = os.fsencode(self.folder)
        for path in _running():
            try:
                told = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
                told += os.fsencode((path / "cwd").readlink())
            except OSError:
                continue
            if mark in told and int(path.name) != os.getpid():
                process = processes.identify(int(path.name))
                if process is not None:
                    yield process


def _running() -> Iterator[Path]:
    """The folders of all processes, but for those that have ended and wait for their parent."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                yield path


def _children(pid: int) -> list[processes.Identity]:
    found = []
    for path in _running():
        with suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and (process := processes.identify(int(path.name))) is not None:
                found.append(process)
    return found


def _set_boot(path: Path) -> None:
    # Written in place: it is bound to where the kernel tells of its boot.
    path.write_text(f"{uuid.UUID(bytes=secrets.token_bytes(16), version=4)}\n", encoding="ascii")


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)  # noqa: S607 - the machine's own


def _unmount(path: Path) -> None:
    subprocess.run(["umount", "--lazy", path], check=False)  # noqa: S607 - the machine's own


@contextmanager
def plant() -> Iterator[Plant]:
    """Set everything up and end it. Needs a mount namespace of its own, and the right to mount in it."""
    with ExitStack() as held:
        outer = Path(tempfile.mkdtemp(prefix="az-soak-"))
        held.callback(shutil.rmtree, outer, ignore_errors=True)
        boot = outer / "boot_id"
        _set_boot(boot)
        _mount("--bind", boot, _BOOT)
        held.callback(_unmount, _BOOT)
        # A socket's path is limited, so this one is short.
        folder = Path(tempfile.mkdtemp(prefix="az-"))
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        _mount("-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0755", "none", folder)
        held.callback(_unmount, folder)
        clock = outer / "clock"
        clock.write_bytes(struct.pack("d", 0.0))
        library = outer / "clock.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, _CLOCK], check=True)  # noqa: S607 - any cc
        proxy = held.enter_context(Proxy())
        rabbit = held.enter_context(broker(advertised=proxy.address))
        proxy.upstream = (rabbit.host, rabbit.port)
        objects = held.enter_context(running(SeaweedFS()))
        api = held.enter_context(platform())
        api.keep("cdn.yaml", objects.yaml)
        server = Installation(folder, **broker_variables(rabbit, rabbit.stream, address=proxy.address, heartbeat_s=1))
        held.callback(server.close)
        server.variables["AZAION_GPUS"] = "none"
        server.preloaded = {"LD_PRELOAD": str(library), "SOAK_CLOCK": str(clock)}
        publisher = Publisher(
            server,
            **api.variables,
            AZAION_PUBLISH_TARGET="azaion",
            AZAION_CDN_CA=str(objects.ca),
            AZAION_CDN_BUCKET=BUCKET,
        )
        draw_shapes(server.layout, images=24, size=96)
        server.layout.classes.write_text(f"[{_CLASSES}]", encoding="utf-8")
        ledger = outer / "ledger"
        ledger.touch()
        yield Plant(
            server=server,
            publisher=publisher,
            rabbit=rabbit,
            proxy=proxy,
            objects=objects,
            api=api,
            folder=folder,
            ledger=ledger,
            device=outer / "device",
            clock=clock,
            drawn=frozenset(path.stem for path in server.layout.data.images.iterdir()),
        )


class Stopwatch:
    """How long it takes until things are well again, whatever else happens meanwhile."""

    def __init__(self) -> None:
        self.measured: defaultdict[str, list[float]] = defaultdict(list)
        self._waiting: list[tuple[str, float, Callable[[], Any]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def begin(self, what: str, condition: Callable[[], Any]) -> None:
        """Measure from now until ``condition`` holds, in milliseconds."""
        self._waiting.append((what, time.monotonic(), condition))

    @property
    def waiting(self) -> list[str]:
        """What has not come true yet."""
        return [what for what, _, _ in self._waiting]

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            for each in list(self._waiting):
                what, began, condition = each
                try:
                    held = condition()
                except (ClientError, OSError):
                    continue
                if held:
                    self.measured[what].append(1000 * (time.monotonic() - began))
                    self._waiting.remove(each)
