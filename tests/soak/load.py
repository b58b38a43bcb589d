"""The steady load of a soak: people file jobs and end some, models are trained and published."""

import hashlib
import random
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from azaion import models
from azaion.errors import AzaionError
from supervisor.control.client import ClientError
from tests.soak.judge import Blow
from tests.soak.plant import Plant
from tests.training_runs import QUICK

EPOCHS: Final = 3
TERMINAL: Final = frozenset({"succeeded", "failed", "cancelled"})
#: Nobody files more while so many wait.
_WAITING: Final = 12
#: How long an answer may take; a daemon that is stopped gives none.
_ANSWER_S: Final = 5.0
#: Nothing that is done to a server keeps it from answering for so long.
_PATIENCE_S: Final = 120.0

#: A job that tells of itself; whoever finds the device held by another one says so.
_SCRIPT: Final = """
read boot < /proc/sys/kernel/random/boot_id
echo "begin {key} $boot" >> {ledger}
{device}
sleep {pause}
echo "end {key} $boot {code}" >> {ledger}
exit {code}
"""
_DEVICE: Final = 'exec 9> {device}; flock -n 9 || echo "overlap {key} $boot" >> {ledger}'


class Load(threading.Thread):
    """Somebody who does something again and again.

    Attributes:
        problem: what has ended it, that should not have.
    """

    def __init__(self, plant: Plant, seed: int, pause_s: float) -> None:
        super().__init__()
        self.plant = plant
        self.dice = random.Random(seed)
        self.ended = threading.Event()
        self.problem: BaseException | None = None
        self._client = plant.client()
        self._pause_s = pause_s

    def run(self) -> None:
        """Until it is ended; what was begun is brought to its end."""
        try:
            while not self.ended.wait(self._pause_s * self.dice.uniform(0.2, 1.8)):
                self.once()
        except BaseException as problem:  # noqa: BLE001 - for the soak to tell
            self.problem = problem

    def once(self) -> None:
        """Do it once."""
        raise NotImplementedError

    def end(self) -> None:
        self.ended.set()
        self.join()

    def ask(self, path: str, body: Any = None, query: Mapping[str, Any] | None = None) -> Any:
        """Ask until there is an answer."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._client.post(path, body, query, timeout=_ANSWER_S)
            except ClientError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def look(self, path: str) -> Any:
        """What the daemon tells, or None while there is none."""
        try:
            return self._client.get(path, timeout=_ANSWER_S)
        except ClientError:
            return None


class Commands(Load):
    """People who file commands and cancel some.

    Attributes:
        acknowledged: the keys of those that are filed.
    """

    def __init__(self, plant: Plant, seed: int) -> None:
        super().__init__(plant, seed, 0.3)
        self.acknowledged: dict[str, int] = {}

    def once(self) -> None:
        """File one, or cancel one of the latest."""
        dice = self.dice
        latest = list(self.acknowledged)[-5:]
        if latest and dice.random() < 0.12:
            key = dice.choice(latest)
            # Before it is asked, since it may be heard without an answer.
            self.plant.blows[key][Blow.CANCELLED] += 1
            try:
                self._client.post(f"/v1/jobs/{self.acknowledged[key]}/cancel", query={"now": 1}, timeout=_ANSWER_S)
            except ClientError:
                return
            return
        waiting = self.look("/v1/jobs?state=queued")
        if waiting is not None and len([job for job in waiting if job["state"] == "queued"]) >= _WAITING:
            return
        key = f"c{len(self.acknowledged)}"
        devices = int(dice.random() < 0.15)
        names = {"key": key, "ledger": self.plant.ledger, "device": self.plant.device}
        script = _SCRIPT.format(
            **{**names, "device": _DEVICE.format(**names) if devices else ""},
            pause=dice.choice([0, 0.1, 0.5, 1, 3]),
            code=dice.choice([0, 0, 0, 3]),
        )
        body = {
            "kind": "command",
            "argv": ["sh", "-c", script],
            "cwd": str(self.plant.folder),
            "env": {},
            "devices": devices,
            "key": key,
        }
        self.acknowledged[key] = self.ask("/v1/jobs", body)["id"]


class Trainings(Load):
    """One training after the other."""

    def __init__(self, plant: Plant, seed: int) -> None:
        super().__init__(plant, seed, 0.5)
        self.acknowledged: dict[str, int] = {}

    def once(self) -> None:
        """File one when the one before has ended."""
        if self.acknowledged:
            last = self.look(f"/v1/jobs/{list(self.acknowledged.values())[-1]}")
            if last is None or last["state"] not in TERMINAL:
                return
        key = f"t{len(self.acknowledged)}"
        body = {"kind": "train", "epochs": EPOCHS, "overrides": dict(QUICK), "key": key}
        self.acknowledged[key] = self.ask("/v1/jobs", body)["id"]


class Models(Load):
    """Models come from elsewhere and are published; a consumer fetches what it is led to.

    Attributes:
        known: the SHA-256 of all weights that a consumer may get.
        published: jobs that were filed.
        fetched: how often a consumer got a model, and how often it had to wait.
        wrong: what it got that no model is.
    """

    def __init__(self, plant: Plant, seed: int) -> None:
        super().__init__(plant, seed, 4.0)
        self._made = 0
        self.known: set[str] = set()
        self.published: list[int] = []
        self.fetched = 0
        self.refused = 0
        self.wrong: list[str] = []

    def once(self) -> None:
        """Register one and publish it, or fetch."""
        if self.published and self.dice.random() < 0.6:
            self.fetch()
            return
        self._made += 1
        key = f"m{self._made}"
        try:
            name, weights = self.plant.publisher.model(key, self.dice.choice([1_000, 100_000, 3_000_000]))
        except (OSError, AzaionError):
            # The disk is full.
            return
        self.known.add(hashlib.sha256(weights).hexdigest())
        self.published.append(self.ask(f"/v1/models/{name}/publish", {})["id"])

    def fetch(self) -> bool:
        """Whether a consumer got a model: the whole of one, or it is noted as wrong."""
        try:
            data = self.plant.publisher.fetch()
        except (AssertionError, OSError, ValueError):
            self.refused += 1
            return False
        trained = {str(model.card["weights"]["sha256"]) for model in models.load_all(self.plant.server.layout)}
        if (got := hashlib.sha256(data).hexdigest()) not in self.known | trained:
            self.wrong.append(f"a consumer got {len(data)} bytes with SHA-256 {got}, which is no model of ours")
        self.fetched += 1
        return True
