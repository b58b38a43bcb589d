"""``azaionctl maintenance``: have nothing start for a while."""

import argparse

from supervisor.commands import text
from supervisor.control.client import Client, find_socket


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``maintenance on`` and ``maintenance off``."""
    parser = commands.add_parser(
        "maintenance",
        help="have nothing start for a while",
        description="What runs goes on to its end, what is submitted waits. A restart of the daemon changes nothing.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    begin = actions.add_parser("on", help="start nothing from now on")
    begin.add_argument("--reason", default="", metavar="TEXT", help="for everyone who looks or submits")
    begin.add_argument(
        "--stop-running",
        action="store_true",
        help="have trainings step aside at their next epoch; they go on afterwards",
    )
    begin.set_defaults(run=_on)
    actions.add_parser("off", help="let jobs start again").set_defaults(run=_off)


def _on(arguments: argparse.Namespace) -> int:
    wanted = {"on": True, "reason": arguments.reason, "stop_running": arguments.stop_running}
    told = Client(find_socket(arguments.socket)).post("/v1/maintenance", wanted)
    if arguments.json:
        text.put_json(told)
    else:
        print(
            "nothing starts until `azaionctl maintenance off`; what runs goes on"
            + (", trainings to the end of their epoch" if arguments.stop_running else "")
        )
    return 0


def _off(arguments: argparse.Namespace) -> int:
    told = Client(find_socket(arguments.socket)).post("/v1/maintenance", {"on": False})
    if arguments.json:
        text.put_json(told)
    else:
        print("jobs start again")
    return 0
