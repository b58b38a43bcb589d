"""``azaionctl wait``, ``logs``, ``events``: stay with a job or with the daemon."""

import argparse
import datetime as dt
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from supervisor.commands import text
from supervisor.control.client import Client, UnreachableError, find_socket

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: What `wait` and `--wait` exit with.
OUTCOMES: Final = {"succeeded": 0, "failed": 10, "cancelled": 11}
#: How long a client that follows something bears with a daemon that is being restarted.
PATIENCE_S: Final = 60.0
_AGAIN_S: Final = 0.2
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: How often the progress of a followed job is asked for.
_LOOK_S: Final = 0.5


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    wait = commands.add_parser("wait", help="wait until a job has ended; exits 0 succeeded, 10 failed, 11 cancelled")
    wait.set_defaults(run=_wait)
    logs = commands.add_parser("logs", help="what a job has printed")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the job has ended")
    logs.add_argument("--attempt", type=int, metavar="N", help="which attempt (default: the newest)")
    logs.set_defaults(run=_logs)
    for parser in (wait, logs):
        parser.add_argument("id", type=int, metavar="ID")
    events = commands.add_parser("events", help="what has happened, and who asked for it")
    events.add_argument("-f", "--follow", action="store_true", help="what happens from now on")
    events.add_argument("-n", "--lines", type=int, default=50, metavar="N", help="how many of the newest (default: 50)")
    events.add_argument("--all", action="store_true", help="from the very first one")
    events.add_argument("--job", type=int, metavar="ID", help="only of this job")
    events.add_argument("--actor", metavar="USER", help="only what this user has asked for; a name or a uid")
    events.add_argument("--type", metavar="T", help="only of these types, separated by commas (refused, removed, ...)")
    events.add_argument(
        "--since", type=_since, metavar="TIME", help="not before 2026-12-24T20:00, or in the last 90m (2h, 1d)"
    )
    events.set_defaults(run=_events)


def _wait(arguments: argparse.Namespace) -> int:
    return follow(Client(find_socket(arguments.socket)), arguments.id, as_json=arguments.json)


def follow(client: Client, number: int, *, as_json: bool) -> int:
    """Follow a job to its end, through restarts of the daemon; returns the exit code that tells its outcome.

    The first of a chain stands for all of it: each is followed until one does not succeed.
    """
    job = _end(client, number, as_json=as_json)
    for later in job["chain"][1:] if job["chain"][:1] == [number] else []:
        if job["state"] != "succeeded":
            break
        job = _end(client, later, as_json=as_json)
    return OUTCOMES[job["state"]]


def _end(client: Client, number: int, *, as_json: bool) -> dict[str, Any]:
    """Wait until a job has ended, and say how it has."""
    if as_json or not sys.stderr.isatty():
        job = _patiently(client, number, 30.0)
        while job["state"] not in OUTCOMES:
            job = _patiently(client, number, 30.0)
    else:
        job = _with_bar(client, number)
    if as_json:
        text.put_json(job)
    else:
        why = f": {job['reason']}" if job["reason"] else ""
        kind = f" ({job['kind']})" if job["chain"] else ""
        print(f"job {number}{kind} {job['state']}{why}")
    return job


def _patiently(client: Client, number: int, limit: float) -> dict[str, Any]:
    """The job as it is after ``limit`` seconds or at its end; a daemon that is away for a while is waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            job: dict[str, Any] = client.get(f"/v1/jobs/{number}/wait", {"timeout": limit})
        except UnreachableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_AGAIN_S)
        else:
            return job


def _with_bar(client: Client, number: int) -> dict[str, Any]:
    from rich.console import Console  # noqa: PLC0415 - 70 ms, only for someone who looks
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn  # noqa: PLC0415 - the same

    # Without markup: a reason may hold brackets.
    detail = TextColumn("{task.fields[detail]}", markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), detail)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"job {number}", total=None, detail="")
        while True:
            job = _patiently(client, number, _LOOK_S)
            if job["state"] in OUTCOMES:
                return job
            _draw(progress, task, job)


def _draw(progress: "Progress", task: "TaskID", job: dict[str, Any]) -> None:
    told = job["progress"] or {}
    epochs, batches = told.get("epochs"), told.get("batches")
    if not epochs:
        detail = told.get("phase") or f"{job['state']} {job['reason']}"
        progress.update(task, total=batches or None, completed=told.get("batch") or 0, detail=detail)
        return
    done = max(0, told["epoch"] - 1) + (told["batch"] / batches if batches else 0.0)
    detail = f"epoch {told['epoch']}/{epochs}  {told['phase']}  ETA {text.duration(told['eta_s'])}"
    if "mAP50" in told["metrics"]:
        detail += f"  mAP50 {told['metrics']['mAP50']:.3f}"
    progress.update(task, total=epochs, completed=done, detail=detail)


def _logs(arguments: argparse.Namespace) -> int:
    client = Client(find_socket(arguments.socket))
    query: dict[str, Any] = {"attempt": arguments.attempt} if arguments.attempt is not None else {}
    if arguments.follow:
        for record in _records(client, arguments.id, query):
            _print_record(record, arguments.id, as_json=arguments.json)
        return 0
    for data in client.pieces(f"/v1/jobs/{arguments.id}/log", query):
        if arguments.json:
            text.put_json({"job": arguments.id, "log": data.decode(errors="replace")})
        else:
            sys.stdout.buffer.write(data)
        sys.stdout.flush()
    return 0


def _records(client: Client, number: int, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a job prints, and what happens to it, to its end; through restarts of the daemon."""
    position: dict[str, Any] = {}
    lost: float | None = None
    while True:
        try:
            for line in client.lines(f"/v1/jobs/{number}/log", {"follow": 1} | query | position):
                record, lost = json.loads(line), None
                position = {"attempt": record["attempt"], "offset": record["offset"]}
                if record.get("log") != "":
                    yield record
            if client.get(f"/v1/jobs/{number}")["state"] in OUTCOMES:
                return
        except UnreachableError:
            # A daemon that was there is waited for.
            lost = time.monotonic() if lost is None else lost
            if not position or time.monotonic() - lost > PATIENCE_S:
                raise
        time.sleep(_AGAIN_S)


def _print_record(record: dict[str, Any], number: int, *, as_json: bool) -> None:
    if as_json:
        if "log" in record:
            record["log"] = record["log"].encode(errors="surrogateescape").decode(errors="replace")
        text.put_json({"job": number, **record})
    elif "note" in record:
        sys.stdout.buffer.write(f"[azaion: {text.cut(record['note'], 300)}]\n".encode())
    else:
        sys.stdout.buffer.write(record["log"].encode(errors="surrogateescape"))
    sys.stdout.flush()


def _events(arguments: argparse.Namespace) -> int:
    client = Client(find_socket(arguments.socket))
    names = ("job", "actor", "type", "since")
    which = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if not arguments.follow:
        whole = arguments.all or arguments.since is not None
        query = {"after": 0} if whole else {"last": arguments.lines}
        while events := client.get("/v1/events", query | which):
            for event in events:
                _print_event(event, as_json=arguments.json)
            query = {"after": events[-1]["id"]}
        return 0
    for line in client.lines("/v1/events", {"follow": 1} | which):
        if line.startswith(b"data: "):
            _print_event(json.loads(line[6:]), as_json=arguments.json)
            sys.stdout.flush()
    return 0


def _print_event(event: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        text.put_json(event)
    else:
        job = f"job {event['job']}" if event["job"] is not None else ""
        who = event["actor"] + (f", uid {event['uid']}" if event["uid"] is not None else "")
        line = f"{event['time']}  {job:<9} {event['type']:<18} {text.cut(event['text'], 200)}  ({who})"
        # Whoever works at this terminal is to see and hear it.
        loud = event["type"] == "alert-raised" and sys.stdout.isatty()
        print(f"\a\x1b[1;7m{line}\x1b[0m" if loud else line)


def _since(given: str) -> float:
    """A time that somebody has typed, in seconds since 1970."""
    now = dt.datetime.now().astimezone()
    if found := re.fullmatch(r"([0-9]{1,9})([smhd])", given):
        return now.timestamp() - int(found[1]) * _UNITS[found[2]]
    with suppress(ValueError, OverflowError, OSError):
        moment = dt.datetime.fromisoformat(given).astimezone().timestamp()
        if moment >= 0:
            return moment
    raise argparse.ArgumentTypeError(f"{given!r} is not a time such as 2026-12-24T20:00, 90m, 2h or 1d")
