"""Everything at once, for as long as you like: ``python -m tests.soak [--seconds 60] [--rounds 1] [--seed N]``.

A daemon with its consumer, jobs, trainings and publications under a steady load, while processes are killed and
stopped, the broker and the CDN go away, the disk fills up, the clock is set and the power is cut. Then a judge compares
what the product says with what the jobs, the publisher and a consumer of models have written down themselves. Ends with
1 if there is a violation, and says how to have the same dice again.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from azaion import models
from tests.annotation_messages import Event, expected, found, quarantined
from tests.consumers import end_of
from tests.publishers import Publisher
from tests.soak.faults import Faults, settled
from tests.soak.judge import Evidence, Training, violations
from tests.soak.load import EPOCHS, Commands, Load, Models, Trainings
from tests.soak.plant import Plant, Stopwatch, plant
from tests.tallies import measured, tally
from tests.training_runs import epochs_done
from tests.waiting import until

#: Set in the namespace that is made for it.
_INSIDE: Final = "AZAION_SOAK_INSIDE"
#: So long after the last fault everything must be well.
_SETTLE_S: Final = 240.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for which things go wrong, in each round (60)")
    parser.add_argument("--rounds", type=int, default=1, help="how many, each with everything anew (1)")
    parser.add_argument("--seed", type=int, help="of the first round; the next have the next")
    parser.add_argument("--verbose", action="store_true", help="tell of each fault")
    arguments = parser.parse_args()
    if os.environ.get(_INSIDE) != "1":
        return _within_a_namespace()
    seed = arguments.seed if arguments.seed is not None else time.time_ns() % 1_000_000
    done: Counter[str] = Counter()
    times: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(arguments.rounds):
        which = f"--seed {seed + number} --seconds {arguments.seconds:g}"
        print(f"round {number + 1} of {arguments.rounds}: {which}", flush=True)
        with plant() as made:
            found = Round(made, seed + number, verbose=arguments.verbose)
            problems = found.run(arguments.seconds)
            done += found.done
            for what, values in found.times.items():
                times[what] += values
            for problem in problems:
                print(f"violation: {problem}")
            if problems:
                print(f"what there was is in {_keep(made)}; the same dice again: python -m tests.soak {which}")
                return 1
    for what, count in sorted(done.items()):
        tally(f"all together: {what}", count, "jobs, tree, models and consumers are as they were asked for")
    for what, values in sorted(times.items()):
        measured(what, values)
        print(f"{what}: {len(values)} times, p50 {median(values):.0f} ms, p99 {_p99(values):.0f} ms")
    print("0 violations")
    return 0


def private() -> list[str]:
    """A command's beginning: it then runs where it may mount what nobody else sees."""
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *as_root, "--mount", "--propagation", "private"]


def _within_a_namespace() -> int:
    argv = [*private(), sys.executable, "-m", "tests.soak", *sys.argv[1:]]
    return subprocess.run(argv, env={**os.environ, _INSIDE: "1"}, check=False).returncode


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[-1] if len(values) > 1 else values[0]


def _keep(made: Plant) -> Path:
    """Leave for a look what has ended badly; returns where."""
    kept = Path(tempfile.mkdtemp(prefix="azaion-soak-"))
    subprocess.run(["cp", "-a", made.folder, made.ledger, kept], check=False)  # noqa: S607 - the machine's own
    return kept


class Round:
    """One life of a server, from nothing to the verdict."""

    def __init__(self, made: Plant, seed: int, *, verbose: bool) -> None:
        self._plant = made
        self._server = made.server
        self._seed = seed
        self._verbose = verbose
        self._events: list[Event] = []
        self.done: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {}

    def run(self, seconds: float) -> list[str]:
        """Do harm for so long, then see what is wrong."""
        made, seed = self._plant, self._seed
        self._server.start()
        commands, trainings, published = Commands(made, seed), Trainings(made, seed + 1), Models(made, seed + 2)
        load: list[Load] = [commands, trainings, published]
        with Stopwatch() as watch:
            faults = Faults(made, watch, random.Random(seed))
            with Publisher(made.rabbit, made.rabbit.stream, self._events, seed, pause_s=0.05) as publisher:
                for each in load:
                    each.start()
                self._harm(faults, seconds)
                faults.last_start()
                for each in load:
                    each.end()
            problems = [faults.problem] if faults.problem else []
            ended = [(type(each).__name__, each.problem) for each in load] + [("Publisher", publisher.problem)]
            problems += [f"{who} has given up: {problem!r}" for who, problem in ended if problem is not None]
            try:
                jobs = settled(made, _SETTLE_S)
                self._well_again(watch, published)
            except AssertionError as error:
                return [*problems, str(error)]
            self.done, self.times = faults.done, dict(watch.measured)
        evidence = Evidence(
            acknowledged=frozenset(commands.acknowledged) | frozenset(trainings.acknowledged),
            ledger=made.ledger.read_text(encoding="utf-8").splitlines(),
            boot=made.boot,
            jobs=jobs,
            blows=made.blows,
            trainings={key: self._training(number) for key, number in trainings.acknowledged.items()},
        )
        problems += violations(evidence)
        problems += published.wrong
        problems += self._annotations(publisher)
        problems += self._logs()
        problems += [damage for model in models.load_all(self._server.layout) if (damage := models.damage(model))]
        self._tell(evidence, published, publisher)
        return problems

    def _harm(self, faults: Faults, seconds: float) -> None:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            what = faults.befall()
            if self._verbose:
                print(f"{time.monotonic() - began:7.1f} s  {what}", flush=True)

    def _well_again(self, watch: Stopwatch, published: Models) -> None:
        until(lambda: not watch.waiting, f"things are well again: {watch.waiting}", _SETTLE_S)
        end = end_of(self._plant.rabbit, self._plant.rabbit.stream)
        client = self._plant.client()
        until(lambda: client.get("/v1/consumer").get("offset") == end, f"the consumer has read all {end} messages", 60)
        if published.published:
            current = models.current(self._server.layout)
            job = client.post(f"/v1/models/{current}/publish", {})
            ended = self._server.wait(job["id"], limit_s=60)
            assert ended["state"] == "succeeded", f"nothing can be published: {ended}"
            assert published.fetch(), "a consumer gets nothing"
        assert self._server.stop() == 0, "the daemon did not end well"

    def _training(self, number: int) -> Training:
        (folder,) = self._server.layout.jobs.glob(f"{number}-*")
        attempts = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        told = {each: epochs_done(self._server.attempt(number, each)) for each in attempts}
        return Training(epochs=EPOCHS, told=told)

    def _annotations(self, publisher: Publisher) -> list[str]:
        """The tree is that of the publisher's own list, and what nobody can read is in quarantine."""
        layout, made = self._server.layout, self._plant
        stream = made.rabbit.read(end_of(made.rabbit, made.rabbit.stream))
        bad = {str(number): body[body.index(b"nonsense") :] for number, body in stream if b"nonsense" in body}
        try:
            tree = {name: lying for name, lying in found(layout).items() if name not in made.drawn}
            assert tree == expected(self._events), "the tree is not that of the publisher's list"
            assert set(bad.values()) == set(publisher.bad), "a message that nobody can read has gone astray"
            kept = {name: (layout.quarantine / name / "message.bin").read_bytes() for name in bad}
            assert kept == bad, "quarantine has other messages"
            others = {name: why for name, why in quarantined(layout).items() if name not in bad}
            # Of an edit whose annotation had no image when it came, there is nothing to file.
            assert all("image" in why["reason"] for why in others.values()), f"in quarantine for no reason: {others}"
        except (AssertionError, OSError) as error:
            return [str(error)]
        return []

    def _logs(self) -> Iterator[str]:
        """Whatever happens is told in a line, never as what Python prints of an error that nobody has caught."""
        for path in (self._server.folder / "azaiond.log", self._server.layout.consumer_log):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    uncaught = "exception" in json.loads(line)
                except ValueError:
                    # A line that a full disk has cut off is none of it.
                    uncaught = line.startswith("Traceback")
                if uncaught:
                    yield f"{path.name}: {line[:3000]}"

    def _tell(self, evidence: Evidence, published: Models, publisher: Publisher) -> None:
        states: Counter[Any] = Counter((job["kind"], job["state"]) for job in evidence.jobs)
        told = ", ".join(f"{count} {kind} {state}" for (kind, state), count in sorted(states.items()))
        print(
            f"{self.done.total()} faults; jobs: {told}; {len(self._events)} annotation events, "
            f"{len(publisher.bad)} bad messages, {publisher.repeated} groups published again; "
            f"{len(published.known)} models, {published.fetched} fetched, {published.refused} times not",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
