"""``azaionctl retention``: what is kept, what is removed, and why."""

import argparse
import sys
from typing import Any, Final

from azaion.errors import AzaionError
from azaion.words import size
from supervisor.commands import text
from supervisor.control.client import Client, find_socket

#: Measuring large datasets takes a while.
_PATIENCE_S: Final = 600.0
_SHOWN: Final = 50


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``retention`` and ``retention run``."""
    parser = commands.add_parser(
        "retention",
        help="what is kept, what would be removed now, and why",
        description="Shows the rules, what there is, and what is due. Removes nothing.",
    )
    parser.set_defaults(run=_look)
    actions = parser.add_subparsers(metavar="ACTION")
    run = actions.add_parser("run", help="remove now what is due; the daemon does so every 6 hours")
    run.add_argument("--yes", action="store_true", help="do not ask first")
    run.set_defaults(run=_run)


def _look(arguments: argparse.Namespace) -> int:
    told = _client(arguments).get("/v1/retention", timeout=_PATIENCE_S)
    if arguments.json:
        text.put_json(told)
        return 0
    rules = [[rule["name"] or "", str(rule["value"]), rule["text"]] for rule in told["rules"]]
    there = [
        [row["name"], "" if row["count"] is None else str(row["count"]), _size(row["bytes"]), row["note"]]
        for row in told["there"]
    ]
    print(text.table([["RULE", "VALUE", "MEANS"], *rules]))
    print()
    print(text.table([["THERE IS", "COUNT", "SIZE", "NOTE"], *there]))
    for path, free in told["free"].items():
        print(f"free      {_size(free)} on the disk of {path}")
    if (last := told["last"]) is not None:
        print(f"last      {last['time']}: {last['removed']} removed, {_size(last['frees'])}")
    print()
    if told["referred"]:
        print("old enough, and kept:")
        _print(told["referred"])
    if told["due"]:
        print(f"due now, {_much(told['due'])}:")
        _print(told["due"])
    else:
        print("nothing is due now")
    for problem in told["stuck"]:
        print(f"azaionctl: {AzaionError(problem)}", file=sys.stderr)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    client = _client(arguments)
    if sys.stdin.isatty() and not (arguments.yes or arguments.json):
        due = client.get("/v1/retention", timeout=_PATIENCE_S)["due"]
        if not due:
            print("nothing is due now")
            return 0
        _print(due)
        if not text.confirmed(f"{_much(due)}: remove for good? [y/N] "):
            print("left alone")
            return 1
    done = client.post("/v1/retention/run", timeout=_PATIENCE_S)
    if arguments.json:
        text.put_json(done)
    else:
        _print(done["removed"])
        events = f", {done['events']} events" if done["events"] else ""
        print(f"removed: {_much(done['removed'])}{events}" if done["removed"] or events else "nothing was due")
        for problem in done["problems"]:
            print(f"azaionctl: {AzaionError(problem)}", file=sys.stderr)
    return 1 if done["problems"] else 0


def _print(records: list[dict[str, Any]]) -> None:
    for record in records[:_SHOWN]:
        print(f"  {_size(record['frees']):>10}  {text.cut(record['path'], 200)}: {text.cut(record['reason'], 200)}")
    if len(records) > _SHOWN:
        print(f"  and {len(records) - _SHOWN} more; --json shows all")


def _much(records: list[dict[str, Any]]) -> str:
    count = len(records)
    return f"{count} thing{'' if count == 1 else 's'}, {_size(sum(record['frees'] for record in records))}"


def _size(amount: float | None) -> str:
    return "" if amount is None else size(amount)


def _client(arguments: argparse.Namespace) -> Client:
    return Client(find_socket(arguments.socket))
