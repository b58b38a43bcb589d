"""``azaionctl quarantine``: the annotation messages that could not be applied."""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from azaion.errors import AzaionError
from azaion.words import size
from supervisor.commands import text
from supervisor.control.client import Client, find_socket

#: The consumer is at work, here or in the azaiond that has it.
_AT_WORK: Final = ("running", "elsewhere")
#: How long `retry` waits for the consumer.
_PATIENCE_S: Final = 30.0
_LOOK_S: Final = 0.2
_REASON: Final = 16
_STATUS: Final = 10
#: Of those that still wait for their retry, so many are named.
_SHOWN: Final = 10
_LINE: Final = 16


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``quarantine`` with its own commands."""
    parser = commands.add_parser("quarantine", help="the annotation messages that could not be applied")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="what there is, and why; the newest last")
    listing.add_argument("-n", "--lines", type=int, default=50, metavar="N", help="so many of the newest (default: 50)")
    listing.add_argument("--all", action="store_true", help="every one")
    listing.set_defaults(run=_list)
    show = actions.add_parser("show", help="everything about one message")
    show.add_argument("id", metavar="ID")
    show.set_defaults(run=_show)
    retry = actions.add_parser(
        "retry",
        help="apply messages after all, at their own place in the stream",
        description="Asks the consumer to apply messages whose reason is gone, and waits up to 30 seconds for it. "
        "Exits 0 if all were applied.",
    )
    retry.set_defaults(run=_retry)
    drop = actions.add_parser("drop", help="give messages up, for good")
    drop.add_argument("--yes", action="store_true", help="do not ask first")
    drop.set_defaults(run=_drop)
    for changing in (retry, drop):
        changing.add_argument("ids", nargs="*", metavar="ID")
        changing.add_argument("--all", action="store_true", help="every message that is there now")


def _list(arguments: argparse.Namespace) -> int:
    query = {} if arguments.all else {"limit": max(0, arguments.lines)}
    told = _client(arguments).get("/v1/quarantine", query)
    if arguments.json:
        text.put_json(told)
        return 0
    messages = told["messages"]
    if not told["count"]:
        print("nothing is in quarantine")
        return 0
    if messages:
        print(text.table(_rows(messages, shutil.get_terminal_size().columns)))
    print(_much(told["count"], told["bytes"]))
    if (more := told["count"] - len(messages)) > 0:
        print(f"{more} older ones are not shown; --all shows them")
    return 0


def _rows(messages: list[dict[str, Any]], columns: int) -> list[list[str]]:
    """A table of at most so many columns, if there is room for the first words of the reasons."""
    rows = [["ID", "TIME", "STATUS", "SIZE"]]
    rows += [
        [message["id"], _time(message["time"]), text.cut(_status(message), _STATUS), size(message["bytes"])]
        for message in messages
    ]
    taken = sum(max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0])))
    reasons = ["REASON", *(("to be retried: " if each["marked"] else "") + each["reason"] for each in messages)]
    width = max(_REASON, columns - taken)
    return [[*row, text.cut(reason, width)] for row, reason in zip(rows, reasons, strict=True)]


def _show(arguments: argparse.Namespace) -> int:
    message = _client(arguments).get(f"/v1/quarantine/{_checked(arguments, arguments.id)}")
    if arguments.json:
        text.put_json(message)
        return 0
    preview = message["preview"]
    marked = f"by {message['asked_by'] or '?'}, {_time(message['asked'])}" if message["marked"] else None
    facts = {
        "message": message["id"],
        "offset": message["offset"],
        "stream": message["incarnation"],
        "status": _status(message),
        "size": f"{message['bytes']} bytes",
        "kind": message["form"] if message["form"] != "body" else None,
        "messages": message["count"] if message["count"] > 1 else None,
        "time": message["time"],
        "reason": text.cut(message["reason"], 1000),
        "damage": message["damage"] if message["damage"] != message["reason"] else None,
        "attempts": message["attempts"] or None,
        "retried": message["retried"],
        "asked": marked,
        "decoder": preview.get("decoder"),
        "name": preview.get("name"),
        "media": preview.get("media"),
        "extension": preview.get("extension"),
        "parts": ", ".join(f"{part} {length} bytes" for part, length in preview.get("sizes", {}).items()),
        "names": _names(preview),
    }
    lines = [f"{name:<9} {text.cut(str(value), 1000)}" for name, value in facts.items() if value not in {None, ""}]
    lines += [f"bad name  {text.cut(bad['problem'], 300)}" for bad in preview.get("bad_names", [])]
    if message["head"]:
        lines += ["", *_dump(bytes.fromhex(message["head"]))]
    print("\n".join(lines))
    return 0


def _names(preview: dict[str, Any]) -> str:
    names = preview.get("names", [])
    more = preview.get("names_count", 0) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _dump(data: bytes) -> Iterator[str]:
    for start in range(0, len(data), _LINE):
        line = data[start : start + _LINE]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line)  # noqa: PLR2004 - printable ASCII
        yield f"{start:08x}  {line.hex(' '):<47}  {shown}"


def _retry(arguments: argparse.Namespace) -> int:
    client = _client(arguments)
    asked = client.post("/v1/quarantine/retry", _wanted(arguments))
    running = asked["consumer"] in _AT_WORK
    outcome = _outcome(client, asked["marked"], _PATIENCE_S if running else 0.0)
    if arguments.json:
        text.put_json(outcome | {"problems": asked["problems"], "consumer": asked["consumer"]})
    else:
        for name in outcome["applied"]:
            print(f"{name}: applied")
        for name in outcome["dropped"]:
            print(f"{name}: dropped meanwhile")
        for name, reason in outcome["failed"].items():
            print(f"{name}: {text.cut(reason, 1000)}")
        if outcome["waiting"]:
            print(_waiting(outcome["waiting"], asked["consumer"]))
        if not (asked["marked"] or asked["problems"]):
            print("nothing is in quarantine")
        _complain(asked["problems"])
    return 1 if asked["problems"] or len(outcome["applied"]) < len(asked["marked"]) else 0


def _outcome(client: Client, names: list[str], patience: float) -> dict[str, Any]:
    """What has become of the messages when every try has ended, or at the end of our patience."""
    deadline = time.monotonic() + patience
    waiting = set(names)
    dropped: set[str] = set()
    while waiting:
        told = client.get("/v1/quarantine/marked")
        waiting &= set(told["marked"])
        dropped = set(told["dropped"])
        if time.monotonic() > deadline:
            break
        time.sleep(_LOOK_S if waiting else 0)
    reasons = {each["id"]: each["reason"] for each in client.get("/v1/quarantine")["messages"]} if names else {}
    ended = [name for name in names if name not in waiting]
    return {
        "applied": [name for name in ended if name not in reasons and name not in dropped],
        "failed": {name: reasons[name] for name in ended if name in reasons},
        "dropped": [name for name in ended if name not in reasons and name in dropped],
        "waiting": [name for name in names if name in waiting],
    }


def _waiting(names: list[str], consumer: str) -> str:
    which = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    if consumer in _AT_WORK:
        return f"{which}: not tried yet; the consumer goes on with it, and azaionctl status says what it does"
    return f"{which}: not tried yet, as the consumer is not running ({consumer}); it is done when the consumer runs"


def _drop(arguments: argparse.Namespace) -> int:
    client = _client(arguments)
    wanted = _wanted(arguments)
    if sys.stdin.isatty() and not (arguments.yes or arguments.json):
        there = client.get("/v1/quarantine")["messages"]
        chosen = [each for each in there if arguments.all or each["id"] in arguments.ids]
        if chosen:
            if not _agreed(chosen):
                print("left alone")
                return 1
            # What has come since nobody has agreed to.
            wanted = {"ids": list(dict.fromkeys([*arguments.ids, *(each["id"] for each in chosen)]))}
    done = client.post("/v1/quarantine/drop", wanted)
    if arguments.json:
        text.put_json(done)
    else:
        print(f"dropped: {len(done['dropped'])}")
        _complain(done["problems"])
    return 1 if done["problems"] else 0


def _agreed(messages: list[dict[str, Any]]) -> bool:
    much = _much(len(messages), sum(each["bytes"] for each in messages))
    if len(messages) == 1:
        (only,) = messages
        print(f"message {only['id']}, {_status(only)}: {text.cut(only['reason'], 200)}")
    return text.confirmed(f"{much}: drop for good? [y/N] ")


# Small things.


def _client(arguments: argparse.Namespace) -> Client:
    return Client(find_socket(arguments.socket))


def _wanted(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.all == bool(arguments.ids):
        arguments.usage_error("name the messages (azaionctl quarantine list shows them), or say --all")
    return {"all": True} if arguments.all else {"ids": [_checked(arguments, name) for name in arguments.ids]}


def _checked(arguments: argparse.Namespace, name: str) -> str:
    """What cannot be an ID is not sent: it would become part of a path there."""
    if not (name.isascii() and name.replace("-", "", 1).isdecimal()):
        arguments.usage_error(f"{name!r} is not the ID of a message; azaionctl quarantine list shows them")
    return name


def _complain(problems: dict[str, str]) -> None:
    for problem in problems.values():
        print(f"azaionctl: {AzaionError(problem)}", file=sys.stderr)


def _status(message: dict[str, Any]) -> str:
    status = message["event"] or message["status"]
    return "?" if status is None else str(status)


def _time(stamp: str | None) -> str:
    """To the minute, which tells more than enough."""
    return stamp[:16].replace("T", " ") if stamp else "?"


def _much(count: int, amount: float) -> str:
    return f"{count} message{'' if count == 1 else 's'}, {size(amount)}"
