"""What befalls a server in a soak: one thing after the other, dealt like cards."""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from azaion.layout import AttemptFolder
from supervisor import processes
from supervisor.control.client import ClientError
from supervisor.processes import Identity
from tests.soak.judge import Blow
from tests.soak.load import TERMINAL
from tests.soak.plant import Plant, Stopwatch
from tests.training_runs import epochs_done
from tests.waiting import until

#: Steps of the daemon and of the consumer at which they may be told to die, in their next life.
_STEPS: Final = (
    "store.submit.before-commit",
    "store.submit.committed",
    "store.reserve.before-commit",
    "store.reserve.committed",
    "store.started.committed",
    "store.finish.before-commit",
    "store.finish.committed",
    "store.file.renamed",
    "store.record.renamed",
    "store.records.written",
    "offset.before",
    "offset.after",
)
_ANSWER_S: Final = 2.0
#: So long somebody is looked for to whom it can be done.
_PATIENCE_S: Final = 2.0
#: How far ahead of the true time the daemon's clock may be set.
_SHIFTS: Final = (0.0, -3600.0, 3600.0, 86_400.0, -86_400.0, 40 * 86_400.0)


class Faults:
    """Does harm, and notes it.

    Args:
        plant: to what.
        watch: measures how long it takes until things are well again.
        dice: what decides.

    Attributes:
        done: how often each was done.
        problem: a daemon that died by itself, in words; None if none did.
    """

    def __init__(self, plant: Plant, watch: Stopwatch, dice: random.Random) -> None:
        self._plant = plant
        self._server = plant.server
        self._watch = watch
        self._dice = dice
        self._client = plant.client()
        self._deck: list[str] = []
        self._doomed = False
        self._held: dict[str, Any] | None = None
        self.done: Counter[str] = Counter()
        self.problem: str | None = None
        #: How often each comes in one deal.
        self._cards: dict[str, tuple[int, Callable[[], bool]]] = {
            "SIGKILL of the daemon": (5, self._kill_daemon),
            "SIGTERM of the daemon": (2, self._end_daemon),
            "death of the daemon or the consumer at a step": (3, self._doom),
            "SIGSTOP of the daemon": (2, self._stop_daemon),
            "SIGKILL of the consumer": (3, self._kill_consumer),
            "SIGSTOP of the consumer": (1, self._stop_consumer),
            "SIGKILL of a shim": (2, partial(self._strike, Blow.SHIM, signal.SIGKILL)),
            "SIGSTOP of a shim": (1, partial(self._strike, Blow.SHIM, signal.SIGSTOP)),
            "SIGKILL of a run": (1, partial(self._strike, Blow.KILLED, signal.SIGKILL)),
            "SIGSTOP of a run": (1, partial(self._strike, Blow.KILLED, signal.SIGSTOP)),
            "SIGKILL of a training": (1, partial(self._strike, Blow.KILLED, signal.SIGKILL, "train")),
            "SIGKILL of the broker": (1, self._kill_broker),
            "silence of the broker": (1, self._silence_broker),
            "connections cut": (2, self._cut),
            "connections cut within a frame": (1, self._cut_within),
            "SIGKILL of the S3 server": (1, self._kill_objects),
            "trouble with the API": (1, self._trouble),
            "disk full": (1, self._fill),
            "clock set": (3, self._set_clock),
            "power cut, another boot": (1, self._reboot),
        }

    def befall(self) -> str:
        """One fault, and a while to work before it; returns which."""
        time.sleep(self._dice.choice([0, 0.1, 0.3, 0.8]))
        self._alive()
        self._held = self._running()
        if not self._deck:
            self._deck = [name for name, (times, _) in self._cards.items() for _ in range(times)]
            self._dice.shuffle(self._deck)
        name = self._deck.pop()
        if self._cards[name][1]():
            self.done[name] += 1
            return name
        return f"({name}: nobody there)"

    def last_start(self) -> None:
        """A daemon that nothing is planned for."""
        self._alive()
        self._held = None
        self._kill_daemon()

    # The daemon.

    def _alive(self) -> None:
        """Start the daemon where it died as it was told to; it never dies by itself."""
        daemon = self._server.daemon
        if daemon is None or daemon.poll() is None:
            return
        if not self._doomed or daemon.returncode != -signal.SIGKILL:
            self.problem = self.problem or f"the daemon ended by itself with {daemon.returncode}"
        self._start()

    def _start(self, failpoints: str = "") -> None:
        held = self._held
        self._doomed = bool(failpoints)
        self._server.launch(failpoints)
        self._watch.begin("daemon started until it answers", self._answers)
        if held is not None:
            self._watch.begin("daemon started until it holds a run again", partial(self._holds, held["id"]))

    def _answers(self) -> bool:
        self._client.get("/v1/jobs", {"limit": 0}, timeout=_ANSWER_S)
        return True

    def _holds(self, number: int) -> bool:
        state: str = self._client.get(f"/v1/jobs/{number}", timeout=_ANSWER_S)["state"]
        return state in {"running", "stopping"} | TERMINAL

    def _kill_daemon(self) -> bool:
        self._server.kill()
        time.sleep(self._dice.choice([0, 0, 0.5]))
        self._start()
        return True

    def _end_daemon(self) -> bool:
        code = self._server.stop()
        # At the very beginning it has not yet said what it does when it is asked.
        if code not in {0, -signal.SIGTERM} and not (self._doomed and code == -signal.SIGKILL):
            self.problem = self.problem or f"the daemon, asked to end, ended with {code}"
        self._start()
        return True

    def _doom(self) -> bool:
        self._server.kill()
        self._start(f"{self._dice.choice(_STEPS)}={self._dice.randrange(1, 10)}:kill")
        return True

    def _stop_daemon(self) -> bool:
        assert self._server.daemon is not None
        self._pause(self._server.daemon.pid, self._dice.uniform(0.1, 2))
        return True

    @staticmethod
    def _pause(pid: int, seconds: float) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(pid, signal.SIGCONT)

    # The consumer and its broker.

    def _consumer(self) -> dict[str, Any]:
        try:
            told: dict[str, Any] = self._client.get("/v1/consumer", timeout=_ANSWER_S)
        except ClientError:
            return {}
        return told

    def _consuming(self, killed: int | None = None) -> bool:
        told = self._client.get("/v1/consumer", timeout=_ANSWER_S)
        return told.get("state") == "consuming" and told["pid"] not in {None, killed}

    def _kill_consumer(self) -> bool:
        pid = self._consumer().get("pid")
        if not pid:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._watch.begin("consumer killed until another one consumes", partial(self._consuming, pid))
        return True

    def _stop_consumer(self) -> bool:
        pid = self._consumer().get("pid")
        if not pid:
            return False
        self._pause(pid, self._dice.uniform(0.1, 3))
        return True

    def _kill_broker(self) -> bool:
        self._plant.rabbit.kill()
        time.sleep(self._dice.choice([0, 1]))
        self._plant.rabbit.start()
        self._watch.begin("broker back until the consumer consumes", self._consuming)
        return True

    def _silence_broker(self) -> bool:
        self._plant.rabbit.pause()
        time.sleep(self._dice.uniform(0.1, 4))
        self._plant.rabbit.resume()
        return True

    def _cut(self) -> bool:
        self._plant.proxy.cut()
        return True

    def _cut_within(self) -> bool:
        self._plant.proxy.cut_after(self._dice.randrange(1, 60_000))
        return True

    # Runs.

    def _running(self, kind: str = "") -> dict[str, Any] | None:
        """A job that runs, of those whose kind it is."""
        found = [job for job in self._jobs() or [] if job["state"] == "running" and kind in {"", job["kind"]}]
        return self._dice.choice(found) if found else None

    def _jobs(self) -> list[dict[str, Any]] | None:
        """All jobs; None while nobody answers, or where there is none."""
        try:
            jobs: list[dict[str, Any]] = self._client.get("/v1/jobs", timeout=_ANSWER_S)
        except ClientError:
            self._alive()
            return None
        return jobs

    def _attempt(self, number: int) -> AttemptFolder | None:
        """The latest attempt of a job that has been started."""
        folders = [path.parent for path in self._server.layout.jobs.glob(f"{number}-*/*/state.json")]
        return AttemptFolder(path=max(folders, key=lambda path: int(path.name))) if folders else None

    def _strike(self, blow: Blow, number: signal.Signals, kind: str = "") -> bool:
        """Send a signal to a shim or to the leader of a run; one that is stopped goes on soon."""
        deadline = time.monotonic() + _PATIENCE_S
        while (job := self._running(kind)) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        folder = self._attempt(job["id"])
        if folder is None:
            return False
        state = json.loads(folder.state.read_bytes())
        told = state["shim" if blow is Blow.SHIM else "child"]
        process = Identity(told["pid"], told["start"])
        if number == signal.SIGSTOP:
            if processes.send(process, number):
                time.sleep(self._dice.uniform(0.1, 2))
                processes.send(process, signal.SIGCONT)
            return True
        self._plant.blows[_key(job)][blow] += 1
        sent = processes.send(process, number)
        if sent and kind == "train":
            self._resumes(job["id"], folder)
        return sent

    def _resumes(self, number: int, folder: AttemptFolder) -> None:
        self._watch.begin("training killed until its next epoch is done", partial(self._resumed, number, folder))

    def _resumed(self, number: int, folder: AttemptFolder) -> bool:
        later = AttemptFolder(path=Path(folder.path.parent, str(int(folder.path.name) + 1)))
        done: bool = self._client.get(f"/v1/jobs/{number}", timeout=_ANSWER_S)["state"] in TERMINAL
        return done or bool(epochs_done(later))

    # Everything else.

    def _kill_objects(self) -> bool:
        self._plant.objects.kill()
        time.sleep(self._dice.choice([0, 1]))
        self._plant.objects.start()
        return True

    def _trouble(self) -> bool:
        how: dict[str, Any] = self._dice.choice([{"status": 503}, {"cut": True}, {"wait_s": 1.0}])
        self._plant.api.trouble(times=self._dice.randrange(1, 4), **how)
        return True

    def _fill(self) -> bool:
        """No byte is left on the server's disk for a while."""
        self._befallen(Blow.FULL)
        filler = self._plant.folder / "filler"
        deadline = time.monotonic() + self._dice.uniform(0.5, 3)
        try:
            with filler.open("wb", buffering=0) as file:
                room = os.statvfs(filler)
                with suppress(OSError):
                    os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
                file.seek(0, os.SEEK_END)
                while time.monotonic() < deadline:
                    try:
                        file.write(bytes(1 << 16))
                    except OSError:
                        self._befallen(Blow.FULL, again=False)
                        time.sleep(0.02)
        finally:
            filler.unlink()
        return True

    def _befallen(self, blow: Blow, *, again: bool = True) -> None:
        """Note it of every job that may be under way."""
        for job in until(self._jobs, "the daemon tells of its jobs"):
            if job["state"] not in TERMINAL:
                key = _key(job)
                if again or not self._plant.blows[key][blow]:
                    self._plant.blows[key][blow] += 1

    def _set_clock(self) -> bool:
        self._plant.set_clock(self._dice.choice(_SHIFTS))
        return True

    def _reboot(self) -> bool:
        self._befallen(Blow.POWER)
        self._plant.reboot()
        self._start()
        return True


def _key(job: dict[str, Any]) -> str:
    return job["key"] or f"job {job['id']}"


def settled(plant: Plant, limit_s: float) -> list[dict[str, Any]]:
    """All jobs, each with its attempts, when every one of them has ended."""
    client = plant.client()

    def look() -> list[dict[str, Any]] | None:
        try:
            jobs = client.get("/v1/jobs", timeout=10)
        except ClientError:
            return None
        return jobs if all(job["state"] in TERMINAL for job in jobs) else None

    try:
        jobs = until(look, "every job has ended", limit_s)
    except AssertionError as error:
        left = [job for job in client.get("/v1/jobs") if job["state"] not in TERMINAL]
        raise AssertionError(f"{error}: {json.dumps(left, indent=1)}") from None
    assert jobs is not None
    return [client.get(f"/v1/jobs/{job['id']}") for job in jobs]
