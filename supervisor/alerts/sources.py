"""What there is to be told: from the checks, from the queue, from what has happened to jobs, from the channels."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from supervisor.alerts.model import Condition, Level, Notice, What
from supervisor.alerts.outbox import Outbox
from supervisor.health import words
from supervisor.health.model import Finding, Verdict
from supervisor.jobs.events import Event
from supervisor.jobs.gate import Alert

#: What nobody has known for so long is a warning.
_UNKNOWN_S: Final = 1800.0
_LEVELS: Final = {Verdict.OK: Level.OK, Verdict.WARNING: Level.WARNING, Verdict.CRITICAL: Level.CRITICAL}
#: The events of a job that people want to hear of: the alert's kind, and how much it matters.
_NEWS: Final = {
    "succeeded": ("finished", Level.INFO),
    "failed": ("failed", Level.WARNING),
    "requeued": ("interrupted", Level.WARNING),
    "started": ("resumed", Level.INFO),
}
NEWS_EVENTS: Final = tuple(_NEWS)


def of_health(findings: Iterable[Finding], now: float) -> dict[str, Condition]:
    """A condition for each finding."""
    return {finding.name: _of_finding(finding, now) for finding in findings}


def _of_finding(finding: Finding, now: float) -> Condition:
    level = _LEVELS.get(finding.verdict)
    if level is None and now - finding.since >= _UNKNOWN_S:
        level = Level.WARNING
    return Condition(
        kind=finding.check,
        level=level,
        text=finding.text,
        advice=finding.advice,
        quiet=finding.mute is not None,
    )


def of_queue(alerts: Iterable[Alert]) -> dict[str, Condition]:
    """A condition for each job that has waited for long, and one if nothing may start at all."""
    found = {}
    for alert in alerts:
        name = "queue" if alert.job is None else f"job {alert.job}"
        advice = "look: azaionctl preflight" if alert.job is None else f"look: azaionctl show {alert.job}"
        level = Level.CRITICAL if alert.job is None else Level.WARNING
        word = "nothing starts" if alert.job is None else "waits for long"
        found[f"{name} waiting"] = Condition(kind="waiting", level=level, text=f"{word}: {alert.text}", advice=advice)
    return found


def of_channels(outboxes: Mapping[str, Outbox]) -> dict[str, Condition]:
    """A condition for each channel."""
    return {f"channel {name}": _of_channel(name, outbox) for name, outbox in outboxes.items()}


def _of_channel(name: str, outbox: Outbox) -> Condition:
    if not outbox.dead:
        return Condition(kind="channel", level=Level.OK, text="takes messages again")
    since = f", last worked {words.moment(outbox.last_success)}" if outbox.last_success is not None else ""
    return Condition(
        kind="channel",
        level=Level.WARNING,
        text=f"has taken no message in {outbox.failures} tries{since}: {outbox.error}",
        advice=f"mend its url below `alerts` in azaion.yaml; then: azaionctl alerts test {name}",
    )


def of_events(
    events: Iterable[Event], title: Callable[[int], str], again: Callable[[int, float], bool]
) -> list[Notice]:
    """News of what has happened to jobs.

    Args:
        events: of the types `NEWS_EVENTS`.
        title: what people call a job, by its number; empty if it is gone.
        again: whether the attempt of a job that was started at this time was not its first.
    """
    found = []
    for event in events:
        if event.job is None or (event.type == "started" and not again(event.job, event.time)):
            continue
        kind, level = _NEWS[event.type]
        about = title(event.job)
        text = " ".join([f"({about})" if about else "", _said(kind, event.text)]).strip()
        name = f"job {event.job}"
        advice = f"look: azaionctl logs {event.job}" if kind == "failed" else ""
        found.append(
            Notice(name=name, kind=kind, what=What.NEWS, level=level, text=text, advice=advice, time=event.time)
        )
    return found


def _said(kind: str, text: str) -> str:
    if kind == "resumed":
        return "goes on"
    verb = {"finished": "has succeeded", "failed": "has failed", "interrupted": "was interrupted and will go on"}[kind]
    return f"{verb}: {text}" if text else verb
