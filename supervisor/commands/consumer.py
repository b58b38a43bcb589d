"""``azaionctl consumer``: how the annotations come in, and where a blocked consumer is to go on."""

import argparse
import sys
from typing import Any

from supervisor.commands import text
from supervisor.control.client import Client, find_socket

_DECISIONS = """\
  first   at the first message that the stream still has
  stored  where it was: the stream has been mended
  next    after the last message: all that are there now are left out
  NUMBER  at this offset
"""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``consumer`` and ``consumer resume``."""
    parser = commands.add_parser(
        "consumer", help="how the annotations come in", description="Shows the annotation consumer."
    )
    parser.set_defaults(run=_show)
    actions = parser.add_subparsers(metavar="ACTION")
    resume = actions.add_parser(
        "resume",
        help="decide where a blocked consumer goes on",
        description="Decides where a blocked consumer goes on:\n" + _DECISIONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    resume.add_argument("--from", dest="choice", required=True, metavar="first|stored|next|NUMBER", type=_choice)
    resume.add_argument("--yes", action="store_true", help="do not ask first")
    resume.set_defaults(run=_resume)


def _choice(given: str) -> str | int:
    if given in {"first", "stored", "next"}:
        return given
    if given.isascii() and given.isdecimal():
        return int(given)
    raise argparse.ArgumentTypeError(f"{given!r} is not first, stored, next or an offset")


def _show(arguments: argparse.Namespace) -> int:
    status = Client(find_socket(arguments.socket)).get("/v1/consumer")
    if arguments.json:
        text.put_json(status)
    else:
        print(screen(status))
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    client = Client(find_socket(arguments.socket))
    if sys.stdin.isatty() and not (arguments.yes or arguments.json):
        print(screen(client.get("/v1/consumer")))
        if not text.confirmed(f"go on from {arguments.choice}? [y/N] "):
            print("left alone")
            return 1
    status = client.post("/v1/consumer/resume", {"from": arguments.choice})
    if arguments.json:
        text.put_json(status)
    else:
        print(screen(status))
    return 0


def screen(status: dict[str, Any]) -> str:
    """What there is to know, one line each."""
    state = status.get("state", "starting") if status["service"] == "running" else status["service"]
    facts = {
        "consumer": " ".join([state, *([f"for {text.ago(status['since'])}"] if "since" in status else [])]),
        "process": f"pid {status['pid']}, {status['restarts']} restarts" if status.get("pid") else None,
        "stream": status.get("source"),
        "offset": status.get("offset"),
        "lag": lag(status),
        "rate": _rate(status),
        "applied": f"{status['applied']} since it started" if "applied" in status else None,
        "quarantine": f"{status['quarantined']} messages" if status.get("quarantined") else None,
        "last error": status.get("last_error"),
    }
    lines = [f"{name:<11} {value}" for name, value in facts.items() if value is not None]
    if status.get("undecided"):
        lines += ["", "It waits for your decision: azaionctl consumer resume --from ...", _DECISIONS.rstrip()]
    return "\n".join(lines)


def lag(status: dict[str, Any]) -> str | None:
    """How far behind it is, in words; None if it has not said."""
    if "lag" not in status:
        return None
    if status["lag"] is None:
        return "not known"
    age = status.get("lag_s")
    return f"{status['lag']} messages" + (f", the next is {text.duration(age)} old" if age is not None else "")


def _rate(status: dict[str, Any]) -> str | None:
    if not status.get("rate"):
        return None
    return f"{status['rate']:.1f}/s, batches of {status['batch']:.1f}, at most {status['largest_batch']} (last minute)"
