"""The judge of a soak: what the runs have written themselves, held against what the product says of them.

Who is judged has no say: the ledger is written by the jobs, outside of the product, and what befell whom by those who
did it. A run may end before its time only if somebody ended it, or the power went.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final


class Blow(StrEnum):
    """What somebody did to a job that may change how it ends."""

    KILLED = "its run was killed"
    SHIM = "its shim was killed"
    CANCELLED = "it was cancelled"
    FULL = "the disk was full"
    POWER = "the power was cut"


#: After so many interruptions, or crashes in a row, a training may be given up.
_GIVEN_UP: Final = 3
#: The same of a command, which only a power cut interrupts.
_INTERRUPTED: Final = 5


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a training has left: for each of its attempts the epochs that it told of."""

    epochs: int
    told: Mapping[int, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that is known of the jobs of one round.

    Attributes:
        acknowledged: the keys of the jobs that were asked for; who asks goes on until it has an answer.
        ledger: lines `begin KEY BOOT`, `end KEY BOOT CODE`, `overlap KEY BOOT`, in the order of their writing.
        boot: the last boot of the machine.
        jobs: as `show --json` prints them.
        blows: what was done to each job, and how often.
        trainings: by key.
    """

    acknowledged: frozenset[str]
    ledger: Sequence[str]
    boot: str
    jobs: Sequence[Mapping[str, Any]]
    blows: Mapping[str, Counter[Blow]]
    trainings: Mapping[str, Training] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Run:
    """One start of a command, as its own lines tell of it."""

    boot: str
    code: int | None = None


def violations(evidence: Evidence) -> Iterator[str]:
    """What cannot be, in words; nothing if all is as it should be."""
    runs: dict[str, list[_Run]] = {}
    for line in evidence.ledger:
        yield from _entered(line.split(), runs)
    jobs = {job["key"]: job for job in evidence.jobs if job["kind"] in {"command", "train"}}
    for key, count in Counter(job["key"] for job in evidence.jobs if job["key"] in jobs).items():
        if count > 1:
            yield f"{key} was filed {count} times"
    for key in sorted(evidence.acknowledged - jobs.keys()):
        yield f"{key} was acknowledged, and there is no such job"
    for key in sorted((jobs.keys() | runs.keys()) - evidence.acknowledged):
        yield f"nobody asked for {key}"
    for job in evidence.jobs:
        key = job["key"]
        blows = evidence.blows.get(key, Counter())
        match job["kind"]:
            case "command":
                problems = _command(job, runs.get(key, []), blows, evidence.boot)
            case "train":
                problems = _training(job, evidence.trainings[key], blows)
            case _:
                problems = iter(() if job["state"] == "succeeded" or blows else ("it has not succeeded",))
        for problem in problems:
            yield f"{key}: {problem} (blows: {dict(blows)}; the product says: {_told(job)})"


def _entered(words: Sequence[str], runs: dict[str, list[_Run]]) -> Iterator[str]:
    match words:
        case ["begin", key, boot]:
            if any(run.boot == boot for run in runs.get(key, [])):
                yield f"{key} was started twice in one boot"
            runs.setdefault(key, []).append(_Run(boot=boot))
        case ["end", key, boot, code] if key in runs and runs[key][-1].boot == boot and runs[key][-1].code is None:
            runs[key][-1].code = int(code)
        case ["overlap", key, _]:
            yield f"{key} was given a device that somebody held"
        case _:
            yield f"a line of the ledger has no place: {words}"


def _command(job: Mapping[str, Any], runs: Sequence[_Run], blows: Counter[Blow], boot: str) -> Iterator[str]:
    for run, later in pairwise(runs):
        if run.code is not None and not blows[Blow.POWER]:
            yield f"it ended with {run.code} and was started again in {later.boot}"
    if job["state"] == "cancelled":
        if not blows[Blow.CANCELLED]:
            yield "nobody has cancelled it"
        return
    last = runs[-1] if runs else None
    killed = job["state"] == "failed" and blows[Blow.KILLED] and _cause(job) in {"signal:9", "lost:shim"}
    if killed or (job["state"] == "failed" and blows[Blow.SHIM] and _cause(job) == "lost:shim"):
        return
    if _cause(job) == "interrupted" and blows[Blow.POWER] >= _INTERRUPTED:
        return
    if last is None:
        yield "it never ran"
    elif last.code is None:
        yield "it was interrupted" if last.boot == boot else "the power cut it off, and it was not started again"
    elif (job["state"], job["attempts"][-1]["exit_code"]) != ("failed" if last.code else "succeeded", last.code):
        yield f"it ended with {last.code}"


def _training(job: Mapping[str, Any], training: Training, blows: Counter[Blow]) -> Iterator[str]:
    if job["state"] != "succeeded" and not (
        (job["state"] == "cancelled" and blows[Blow.CANCELLED])
        or (job["state"] == "failed" and blows.total() >= _GIVEN_UP)
    ):
        yield "it has not succeeded"
    attempts = [attempt for attempt in job["attempts"] if attempt["cause"] != "never-started"]
    interruptions = blows[Blow.KILLED] + blows[Blow.FULL] + blows[Blow.POWER]
    if len(attempts) - 1 > interruptions:
        yield f"it was interrupted {len(attempts) - 1} times, and somebody did something to it {interruptions} times"
    reached = 0
    for attempt in attempts:
        told = list(training.told.get(attempt["n"], []))
        resumed = attempt["resumed_from_epoch"] or 0
        if told and resumed < reached:
            yield f"attempt {attempt['n']} went on at epoch {resumed}, though epoch {reached} was done"
        if told != list(range(resumed + 1, resumed + 1 + len(told))):
            yield f"attempt {attempt['n']} went on at epoch {resumed} and told of epochs {told}"
        reached = max([reached, *told])
    if job["state"] == "succeeded" and reached != training.epochs:
        yield f"it ended after {reached} of {training.epochs} epochs"


def _cause(job: Mapping[str, Any]) -> Any:
    """Of the job, or, where that only says that it was given up, of its last attempt."""
    attempts = job["attempts"]
    return job["cause"] or (attempts[-1]["cause"] if attempts else None)


def _told(job: Mapping[str, Any]) -> str:
    attempts = [(each["n"], each["exit_code"], each["cause"], each["resumed_from_epoch"]) for each in job["attempts"]]
    return f"job {job['id']} {job['state']} {job['cause']} {job['reason']!r} attempts {attempts}"
