"""``azaionctl list``, ``show``, ``cancel``, ``stop``, ``hold``, ``release``, ``priority``, ``retry``: single jobs."""

import argparse
import sys
from typing import Any

from azaion.words import size
from supervisor.commands import text
from supervisor.control.client import Client, find_socket

#: Without --all, this many ended jobs are shown beside those that have not ended.
_RECENT = 10
_ENDED = ("succeeded", "failed", "cancelled")
_OPEN = ("held", "queued", "starting", "running", "stopping")


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    listing = commands.add_parser("list", help="the jobs: what runs, what waits, what ended lately")
    listing.add_argument("--state", metavar="S", help="only these states, separated by commas")
    listing.add_argument("--all", action="store_true", help="every job there ever was")
    listing.set_defaults(run=_list)
    show = commands.add_parser("show", help="everything about one job")
    show.set_defaults(run=_show)
    cancel = commands.add_parser("cancel", help="end a job: SIGTERM, and SIGKILL after 30 seconds")
    cancel.add_argument("--now", action="store_true", help="without the 30 seconds")
    cancel.add_argument("--yes", action="store_true", help="do not ask first")
    cancel.set_defaults(run=_cancel)
    stop = commands.add_parser("stop", help="let a training end at its next epoch boundary, with a checkpoint")
    stop.set_defaults(run=_stop)
    hold = commands.add_parser("hold", help="keep a waiting job from starting")
    hold.set_defaults(run=_act, act="hold")
    release = commands.add_parser("release", help="let a held job start when its turn comes")
    release.set_defaults(run=_act, act="release")
    retry = commands.add_parser("retry", help="file a job that has ended anew, as a job of its own")
    retry.set_defaults(run=_retry)
    priority = commands.add_parser("priority", help="give a waiting job another priority")
    priority.set_defaults(run=_prioritise)
    for parser in (show, cancel, stop, hold, release, retry, priority):
        parser.add_argument("id", type=int, metavar="ID")
    priority.add_argument("priority", type=int, metavar="N", help="higher goes first")


def _list(arguments: argparse.Namespace) -> int:
    client = Client(find_socket(arguments.socket))
    if arguments.state:
        jobs = client.get("/v1/jobs", {"state": arguments.state})
    elif arguments.all:
        jobs = client.get("/v1/jobs")
    else:
        ended = client.get("/v1/jobs", {"state": ",".join(_ENDED), "limit": _RECENT})
        jobs = ended + client.get("/v1/jobs", {"state": ",".join(_OPEN)})
    if arguments.json:
        text.put_json(jobs)
        return 0
    folded = not arguments.state
    rows = [["ID", "STATE", "KIND", "NAME", "AGE", "DETAIL"]]
    rows += [
        [
            str(job["chain"][0] if folded and job["chain"] else job["id"]),
            job["state"],
            f"{job['kind']} {_step(job)}" if job["chain"] else job["kind"],
            text.cut(job["name"], 30),
            text.since(job["created"]),
            text.cut(_detail(job), 60),
        ]
        for job in (_folded(jobs) if folded else jobs)
    ]
    print(text.table(rows) if jobs else "no jobs")
    return 0


def _folded(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One job of each chain: the one that it has come to, in the place of the first of them that is listed."""
    shown: dict[int, dict[str, Any]] = {}
    for job in jobs:
        first = job["chain"][0] if job["chain"] else job["id"]
        # Whatever follows one that has not succeeded waits for it, or has been cancelled with it.
        if first not in shown or shown[first]["state"] == "succeeded":
            shown[first] = job
    return list(shown.values())


def _step(job: dict[str, Any]) -> str:
    return f"{job['chain'].index(job['id']) + 1}/{len(job['chain'])}"


def _detail(job: dict[str, Any]) -> str:
    return text.progress(job) or job["reason"] or job["cause"] or ""


def _show(arguments: argparse.Namespace) -> int:
    job = Client(find_socket(arguments.socket)).get(f"/v1/jobs/{arguments.id}")
    if arguments.json:
        text.put_json(job)
        return 0
    facts = {
        "job": f"{job['id']}  {job['kind']}  {text.cut(job['name'], 60)}",
        "state": job["state"] + (f"  ({job['cause']})" if job["cause"] else ""),
        "reason": job["reason"],
        "after": f"job {job['after']}" if job["after"] else None,
        "chain": f"{_step(job)} of jobs {', '.join(map(str, job['chain']))}" if job["chain"] else None,
        "begins": job["begins"],
        "retry of": f"job {job['retry_of']}" if job["retry_of"] else None,
        "owner": job["owner"],
        "limits": _limits(job),
        "adjusted": ", ".join(f"{name} {value}" for name, value in job["adjusted"].items()),
        "aside": text.duration(job["stood_aside_s"]) if job["stood_aside_s"] else None,
        "created": job["created"],
        "started": job["started"],
        "ended": job["ended"],
        "progress": text.progress(job),
    }
    lines = [f"{name:<9} {value}" for name, value in facts.items() if value]
    lines += [f"{name:<9} {value}" for name, value in job["artifacts"].items()]
    lines += [f"removed   {part}, {gone['time']}: {gone['rule']}" for part, gone in job["removed"].items()]
    if job["attempts"]:
        rows = [["ATTEMPT", "PID", "STARTED", "ENDED", "EXIT", "CAUSE", "RESUMED FROM", "ASIDE"]]
        names = ("n", "pid", "started", "ended", "exit_code", "cause", "resumed_from_epoch", "aside")
        for attempt in job["attempts"]:
            attempt["aside"] = None if attempt["stood_aside_s"] is None else text.duration(attempt["stood_aside_s"])
        rows += [["" if attempt[name] is None else str(attempt[name]) for name in names] for attempt in job["attempts"]]
        lines += ["", text.table(rows)]
    print("\n".join(lines))
    return 0


def _limits(job: dict[str, Any]) -> str:
    """What it may use, each with how that is enforced."""
    limits, enforced = job["limits"], job["enforced"]
    told = {
        "memory": size(limits["memory"]) if limits["memory"] is not None else None,
        "cpus": f"{limits['cpus']:g} processors" if limits["cpus"] is not None else None,
        "nice": f"nice {limits['nice']}" if limits["nice"] is not None else None,
    }
    shown = [
        words + (f" ({enforced[name]})" if name in enforced else "")
        for name, words in told.items()
        if words is not None
    ]
    if limits["time_s"] is not None:
        shown.append(text.duration(limits["time_s"]))
    return ", ".join(shown)


def _cancel(arguments: argparse.Namespace) -> int:
    client = Client(find_socket(arguments.socket))
    if sys.stdin.isatty() and not (arguments.yes or arguments.json):
        job = client.get(f"/v1/jobs/{arguments.id}")
        whole = (
            f" and what follows it ({', '.join(map(str, job['chain'][1:]))})" if job["chain"][:1] == [job["id"]] else ""
        )
        question = f"{job['state']} {job['kind']} {job['id']}, {text.cut(job['name'], 60)}: cancel it{whole}? [y/N] "
        if not text.confirmed(question):
            print("left alone")
            return 1
    return _told(arguments, client.post(f"/v1/jobs/{arguments.id}/cancel", query={"now": 1} if arguments.now else None))


def _stop(arguments: argparse.Namespace) -> int:
    return _told(arguments, Client(find_socket(arguments.socket)).post(f"/v1/jobs/{arguments.id}/stop"))


def _act(arguments: argparse.Namespace) -> int:
    return _told(arguments, Client(find_socket(arguments.socket)).post(f"/v1/jobs/{arguments.id}/{arguments.act}"))


def _prioritise(arguments: argparse.Namespace) -> int:
    client = Client(find_socket(arguments.socket))
    job = client.post(f"/v1/jobs/{arguments.id}/priority", {"priority": arguments.priority})
    if arguments.json:
        text.put_json(job)
    else:
        print(f"job {job['id']} has priority {job['priority']}")
    return 0


def _retry(arguments: argparse.Namespace) -> int:
    job = Client(find_socket(arguments.socket)).post(f"/v1/jobs/{arguments.id}/retry")
    if arguments.json:
        text.put_json(job)
    else:
        print(job["id"])
    return 0


def _told(arguments: argparse.Namespace, job: dict[str, Any]) -> int:
    if arguments.json:
        text.put_json(job)
    else:
        print(f"job {job['id']} is {job['state']}")
    return 0
