"""Above the table: how everything is, the worst first."""

import datetime as dt
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.cells import cell_len
from rich.text import Text

from azaion.words import size
from supervisor.commands import text
from supervisor.top.lines import clean, cut, fit
from supervisor.top.source import Away, Look

_STYLES: Final[Mapping[str, str]] = {
    "ok": "black on green",
    "warning": "black on yellow",
    "unknown": "black on cyan",
    "critical": "bold white on red",
}
#: What people look for first.
_ORDER: Final = ("running", "starting", "stopping", "queued", "held", "failed", "cancelled", "succeeded")
#: An older look is said to be old.
_LATE_S: Final = 10.0
_WHY_LINES: Final = 3
_SEPARATOR: Final = "  |  "


def header(look: Look | None, away: Away | None, now: float, width: int, troubles: int) -> list[Text]:
    """How everything is, the worst first.

    Args:
        look: the last one; None before the first.
        away: set while the daemon does not answer.
        now: seconds since 1970.
        width: of the screen.
        troubles: so many lines for what is not well.
    """
    lines = [_verdict(look, away, now, width)]
    if away is not None:
        lines += [Text(fit(line, width), style="bold") for line in textwrap.wrap(clean(away.why), width)[:_WHY_LINES]]
    if look is not None:
        found = _state(look.status, width) + _troubles(look.status, width, troubles)
        if away is not None:
            for line in found:
                line.stylize("dim")
        lines += found
    return lines


def _verdict(look: Look | None, away: Away | None, now: float, width: int) -> Text:
    if away is not None:
        moment = dt.datetime.fromtimestamp(away.since).astimezone().strftime("%H:%M:%S")
        line = Text.assemble(
            (" NOT REACHABLE ", _STYLES["critical"]), f" since {moment}, for {text.duration(now - away.since)}"
        )
        if look is not None:
            line.append(f"; this is how it was {text.duration(now - look.at)} ago")
        return cut(line, width)
    if look is None:
        return Text(" asking azaiond ...")
    daemon, verdict = look.status["daemon"], overall(look.status)
    line = Text.assemble(
        (f" {verdict.upper() if verdict != 'ok' else 'ok'} ", _STYLES.get(verdict, "")),
        ("  azaion ", "bold"),
        f"{daemon['version']}, up {text.duration(daemon['uptime_s'])}",
        f"   {_counts(look.status['jobs']['counts'])}",
    )
    if now - look.at > _LATE_S:
        line.append(f"   as of {text.duration(now - look.at)} ago", "bold")
    return cut(line, width)


def overall(status: Mapping[str, Any]) -> str:
    """The worst of what is known: what health says, and that an alert is at least a warning."""
    verdict = str((status.get("health") or {}).get("verdict", "ok"))
    return "warning" if status.get("alerts") and verdict in {"ok", "unknown"} else verdict


def _state(status: Mapping[str, Any], width: int) -> list[Text]:
    """Consumer, devices, disks."""
    lines = [Text(fit(line, width)) for line in [f"consumer  {_consumer(status['consumer'])}"]]
    lines += _packed("devices", [_device(device) for device in status["gpus"]], width)
    lines += _packed("disks", [_disk(disk) for disk in status["disk"]], width)
    return lines


def _packed(name: str, parts: Sequence[str], width: int) -> list[Text]:
    """As many parts in a line as fit."""
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1] + _SEPARATOR + part) <= width:
            lines[-1] += _SEPARATOR + part
        else:
            lines.append(f"{name if not lines else '':<10}{part}")
    return [Text(fit(line, width)) for line in lines]


def _consumer(told: Mapping[str, Any]) -> str:
    if told["service"] != "running":
        return str(told["service"])
    parts = [str(told.get("state", "starting"))]
    if told.get("offset") is not None:
        behind = "?" if told.get("lag") is None else f"{told['lag']:,}"
        age = f" ({text.duration(told['lag_s'])})" if told.get("lag") and told.get("lag_s") is not None else ""
        parts += [f"offset {told['offset']:,}", f"lag {behind}{age}", f"{told.get('rate') or 0:.1f}/s"]
    if told.get("quarantined"):
        parts.append(f"{told['quarantined']} in quarantine")
    if told.get("last_error"):
        parts.append(str(told["last_error"]))
    return ", ".join(parts)


def _device(told: Mapping[str, Any]) -> str:
    parts = ["free" if told["job"] is None else f"job {told['job']}"]
    if told.get("busy_percent") is not None:
        parts.append(f"{told['busy_percent']} %")
    if told.get("total"):
        parts.append(f"{(told['total'] - (told['free'] or 0)) / 1024**3:.1f} of {told['total'] / 1024**3:.0f} GiB")
    if told.get("celsius") is not None:
        parts.append(f"{told['celsius']} °C")
    if told.get("problem"):
        parts.append(str(told["problem"]))
    return f"{told['device']} {', '.join(parts)}"


def _disk(told: Mapping[str, Any]) -> str:
    if "error" in told:
        return f"{told['path']} out of reach ({told['error']})"
    return f"{told['path']} {told['used_percent']:.0f} % used, {size(told['free'])} free"


def _counts(counts: Mapping[str, int]) -> str:
    known = [state for state in _ORDER if state in counts] + [state for state in counts if state not in _ORDER]
    return ", ".join(f"{counts[state]} {state}" for state in known if counts[state]) or "no jobs yet"


def _troubles(status: Mapping[str, Any], width: int, most: int) -> list[Text]:
    """What somebody should look at, each with what to do."""
    found = [*_maintenance(status.get("maintenance")), *_findings(status.get("health") or {}), *_alerts(status)]
    lines = []
    for verdict, words in found[: most if len(found) <= most else most - 1]:
        line = Text.assemble((f"{verdict.upper()}", _STYLES.get(verdict, "reverse")), f" {clean(words)}")
        lines.append(cut(line, width))
    if len(found) > most:
        lines.append(Text(fit(f"and {len(found) - most + 1} more: azaionctl health, azaionctl status", width)))
    return lines


def _findings(health: Mapping[str, Any]) -> list[tuple[str, str]]:
    bothering = [each for each in health.get("findings", []) if each["verdict"] != "ok" and each["mute"] is None]
    bothering.sort(key=lambda each: ("critical", "warning", "unknown").index(each["verdict"]))
    return [(str(each["verdict"]), _finding(each)) for each in bothering]


def _finding(told: Mapping[str, Any]) -> str:
    name = f"{told['check']} {told['subject']}".rstrip()
    advice = f" -> {told['advice']}" if told["advice"] else ""
    return f"{name}: {told['text']}{advice}"


def _alerts(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    for alert in status.get("alerts", []):
        who = f"job {alert['job']}: " if alert.get("job") is not None else ""
        who = f"service {alert['service']}: " if alert.get("service") else who
        found.append(("alert", f"{who}{alert['text']}, for {text.since(alert['since'])}"))
    return found


def _maintenance(told: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if told is None:
        return []
    reason = f": {told['reason']}" if told["reason"] else ""
    return [("drained", f"by {told['by']}{reason}; nothing starts until azaionctl maintenance off")]
