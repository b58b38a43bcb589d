"""The page: one file of HTML that loads nothing, runs nothing, and escapes whatever a user has named."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, Final

import jinja2

from azaion.report import course, diagrams, pictures, words
from azaion.report.facts import Absent, Attempt, Epoch, Facts
from azaion.words import size

_STATES: Final[Mapping[str, str]] = {
    "succeeded": "Succeeded",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "running": "Running: a report so far",
    "stopping": "Stopping: a report so far",
    "starting": "Starting: a report so far",
    "queued": "Waiting to go on: a report so far",
    "held": "Held: a report so far",
}
_SHOWN_METRICS: Final = ("mAP50-95", "mAP50", "precision", "recall")
#: So many rows a table has at most; a job may have thousands of classes.
ROWS: Final = 100


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One of the large figures at the top."""

    value: str
    name: str


def render(facts: Facts) -> str:
    """The whole page.

    Returns:
        HTML of a few MB at the most: pictures are bounded by `workers.reporting.predictions`, lines and tables here.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("azaion.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "absent": lambda part: isinstance(part, Absent),
        "share": words.share,
        "count": words.count,
        "moment": words.moment,
        "duration": words.duration,
        "value": words.value,
        "cut": words.cut,
    }
    return environment.get_template("page.html").render(
        facts=facts,
        job=facts.job,
        style=environment.loader.get_source(environment, "page.css")[0] if environment.loader else "",
        state=_STATES.get(facts.job.state, facts.job.state),
        summary=summary(facts),
        figures=headline(facts),
        timeline=diagrams.timeline(facts),
        curves=diagrams.curves(facts),
        attempts=_attempts(facts),
        redone=course.redone(facts),
        surroundings=_surroundings(facts.attempts),
        cause=course.cause,
        judged=None if isinstance(facts.judgement, Absent) else diagrams.judged(facts.judgement),
        balance=None if isinstance(facts.balance, Absent) else diagrams.balance(facts.balance),
        samples=None if isinstance(facts.samples, Absent) else pictures.drawn(facts.samples),
        rows=ROWS,
    )


def headline(facts: Facts) -> list[Figure]:
    """What somebody wants to know who has five seconds."""
    figures = []
    if isinstance(facts.model, Absent):
        epochs = course.done(facts)
        best = course.best(epochs)
        metrics: Mapping[str, float] = best.metrics if best else {}
        which = f", epoch {best.number}" if best else ""
        figures += [
            Figure(value=words.share(metrics[name]), name=f"{name}{which}")
            for name in _SHOWN_METRICS
            if name in metrics
        ]
    else:
        metrics = facts.model.metrics
        figures += [Figure(value=words.share(metrics[name]), name=name) for name in _SHOWN_METRICS if name in metrics]
    reached = max((epoch.number for epoch in course.done(facts)), default=0)
    whole = f" of {facts.job.epochs}" if facts.job.epochs else ""
    figures.append(Figure(value=f"{reached}{whole}", name="epochs"))
    if facts.attempts:
        figures.append(Figure(value=words.duration(course.ran(facts)), name="trained"))
    return figures


def summary(facts: Facts) -> str:
    """The outcome in a sentence or two."""
    job, parts = facts.job, []
    if not isinstance(facts.model, Absent):
        use = ", which is in use" if facts.model.in_use else ""
        best = f" (its best epoch was {facts.model.best_epoch})" if facts.model.best_epoch else ""
        parts.append(f"The model is {facts.model.name}{use}{best}.")
    elif job.state == "failed":
        parts.append(f"It ended: {course.cause(job.cause) or 'nobody knows why'}.")
    elif job.eta_s is not None and not job.over:
        parts.append(f"About {words.duration(timedelta(seconds=job.eta_s))} are left.")
    breaks = len(facts.attempts) - 1
    again = course.redone(facts)
    if breaks > 0:
        lost = f"{words.plural(again, 'epoch')} had to be done again" if again else "no finished epoch was lost"
        parts.append(f"It was interrupted {'once' if breaks == 1 else f'{breaks} times'}; {lost}.")
    return " ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Row:
    """An attempt in its table."""

    attempt: Attempt
    why: str
    ran: timedelta | None
    waited: timedelta | None
    epochs: str
    again: int


def _attempts(facts: Facts) -> list[Row]:
    waited = {after.number: course.gap(before, after) for before, after in pairwise(facts.attempts)}
    lines = {line.attempt: line for line in course.lines(facts)}
    rows = []
    for attempt in facts.attempts[-ROWS:]:
        line = lines.get(attempt.number)
        last = attempt.number == facts.attempts[-1].number
        rows.append(
            Row(
                attempt=attempt,
                why=course.cause(attempt.cause) or ("" if attempt.ended is None else "done"),
                ran=course.length(attempt, facts.made) if last or attempt.ended else None,
                waited=waited.get(attempt.number),
                epochs=_range(attempt.epochs),
                again=len(line.lost) if line else 0,
            )
        )
    return rows


def _range(epochs: tuple[Epoch, ...]) -> str:
    if not epochs:
        return "none"
    first, last = epochs[0].number, epochs[-1].number
    return str(first) if first == last else f"{first} to {last}"


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """One fact of the surroundings, for the attempts that share it."""

    name: str
    values: tuple[tuple[str, str], ...]


def _surroundings(attempts: tuple[Attempt, ...]) -> list[Surroundings]:
    """Each fact once, or once for each attempt from which on it was another."""
    told = [attempt for attempt in attempts if attempt.surroundings]
    names = dict.fromkeys(name for attempt in told for name in attempt.surroundings)
    found = []
    for name in names:
        values: list[tuple[str, str]] = []
        for attempt in told:
            shown = _fact(name, attempt.surroundings.get(name))
            if not values or values[-1][1] != shown:
                values.append((f"from attempt {attempt.number} on", shown))
        found.append(Surroundings(name=name, values=tuple(values)))
    return found


def _fact(name: str, given: Any) -> str:
    if name == "memory" and isinstance(given, int):
        return size(given)
    if name == "gpus" and isinstance(given, list):
        gpus = [f"{gpu.get('name')} ({size(gpu.get('memory') or 0)})" for gpu in given if isinstance(gpu, dict)]
        return "; ".join(gpus) or "none, trained on the processor"
    return words.value(given)
