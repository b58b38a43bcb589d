"""``azaionctl services`` and ``service``: what is kept alive beside the jobs."""

import argparse
import sys
from typing import Any, Final

from supervisor.commands import text
from supervisor.control.client import Client, find_socket

#: Longer than any grace; the daemon knows when to give up.
_PATIENCE_S: Final = 4000.0


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``services``, and ``service`` with its actions."""
    everyone = commands.add_parser("services", help="what is kept alive beside the jobs: state, pid, restarts, why")
    everyone.set_defaults(run=_list)
    parser = commands.add_parser("service", help="start, stop or restart a service, or read its log")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for action, said in (
        ("start", "have it run, also if it has failed"),
        ("stop", "stop it until somebody starts it, also across restarts of the daemon"),
        ("restart", "stop it and start it anew"),
    ):
        one = actions.add_parser(action, help=said)
        one.add_argument("name", nargs="?" if action != "restart" else None, metavar="NAME")
        if action != "restart":
            one.add_argument("--all", action="store_true", help="every service that is declared and enabled")
        one.set_defaults(run=_change, action=action)
    logs = actions.add_parser("logs", help="what it has printed")
    logs.add_argument("name", metavar="NAME")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    logs.set_defaults(run=_logs)


def _list(arguments: argparse.Namespace) -> int:
    told = Client(find_socket(arguments.socket)).get("/v1/services")
    if arguments.json:
        text.put_json(told)
    else:
        print(screen(told))
    return 0


def _change(arguments: argparse.Namespace) -> int:
    every = getattr(arguments, "all", False)
    if every == (arguments.name is not None):
        arguments.usage_error("name a service, or say --all")
    path = "/v1/services" if every else f"/v1/services/{arguments.name}"
    told = Client(find_socket(arguments.socket)).post(f"{path}/{arguments.action}", timeout=_PATIENCE_S)
    if arguments.json:
        text.put_json(told)
    else:
        for record in told:
            print(line(record))
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    query = {"follow": 1} if arguments.follow else {}
    for data in Client(find_socket(arguments.socket)).pieces(f"/v1/services/{arguments.name}/log", query):
        if arguments.json:
            text.put_json({"service": arguments.name, "log": data.decode(errors="replace")})
        else:
            sys.stdout.buffer.write(data)
        sys.stdout.flush()
    return 0


def screen(records: list[dict[str, Any]]) -> str:
    """One line a service."""
    rows = [["NAME", "STATE", "PID", "SINCE", "RESTARTS", "LAST EXIT", "WHY"]]
    rows += [
        [
            record["name"],
            record["state"],
            str(record["pid"] or "-"),
            text.since(record["since"]),
            str(record["restarts"]),
            record["last_exit"]["text"] if record["last_exit"] else "-",
            record["why"],
        ]
        for record in records
    ]
    return text.table(rows)


def line(record: dict[str, Any]) -> str:
    """A service in one line, for the status."""
    parts = [record["state"], *([f"pid {record['pid']}"] if record["pid"] else []), *filter(None, [record["why"]])]
    return f"{record['name']}: {', '.join(parts)}"
