"""``azaionctl alerts``: what people have been told, whom, and whether it arrives."""

import argparse
import textwrap
from typing import Any, Final

from supervisor.commands import text
from supervisor.control.client import Client, find_socket

_COLUMNS: Final = 80
_INDENT: Final = " " * 10


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``alerts`` and ``alerts test``."""
    parser = commands.add_parser("alerts", help="what is not well, whom azaiond tells of it, and whether that arrives")
    parser.set_defaults(run=_show)
    actions = parser.add_subparsers(metavar="ACTION")
    test = actions.add_parser("test", help="send a test message; exits 1 if a channel does not take it")
    test.add_argument("channel", nargs="?", metavar="CHANNEL", help="only to this one")
    test.set_defaults(run=_test)


def _show(arguments: argparse.Namespace) -> int:
    told = Client(find_socket(arguments.socket)).get("/v1/alerts")
    if arguments.json:
        text.put_json(told)
    else:
        print(screen(told))
    return 0


def _test(arguments: argparse.Namespace) -> int:
    tried = Client(find_socket(arguments.socket)).post("/v1/alerts/test", {"channel": arguments.channel})
    if arguments.json:
        text.put_json(tried)
    else:
        for each in tried:
            came = f"taken in {each['took_s']:.1f} s" if each["ok"] else f"NOT TAKEN: {each['error']}"
            print(text.cut(f"{each['channel']:<10} {came}", 500))
    return 0 if all(each["ok"] for each in tried) else 1


def screen(told: dict[str, Any]) -> str:
    """What is open, the worst first, and then the channels."""
    lines = []
    for alert in told["open"]:
        lines += _wrapped(f"{_word(alert):<10}{alert['name']} (for {text.since(alert['since'])}): {alert['text']}")
        lines += _wrapped(f"{_INDENT}-> {alert['advice']}", more="   ") if alert["advice"] else []
    lines = lines or ["nothing is open"]
    for channel in told["channels"]:
        lines += _wrapped(f"channel   {channel['name']}: {_state(channel)}")
        lines += _wrapped(f"{_INDENT}{channel['error']}") if channel["error"] else []
    if not told["channels"]:
        lines.append("channel   none: alerts go to the log and to `azaionctl events -f` alone")
    return "\n".join(lines)


def _wrapped(line: str, more: str = "") -> list[str]:
    return textwrap.wrap(text.cut(line, 600), _COLUMNS, subsequent_indent=_INDENT + more)


def _word(alert: dict[str, Any]) -> str:
    if alert["muted"]:
        return "muted"
    return "flapping" if alert["flapping"] else str(alert["level"]).upper()


def _state(channel: dict[str, Any]) -> str:
    last = f"last message {text.since(channel['last_success'])} ago" if channel["last_success"] else "no message yet"
    trouble = (
        f"{'DEAD, ' if channel['dead'] else ''}failed {channel['failures']} times, " if channel["failures"] else ""
    )
    waiting = f", {channel['waiting']} wait" if channel["waiting"] else ""
    dropped = f", {channel['dropped']} dropped" if channel["dropped"] else ""
    return f"{trouble}{last}{waiting}{dropped}"
