"""The queue beside its peers: ``python -m benchmarks.queues``, all in one run, on one machine.

============  =======================================================================================================
ours          azaiond and azaionctl, launcher fork
task-spooler  tsp, from Debian
gflow         gflowd, gbatch and gqueue (the package runqd); each job in a tmux session
============  =======================================================================================================

``benchmarks/peers.sh`` fetches the two others into ``.venv/peers``. Whichever is missing is left out, with a word.
Each measure goes by turns, so that a noisy moment of the machine meets all of them.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.daemon import CTL
from benchmarks.measure import Figure, cpu_seconds, machine, resident_mib, time_command
from supervisor.commands.text import table
from tests.installations import Installation, installation
from tests.waiting import until

_PEERS: Final = Path(sys.executable).parent.parent / "peers"
_TMUX: Final = shutil.which("tmux") or ""
_IDLE_S: Final = 30.0
#: task-spooler keeps a connection for each job that waits, and its select() takes 1,024 of them; then it hangs.
_SPOOLED: Final = 1000


class Queue(ABC):
    """A queue that runs, with a folder of its own."""

    name: str
    folder: Path

    @property
    @abstractmethod
    def pid(self) -> int:
        """The daemon."""

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]:
        """For its commands."""

    @abstractmethod
    def submit(self, argv: list[str], *, behind: bool = False) -> list[str]:
        """The command that files a job, which may have to wait for the one that blocks."""

    @abstractmethod
    def status(self) -> list[str]:
        """The command that shows the queue."""

    @abstractmethod
    def block(self) -> None:
        """Start a job for the others to wait for."""

    def fill(self, count: int) -> None:
        """Put so many jobs behind the one that blocks."""
        for _ in range(count):
            self.call(self.submit(["true"], behind=True))

    def call(self, argv: list[str]) -> float:
        """Milliseconds that a command takes."""
        return time_command(argv, self.environment, str(self.folder))


class Ours(Queue):
    """azaiond."""

    name = "ours"

    def __init__(self, server: Installation) -> None:
        self._server = server
        self.folder = server.folder
        self._first = 0

    @property
    def pid(self) -> int:
        assert self._server.daemon is not None
        return self._server.daemon.pid

    @property
    def environment(self) -> dict[str, str]:
        return self._server.environment()

    def submit(self, argv: list[str], *, behind: bool = False) -> list[str]:
        after = ["--after", str(self._first)] if behind else []
        return [CTL, "submit", "--gpu", "0", *after, "--", *argv]

    def status(self) -> list[str]:
        return [CTL, "status"]

    def block(self) -> None:
        self._first = self._server.submit("sleep 3600", devices=0)
        self._server.wait(self._first, "running")

    def fill(self, count: int) -> None:
        # One client that stays: what is measured is not how it got there.
        for _ in range(count):
            self._server.submit("true", devices=0, after=self._first)


class TaskSpooler(Queue):
    """tsp."""

    name = "task-spooler"

    def __init__(self, folder: Path, program: str) -> None:
        self.folder = folder
        self._program = program
        self.call([program, "-S", "2"])

    @property
    def pid(self) -> int:
        # It forks its server from the first command, which is nobody's child afterwards.
        return _owner_of(self.folder / "socket")

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "TS_SOCKET": str(self.folder / "socket"),
            "TMPDIR": str(self.folder),
            "TS_MAXFINISHED": "20000",
            "TS_MAXCONN": "20000",
        }

    def submit(self, argv: list[str], *, behind: bool = False) -> list[str]:
        after = ["-D", "0"] if behind else []
        return [self._program, "-n", *after, *argv]

    def status(self) -> list[str]:
        return [self._program, "-l"]

    def block(self) -> None:
        # Whoever waits for a job is given by its number, which counts from 0, so the server begins anew.
        self.end()
        until(lambda: not (self.folder / "socket").exists(), "the server ends")
        self.call([self._program, "-S", "2"])
        self.call([self._program, "-n", "sleep", "3600"])

    def end(self) -> None:
        """End the server, and what it runs."""
        subprocess.run([self._program, "-k", "0"], env=self.environment, stderr=subprocess.DEVNULL, check=False)
        self.call([self._program, "-K"])


class Gflow(Queue):
    """gflowd."""

    name = "gflow"

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self._programs = programs
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        configuration = folder / "config" / "gflow" / "gflow.toml"
        configuration.parent.mkdir(parents=True)
        configuration.write_text(f'[daemon]\nhost = "127.0.0.1"\nport = {port}\n')
        self._port = port
        self.launch()
        self._first = "1"

    def launch(self) -> None:
        """Start the daemon, also again after its death."""
        self._daemon = subprocess.Popen(
            [self._programs / "gflowd"], env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: self._answers(self._port), "gflowd listens")

    @staticmethod
    def _answers(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    @property
    def pid(self) -> int:
        return self._daemon.pid

    @property
    def environment(self) -> dict[str, str]:
        kinds = ("CONFIG", "DATA", "STATE", "CACHE")
        places = {f"XDG_{kind}_HOME": str(self.folder / kind.lower()) for kind in kinds}
        path = {"PATH": f"{self._programs}:{os.environ['PATH']}"}
        return os.environ | path | places | {"TMUX_TMPDIR": str(self.folder), "HOME": str(self.folder)}

    def submit(self, argv: list[str], *, behind: bool = False) -> list[str]:
        after = ["--depends-on", self._first] if behind else []
        return [str(self._programs / "gbatch"), *after, *argv]

    def status(self) -> list[str]:
        return [str(self._programs / "gqueue")]

    def block(self) -> None:
        told = subprocess.run(
            self.submit(["sleep", "3600"]), env=self.environment, stdout=subprocess.PIPE, check=True, text=True
        ).stdout
        # It says: Submitted batch job 7 (and its name).
        self._first = told.split()[3]

    def fill(self, count: int) -> None:
        # One by one it takes a second for every few jobs, and it refuses a request with all of them.
        for begun in range(0, count, 500):
            self.call([*self.submit([], behind=True), "--array", f"1-{min(500, count - begun)}", "true"])

    def end(self) -> None:
        """End the daemon, and the tmux in which its jobs are."""
        subprocess.run([_TMUX, "kill-server"], env=self.environment, stderr=subprocess.DEVNULL, check=False)
        self._daemon.send_signal(signal.SIGTERM)
        self._daemon.wait(10)


def _owner_of(path: Path) -> int:
    """The process that listens on a unix socket."""
    inode = next(
        line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines() if line.endswith(f" {path}")
    )
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) == f"socket:[{inode}]":  # noqa: PTH115 - not a path
                return int(descriptor.parts[2])
        except OSError:
            continue
    raise ProcessLookupError(path)


@contextmanager
def queues() -> Iterator[list[Queue]]:
    """Those that there are, running."""
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="az-queues-", ignore_cleanup_errors=True)))
        server = held.enter_context(installation())
        server.start()
        found: list[Queue] = [Ours(server)]
        tsp = shutil.which("tsp", path=f"{_PEERS}/task-spooler/usr/bin:{os.environ['PATH']}")
        if tsp is not None:
            (folder / "tsp").mkdir()
            spooler = TaskSpooler(folder / "tsp", tsp)
            held.callback(spooler.end)
            found.append(spooler)
        gflow = shutil.which("gflowd", path=f"{_PEERS}/gflow/bin:{os.environ['PATH']}")
        if gflow is not None and _TMUX:
            (folder / "gflow").mkdir()
            flow = Gflow(folder / "gflow", Path(gflow).parent)
            held.callback(flow.end)
            found.append(flow)
        for name in {"task-spooler", "gflow"} - {queue.name for queue in found}:
            print(f"{name} is not here, and left out; bash benchmarks/peers.sh {sys.executable} {_PEERS} fetches it")
        yield found


def started(queue: Queue, number: int) -> float:
    """Milliseconds from the exec of the submitting command to the job's first instruction."""
    told = queue.folder / f"started-{number}"
    script = queue.folder / "start.sh"
    # bash's own clock: the first thing that the job does. In a file, since gflow types its commands into a terminal.
    script.write_text("echo $EPOCHREALTIME > $1.part; mv $1.part $1\n")
    began = time.time()
    queue.call(queue.submit(["bash", str(script), str(told)]))
    until(told.exists, f"the job of {queue.name} starts")
    return 1000 * (float(told.read_text()) - began)


def run(*, runs: int, queued: int) -> list[list[str]]:
    """The table."""
    with queues() as all_of_them:
        found = all_of_them

        def turns(name: str, measure: Callable[[Queue, int], float]) -> list[list[str]]:
            values = {queue.name: [0.0] * runs for queue in found}
            for number in range(runs):
                for queue in found:
                    values[queue.name][number] = measure(queue, number)
            return _rows(name, values, "ms")

        rows = turns("submit to start", started)
        if queued > _SPOOLED:
            print(f"task-spooler cannot keep {queued} jobs waiting, and is left out from here on")
            found = [queue for queue in found if not isinstance(queue, TaskSpooler)]
        for queue in found:
            queue.block()
        rows += turns("a submit, whole process", lambda queue, _: queue.call(queue.submit(["true"], behind=True)))
        for queue in found:
            queue.fill(queued - runs)
        rows += turns(f"status, {queued} queued", lambda queue, _: queue.call(queue.status()))
        before = {queue.name: cpu_seconds(queue.pid) for queue in found}
        time.sleep(_IDLE_S)
        shares = {queue.name: [100 * (cpu_seconds(queue.pid) - before[queue.name]) / _IDLE_S] for queue in found}
        memory = {queue.name: [resident_mib(queue.pid)] for queue in found}
    rows += _rows("daemon's CPU then, idle", shares, "%") + _rows("daemon's memory then", memory, "MiB")
    return [["FIGURE", "QUEUE", "RUNS", "P50", "P99"], *rows]


def _rows(name: str, values: dict[str, list[float]], unit: str) -> list[list[str]]:
    figures = {queue: Figure(name=name, values=tuple(given), goal="", unit=unit) for queue, given in values.items()}
    return [[name, queue, *figure.row()[1:4]] for queue, figure in figures.items()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queues", description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--queued", type=int, default=10_000, help="jobs that wait while status is asked")
    arguments = parser.parse_args()
    print(machine())
    print(table(run(runs=arguments.runs, queued=arguments.queued)))


if __name__ == "__main__":
    main()
