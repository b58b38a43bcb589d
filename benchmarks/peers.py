"""What becomes of jobs and services when things die, beside the peers: ``python -m benchmarks.peers [--write]``.

============  =======================================================================================================
ours          azaiond, launcher fork; a service of ``azaion.yaml``
task-spooler  tsp, from Debian; its queue is in memory, and there is nothing to set
gflow         gflowd, gbatch and gqueue (the package runqd); each job in a tmux session
gq            gq (the package gq-local) on GPUs of the tests' fake driver
Slurm         slurmctld and slurmd on one node, from Debian (benchmarks/slurm.py); both are killed
supervisord   ``autorestart=true``, ``startsecs=0``
circus        a watcher; it looks every 5 s, unless told otherwise
============  =======================================================================================================

``benchmarks/peers.sh`` fetches them into ``.venv/peers``; whichever is missing is left out, with a word. Each is
configured as its documentation does it, and started again after its death by the same command as before. A job is a
shell that writes a line into a file of ours; whether it lives is asked of the kernel, how often it ran of that file.
``--write`` puts the table and the plot into docs/performance.md.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import slurm
from benchmarks.measure import machine
from benchmarks.queues import Gflow, Ours, Queue, TaskSpooler, started
from benchmarks.slurm import Slurm
from supervisor import processes
from supervisor.control.client import ClientError
from tests.installations import Installation, installation
from tests.nvml import FakeNvml
from tests.services import declare
from tests.waiting import until

_PEERS: Final = Path(sys.executable).parent.parent / "peers"
_CODE: Final = Path(__file__).parents[1]
_PAGE: Final = _CODE / "docs" / "performance.md"
_PLOT: Final = _CODE / "docs" / "peers.svg"
_BEGIN: Final = "<!-- figures: python -m benchmarks.peers --write -->"
_END: Final = "<!-- end of figures -->"
#: Jobs that have ended, while the queue is asked for what there is.
_HISTORY: Final = 300
#: So long it is waited for what will perhaps never come.
_PATIENCE_S: Final = 10.0
RUNNING: Final = "running"


class Subject(ABC):
    """A queue, and what is done to it.

    Attributes:
        queue: its commands.
        ledger: where its jobs write.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.ledger = queue.folder / "ledger"
        self.ledger.touch()
        self._filed = 0

    @property
    def name(self) -> str:
        return self.queue.name

    def file(self, script: str) -> str:
        """File a job, until that is acknowledged; returns by what name it is known."""
        self._filed += 1
        # In a file, since gflow types its commands into a terminal.
        path = self.queue.folder / f"job-{self._filed}.sh"
        path.write_text(f"{script}\n", encoding="utf-8")
        return self.number(self.run(*self.queue.submit(["sh", str(path)])))

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Make good what the last death has left behind, where that takes a person."""

    @abstractmethod
    def number(self, told: str) -> str:
        """The job's name, from what the command has printed."""

    def kill(self) -> None:
        """SIGKILL the daemon."""
        pid = self.queue.pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: not _alive(pid), f"the daemon of {self.name} is gone")

    @abstractmethod
    def again(self) -> None:
        """Start the daemon as before."""

    @abstractmethod
    def told(self, job: str) -> str:
        """What it says of a job: that it runs, its exit code, or something else."""

    def history(self) -> list[str]:
        """The command that shows jobs that have ended, too."""
        return self.queue.status()

    def run(self, *argv: str) -> str:
        """What a command of it prints, whatever it ends with."""
        return subprocess.run(
            argv,
            env=self.queue.environment,
            cwd=self.queue.folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout


class OurQueue(Subject):
    """azaiond."""

    def __init__(self, server: Installation) -> None:
        super().__init__(Ours(server))
        self._server = server

    def number(self, told: str) -> str:
        return told.strip()

    def kill(self) -> None:
        self._server.kill()

    def again(self) -> None:
        self._server.start()

    def told(self, job: str) -> str:
        try:
            record = self._server.job(int(job))
        except ClientError:
            return ""
        code = record["attempts"][-1]["exit_code"] if record["attempts"] else None
        return RUNNING if record["state"] == "running" else str(code)

    def history(self) -> list[str]:
        return [*self.queue.status()[:1], "list", "--all"]


class SpoolerQueue(Subject):
    """tsp; the first command after a death starts a server anew."""

    queue: TaskSpooler

    def number(self, told: str) -> str:
        # It says nothing of one whose output it does not keep.
        del told
        return max((line.split()[0] for line in self.run(self._program, "-l").splitlines()[1:]), key=int, default="")

    def again(self) -> None:
        self.run(self._program, "-S", "64")

    def told(self, job: str) -> str:
        state = self.run(self._program, "-s", job).strip()
        if state != "finished":
            return state
        lines = [line.split() for line in self.run(self._program, "-l").splitlines()]
        return next((words[3] for words in lines if words[0] == job), "")

    @property
    def _program(self) -> str:
        return self.queue.status()[0]


class GflowQueue(Subject):
    """gflowd, started again as it was."""

    queue: Gflow

    def number(self, told: str) -> str:
        # It says: Submitted batch job 7 (and its name).
        return told.split()[3]

    def again(self) -> None:
        self.queue.launch()

    def told(self, job: str) -> str:
        try:
            found = json.loads(self.run(*self.history(), "--jobs", job, "--output", "json"))
        except ValueError:
            return ""
        state = str(_first(found, "state") or "").lower()
        # Its list tells how a job has ended, and no exit code.
        return {"running": RUNNING, "finished": "0"}.get(state, state)

    def history(self) -> list[str]:
        return [*self.queue.status(), "--all"]


def _first(found: Any, name: str) -> Any:
    """The first value of this name, however deep."""
    if isinstance(found, dict):
        inner = (value for each in found.values() if (value := _first(each, name)))
        return found[name] if name in found else next(inner, None)
    if isinstance(found, list):
        return next((value for each in found if (value := _first(each, name))), None)
    return None


class Gq(Queue):
    """gq's daemon, with GPUs of a fake driver."""

    name = "gq"

    def __init__(self, folder: Path, program: str) -> None:
        self.folder = folder
        self._program = program
        self._nvml = FakeNvml(folder / "nvml")
        self._nvml.tell(count=64)
        self.start()

    def start(self) -> None:
        """Start the daemon."""
        self.call([self._program, "daemon", "start"])

    def end(self) -> None:
        """End the daemon."""
        subprocess.run([self._program, "daemon", "stop"], env=self.environment, capture_output=True, check=False)

    @property
    def pid(self) -> int:
        (path,) = self.folder.rglob("gq.pid")
        text = path.read_text(encoding="utf-8")
        with suppress(ValueError):
            return int(text)
        return int(json.loads(text)["pid"])

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "AWS_"))}
        runtime = {"XDG_RUNTIME_DIR": str(self.folder)}
        return clean | {"HOME": str(self.folder)} | runtime | self._nvml.environment

    def submit(self, argv: list[str], *, behind: bool = False) -> list[str]:
        del behind
        return [self._program, "run", "-g", "1", "--", *argv]

    def status(self) -> list[str]:
        return [self._program, "ps"]

    def block(self) -> None:
        raise NotImplementedError


class GqQueue(Subject):
    """gq."""

    queue: Gq

    def number(self, told: str) -> str:
        # It says: Submitted job 7.
        return told.split()[2]

    def again(self) -> None:
        self.queue.start()

    def told(self, job: str) -> str:
        try:
            (found,) = json.loads(self.run(*self.queue.status(), "--json", job))
        except ValueError:
            return ""
        return RUNNING if found["state"] == "RUNNING" else str(found["exit_code"])


class SlurmQueue(Subject):
    """Slurm."""

    queue: Slurm

    def number(self, told: str) -> str:
        return told.strip()

    def prepare(self) -> None:
        self.queue.begin_anew()

    def kill(self) -> None:
        self.queue.kill()

    def again(self) -> None:
        self.queue.launch()

    def told(self, job: str) -> str:
        found = dict(word.split("=", 1) for word in self.run(*self.queue.show(job)).split() if "=" in word)
        if found.get("JobState") == "RUNNING":
            return RUNNING
        # As code:signal.
        return found.get("ExitCode", "").partition(":")[0] if found.get("EndTime", "Unknown") != "Unknown" else ""

    def history(self) -> list[str]:
        return [*self.queue.status(), "--states=all"]


class Keeper(ABC):
    """A supervisor with one service, which writes its PID into the ledger whenever it starts."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self.script = folder / "service.sh"
        self.script.write_text(f"echo $$ >> {self.ledger}\nexec sleep 1000\n", encoding="utf-8")

    @abstractmethod
    def start(self) -> None:
        """Start it."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL it."""

    @property
    def starts(self) -> list[int]:
        """The PIDs of all starts."""
        return [int(line) for line in self.ledger.read_text(encoding="utf-8").split()]

    def end(self) -> None:
        """End it, and all that it has started."""
        self.kill()
        for pid in self.starts:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class OurKeeper(Keeper):
    """azaiond with a service."""

    name = "ours"

    def __init__(self, server: Installation) -> None:
        super().__init__(server.folder)
        self._server = server
        declare(server, sleeper={"argv": ["sh", str(self.script)], "grace_s": 5})

    def start(self) -> None:
        self._server.start()

    def kill(self) -> None:
        self._server.kill()


class Program(Keeper):
    """A supervisor that is one process, and its configuration."""

    configuration: str

    def __init__(self, folder: Path, program: Path) -> None:
        super().__init__(folder)
        path = folder / "configuration"
        path.write_text(self.configuration.format(folder=folder, script=self.script), encoding="utf-8")
        self._argv = [str(program), *self._options(path)]
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _options(self, path: Path) -> list[str]:
        """What comes behind its name."""

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._argv, stdout=log, stderr=log, cwd=self.folder)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


class Supervisord(Program):
    """supervisord."""

    name = "supervisord"
    configuration = (
        "[supervisord]\nnodaemon=true\nlogfile={folder}/supervisord.log\npidfile={folder}/supervisord.pid\n"
        "[program:service]\ncommand=sh {script}\nautorestart=true\nstartsecs=0\n"
    )

    def _options(self, path: Path) -> list[str]:
        return ["-c", str(path)]


class Circus(Program):
    """circusd."""

    name = "circus"
    configuration = (
        "[circus]\nendpoint = ipc://{folder}/endpoint\npubsub_endpoint = ipc://{folder}/pubsub\n"
        "[watcher:service]\ncmd = sh\nargs = {script}\nnumprocesses = 1\n"
    )

    def _options(self, path: Path) -> list[str]:
        return [str(path)]


@dataclass(kw_only=True)
class Row:
    """One thing that was looked at, of each that it was looked at of.

    Attributes:
        found: in words, by name.
        good: how much of it is as it should be, 0 to 1; absent for a time.
    """

    what: str
    found: dict[str, str] = field(default_factory=dict)
    good: dict[str, float] = field(default_factory=dict)

    def share(self, name: str, times: int, of: int) -> None:
        """It was so, so many times of so many."""
        self.found[name], self.good[name] = f"{times}/{of}", times / of

    def time(self, name: str, values_ms: list[float]) -> None:
        """It took so long."""
        ordered = sorted(values_ms)
        last = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
        self.found[name] = f"{median(values_ms):.0f} / {last:.0f} ms"


def _holds(condition: Callable[[], bool], limit_s: float = _PATIENCE_S) -> bool:
    """Whether something comes true within so long."""
    with suppress(AssertionError):
        return until(condition, "", limit_s)
    return False


def _alive(pid: int) -> bool:
    """Whether it lives; what has ended as our child is let go."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return processes.identify(pid) is not None


def killed_under_a_run(subject: Subject, number: int) -> dict[str, bool]:
    """SIGKILL of the daemon under a run, which then is told to end with 7."""
    subject.prepare()
    go, mark = subject.queue.folder / f"go-{number}", f"run-{number}"
    job = subject.file(f"echo {mark} $$ >> {subject.ledger}\nuntil [ -e {go} ]; do sleep 0.05; done\nexit 7")

    def lines() -> list[str]:
        return [line for line in subject.ledger.read_text(encoding="utf-8").splitlines() if line.startswith(f"{mark} ")]

    pid = int(until(lines, f"the run of {subject.name} begins")[0].split()[1])
    until(lambda: subject.told(job) == RUNNING, f"{subject.name} says that it runs")
    subject.kill()
    time.sleep(0.3)
    lives = _alive(pid)
    subject.again()
    held = _holds(lambda: subject.told(job) == RUNNING)
    go.touch()
    until(lambda: not _alive(pid), f"the run of {subject.name} ends")
    known = _holds(lambda: subject.told(job) == "7")
    return {"lives": lives, "held": held, "known": known, "once": len(lines()) == 1}


def killed_after_the_answer(subject: Subject, number: int) -> int:
    """SIGKILL of the daemon as soon as a job is acknowledged; returns how often the job then runs."""
    subject.prepare()
    mark = f"answered-{number}"
    subject.file(f"echo {mark} >> {subject.ledger}")
    subject.kill()
    subject.again()

    def count() -> int:
        return subject.ledger.read_text(encoding="utf-8").split().count(mark)

    _holds(lambda: count() > 0)
    time.sleep(0.5)
    return count()


def service_restarted(keeper: Keeper) -> float:
    """Milliseconds from the SIGKILL of a service to its next start."""
    before = keeper.starts
    began = time.perf_counter()
    os.kill(before[-1], signal.SIGKILL)
    until(lambda: len(keeper.starts) > len(before), f"{keeper.name} starts its service again")
    return 1000 * (time.perf_counter() - began)


def keeper_killed(keeper: Keeper) -> dict[str, bool]:
    """SIGKILL of the supervisor itself, which is then started again."""
    before = keeper.starts
    keeper.kill()
    time.sleep(0.3)
    lives = _alive(before[-1])
    keeper.start()
    # Whoever starts a second one does so at once.
    twice = _holds(lambda: len(keeper.starts) > len(before), 2.0) and _alive(before[-1])
    if twice:
        os.kill(before[-1], signal.SIGKILL)
    return {"lives": lives, "once": not twice}


@contextmanager
def queues() -> Iterator[list[Subject]]:
    """Those that there are, running."""
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="az-peers-", ignore_cleanup_errors=True)))
        server = held.enter_context(installation())
        server.start()
        found: list[Subject] = [OurQueue(server)]
        if tsp := _program("task-spooler/usr", "tsp"):
            spooler = TaskSpooler(_folder(folder, "tsp"), tsp)
            spooler.call([tsp, "-S", "64"])
            held.callback(_quietly, spooler.end)
            found.append(SpoolerQueue(spooler))
        if (gflow := _program("gflow", "gflowd")) and shutil.which("tmux"):
            flow = Gflow(_folder(folder, "gflow"), Path(gflow).parent)
            held.callback(_quietly, flow.end)
            found.append(GflowQueue(flow))
        if program := _program("gq", "gq"):
            gq = Gq(_folder(folder, "gq"), program)
            held.callback(gq.end)
            found.append(GqQueue(gq))
        if place := slurm.unpacked(_PEERS / "slurm"):
            cluster = Slurm(_folder(folder, "slurm"), place)
            held.callback(_quietly, cluster.end)
            found.append(SlurmQueue(cluster))
        yield found


@contextmanager
def keepers() -> Iterator[list[Keeper]]:
    """Those that there are, each with its service started."""
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="az-peers-", ignore_cleanup_errors=True)))
        found: list[Keeper] = [OurKeeper(held.enter_context(installation()))]
        if supervisord := _program("supervisor", "supervisord"):
            found.append(Supervisord(_folder(folder, "supervisord"), Path(supervisord)))
        if circusd := _program("circus", "circusd"):
            found.append(Circus(_folder(folder, "circus"), Path(circusd)))
        for keeper in found:
            keeper.start()
            held.callback(keeper.end)
            until(lambda keeper=keeper: keeper.starts, f"{keeper.name} starts its service")  # type: ignore[misc]
        yield found


def _folder(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made


def _program(folder: str, name: str) -> str:
    """Where a peer is; says so where it is not."""
    found = shutil.which(name, path=f"{_PEERS}/{folder}/bin:{os.environ['PATH']}") or ""
    if not found:
        print(f"{name} is not here, and left out; bash benchmarks/peers.sh {sys.executable} {_PEERS} fetches it")
    return found


def _quietly(end: Callable[[], None]) -> None:
    with suppress(OSError, subprocess.SubprocessError, StopIteration):
        end()


def measure(runs: int) -> list[Row]:
    """Everything, by turns."""
    start = Row(what="submit to start, p50 / p99")
    history = Row(what=f"the list, {_HISTORY} jobs ended, p50 / p99")
    under = {
        "lives": Row(what="daemon killed: the run lives on"),
        "held": Row(what="... and its next daemon knows that it runs"),
        "known": Row(what="... and its exit code, 7, is known in the end"),
        "once": Row(what="... and it was not started a second time"),
    }
    kept = Row(what="daemon killed right after a submit: the job runs")
    single = Row(what="... and only once")
    with queues() as subjects:
        _by_turns(start, subjects, runs, lambda each, number: started(each.queue, number))
        for subject in subjects:
            ends = [killed_under_a_run(subject, number) for number in range(runs)]
            for what, row in under.items():
                row.share(subject.name, sum(end[what] for end in ends), runs)
            counts = [killed_after_the_answer(subject, number) for number in range(runs)]
            kept.share(subject.name, sum(count > 0 for count in counts), runs)
            single.share(subject.name, sum(count in {0, 1} for count in counts), runs)
    with queues() as subjects:
        for subject in subjects:
            for _ in range(_HISTORY):
                subject.queue.call(subject.queue.submit(["true"]))
        _by_turns(history, subjects, runs, lambda each, _: each.queue.call(each.history()))
    return [start, history, *under.values(), kept, single, *_supervised(runs)]


def _supervised(runs: int) -> list[Row]:
    restart = Row(what="service killed: until it is started again, p50 / p99")
    lives = Row(what="supervisor killed: the service lives on")
    alone = Row(what="... and none is started beside it")
    with keepers() as found:
        for keeper in found:
            # Few: who dies often is started again later and later.
            restart.time(keeper.name, [service_restarted(keeper) for _ in range(3)])
            ends = [keeper_killed(keeper) for _ in range(runs)]
            lives.share(keeper.name, sum(end["lives"] for end in ends), runs)
            alone.share(keeper.name, sum(end["once"] for end in ends), runs)
    return [restart, lives, alone]


def _by_turns(row: Row, subjects: list[Subject], runs: int, take: Callable[[Subject, int], float]) -> None:
    values = {each.name: [0.0] * runs for each in subjects}
    for number in range(runs):
        for each in subjects:
            values[each.name][number] = take(each, number)
    for name, found in values.items():
        row.time(name, found)


def columns(rows: list[Row]) -> list[str]:
    """All that were looked at, ours first."""
    return list(dict.fromkeys(name for row in rows for name in row.found))


def markdown(rows: list[Row]) -> str:
    """The table; a dash where there is nothing of the kind."""
    names = columns(rows)
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {row.what} | {' | '.join(row.found.get(name, '-') for name in names)} |" for row in rows]
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """The same in colours: how often it was as it should be."""
    import matplotlib as mpl  # noqa: PLC0415 - for whoever draws

    mpl.use("svg")
    from matplotlib import patches  # noqa: PLC0415 - the same
    from matplotlib import pyplot as plt  # noqa: PLC0415 - the same

    names = columns(rows)
    figure, axes = plt.subplots(figsize=(1.35 * len(names) + 4.2, 0.42 * len(rows) + 0.9))
    colours = plt.get_cmap("RdYlGn")
    for line, row in enumerate(rows):
        for column, name in enumerate(names):
            told = colours(0.1 + 0.8 * row.good[name]) if name in row.good else "#e8e8e8"
            colour = told if name in row.found else "#ffffff"
            axes.add_patch(patches.Rectangle((column, line), 0.96, 0.9, color=colour))
            axes.text(column + 0.48, line + 0.45, row.found.get(name, "-"), ha="center", va="center", fontsize=8)
    axes.set_xlim(0, len(names))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks([column + 0.48 for column in range(len(names))], names, fontsize=9)
    axes.set_yticks([line + 0.45 for line in range(len(rows))], [row.what for row in rows], fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.patch.set_facecolor("white")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="of each measure (20)")
    parser.add_argument("--write", action="store_true", help="put the table and the plot into docs/performance.md")
    arguments = parser.parse_args()
    told = f"{machine()}; {time.strftime('%Y-%m-%d', time.gmtime())}; {arguments.runs} runs."
    rows = measure(arguments.runs)
    text = f"{told}\n\n{markdown(rows)}"
    print(text)
    if arguments.write:
        plot(rows, _PLOT)
        page = _PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(_BEGIN)
        _, _, after = rest.partition(_END)
        _PAGE.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
