"""``azaionctl status``: the one screen."""

import argparse
from typing import Any, Final

from azaion.words import size
from supervisor.commands import health, services, text
from supervisor.control.client import Client, find_socket

_COLUMNS = 80
#: Of a waiting job's name: the reason why it waits matters more.
_NAME = 24
#: So many of what is not well; `health` shows all.
_TROUBLES: Final = 3
#: So many of those that wait; `list` shows all.
_WAITING = 20


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``status``."""
    parser = commands.add_parser(
        "status", help="the one screen: consumer, devices, disk, queue, what runs and what waits"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    status = Client(find_socket(arguments.socket)).get("/v1/status")
    if arguments.json:
        text.put_json(status)
    else:
        print(screen(status))
    return 0


def screen(status: dict[str, Any]) -> str:
    """The screen, at most 80 columns wide."""
    daemon, jobs = status["daemon"], status["jobs"]
    lines = [
        *(health_lines(status["health"]) if "health" in status else []),
        *_maintenance(status["maintenance"]),
        *(_alert(alert) for alert in status.get("alerts", [])),
        f"azaion    {_release(daemon)}, up {text.duration(daemon['uptime_s'])}, pid {daemon['pid']}",
        *_consumer(status["consumer"]),
        *(f"device    {entry['device']}: {_lease(entry)}" for entry in status["gpus"]),
        *(f"          {entry['device']}: {entry['problem']}" for entry in status["gpus"] if entry.get("problem")),
        *(f"disk      {disk['path']}: {_space(disk)}" for disk in status["disk"]),
        *(f"service   {services.line(record)}" for record in status.get("services", [])),
        f"model     {status['models']['current'] or 'none yet'}",
        *([f"          next training: {told['text']}"] if (told := status.get("retraining")) else []),
        f"jobs      {_counts(status['jobs']['counts'])}",
    ]
    for job in jobs["active"]:
        lines += ["", f"{job['state']} {job['id']}  {job['kind']}  {job['name']}"]
        lines.append(f"  since {text.since(job['started'])}  {text.progress(job)}".rstrip())
    if jobs["waiting"]:
        lines += ["", "waiting"]
        lines += [
            f"  {job['id']}  {job['kind']}  {text.cut(job['name'], _NAME)}: {job['reason'] or 'about to start'}"
            for job in jobs["waiting"][:_WAITING]
        ]
        if (more := jobs["counts"]["queued"] + jobs["counts"]["held"] - _WAITING) > 0:
            lines.append(f"  and {more} more; azaionctl list shows them all")
    return "\n".join(text.cut(line, _COLUMNS) for line in lines)


def health_lines(told: dict[str, Any]) -> list[str]:
    """The verdict, or the worst of what is not well, each with what to do."""
    bothering = [each for each in told["findings"] if each["verdict"] != "ok" and each["mute"] is None]
    bothering.sort(key=lambda each: health.RANKS[each["verdict"]])
    lines = []
    for finding in bothering[:_TROUBLES]:
        lines.append(f"{health.shout(finding['verdict'])} {health.title(finding)}: {finding['text']}")
        lines += [f"-> {finding['advice']}"] if finding["advice"] else []
    if not bothering:
        muted = sum(each["mute"] is not None for each in told["findings"])
        nothing = "" if told["findings"] else ": nothing has been looked at yet"
        lines = [f"{told['verdict']}{nothing}" + (f" ({muted} muted)" if muted else "")]
    if (more := len(bothering) - _TROUBLES) > 0:
        lines.append(f"and {more} more; azaionctl health shows them all")
    return [f"{'health' if place == 0 else '':<10}{line}" for place, line in enumerate(lines)]


def _consumer(consumer: dict[str, Any]) -> list[str]:
    if consumer["service"] != "running":
        at = f", offset {consumer['offset']}" if consumer["service"] == "elsewhere" else ""
        return [f"consumer  {consumer['service']}{at}"]
    state = consumer.get("state", "starting")
    parts = [state]
    if consumer.get("offset") is not None:
        behind = "?" if consumer.get("lag") is None else consumer["lag"]
        parts.append(f"offset {consumer['offset']}, lag {behind}, {consumer.get('rate') or 0:.1f}/s")
    if consumer.get("quarantined"):
        parts.append(f"{consumer['quarantined']} quarantined")
    error = consumer.get("last_error")
    return [f"consumer  {', '.join(parts)}", *([f"          {error}"] if error else [])]


def _release(daemon: dict[str, Any]) -> str:
    """The release that serves, or the version where there are no releases."""
    # A daemon of an older release does not tell its own.
    return str(daemon.get("release") or daemon["version"])


def _maintenance(told: dict[str, Any] | None) -> list[str]:
    if told is None:
        return []
    reason = f": {told['reason']}" if told["reason"] else ""
    return [f"drained   for {text.since(told['since'])} by {told['by']}{reason}; azaionctl maintenance off ends it"]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none yet"


def _space(disk: dict[str, Any]) -> str:
    if "error" in disk:
        return f"out of reach ({disk['error']})"
    return f"{disk['used_percent']:.0f} % used, {size(disk['free'])} free"


def _lease(entry: dict[str, Any]) -> str:
    memory = f", {size(entry['free'])} of {size(entry['total'])} free" if entry.get("total") else ""
    return ("free" if entry["job"] is None else f"job {entry['job']}") + memory


def _alert(alert: dict[str, Any]) -> str:
    if alert.get("service"):
        return f"alert     service {alert['service']} has failed {text.since(alert['since'])} ago: {alert['text']}"
    if alert.get("channel"):
        return f"alert     channel {alert['channel']} takes no messages; azaionctl alerts says why"
    who = "nothing has started for" if alert["job"] is None else f"job {alert['job']} has waited"
    return f"alert     {who} {text.since(alert['since'])}: {alert['text']}"
