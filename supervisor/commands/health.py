"""``azaionctl health``: every check, its verdict, and what to do."""

import argparse
import re
import sys
import textwrap
from typing import Any, Final

from supervisor.commands import text
from supervisor.control.client import Client, ClientError, find_socket

#: As monitoring plugins have it.
CODES: Final = {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}
#: The worst first.
RANKS: Final = {"critical": 0, "warning": 1, "unknown": 2, "ok": 3}
_COLUMNS: Final = 80
_INDENT: Final = " " * 10
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``health``, ``health mute`` and ``health unmute``."""
    parser = commands.add_parser(
        "health",
        usage="azaionctl health [NAME] | health mute NAME --for TIME [--reason TEXT] | health unmute NAME",
        help="every check with its verdict, since when, and what to do",
        description="A NAME is that of a check (disk), or of one thing that it looks at (disk /azaion). What is muted "
        "is shown, but bothers nobody and does not count for the exit code.",
        epilog="Exit codes: 0 ok, 1 warning, 2 critical, 3 unknown or no daemon; mute and unmute: as elsewhere.",
    )
    parser.add_argument("words", nargs="*", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--for", dest="time", type=_duration, metavar="TIME", help="how long to mute it: 30m, 2h, 1d")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for everyone who looks")
    parser.set_defaults(run=_run)


def _duration(given: str) -> float:
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd])", given)
    if found is None:
        raise argparse.ArgumentTypeError(f"{given!r} is no duration such as 30m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]


def _run(arguments: argparse.Namespace) -> int:
    action, name = arguments.words[:1], " ".join(arguments.words[1:])
    if action not in (["mute"], ["unmute"]):
        return _look(arguments, " ".join(arguments.words))
    if not name:
        arguments.usage_error(f"say what to {action[0]}: azaionctl health {action[0]} NAME")
    client = Client(find_socket(arguments.socket))
    if action == ["mute"]:
        if arguments.time is None:
            arguments.usage_error("say for how long: --for 2h")
        body = {"name": name, "seconds": arguments.time, "reason": arguments.reason}
        told, word = client.post("/v1/health/mute", body), f"bothers nobody for {text.duration(arguments.time)}"
    else:
        told, word = client.post("/v1/health/unmute", {"name": name}), "bothers again"
    if arguments.json:
        text.put_json(told)
    else:
        print(f"{name} {word}")
    return 0


def _look(arguments: argparse.Namespace, name: str) -> int:
    try:
        told = Client(find_socket(arguments.socket)).get("/v1/health")
    except ClientError as error:
        # Whoever asks by a script must not take this for a warning.
        print(f"azaionctl: {error}", file=sys.stderr)
        return CODES["unknown"]
    if name:
        found = [each for each in told["findings"] if name in {each["check"], title(each)}]
        if not found:
            known = ", ".join(dict.fromkeys(each["check"] for each in told["findings"]))
            print(f"azaionctl: no check {name!r} has looked here; there is: {known}", file=sys.stderr)
            return CODES["unknown"]
        told = {"verdict": worst(found), "findings": found}
    if arguments.json:
        text.put_json(told)
    else:
        print(screen(told))
    return CODES[told["verdict"]]


def worst(findings: list[dict[str, Any]]) -> str:
    """The worst verdict of those that are not muted."""
    verdicts = {each["verdict"] for each in findings if each["mute"] is None}
    return min(verdicts, key=RANKS.__getitem__, default="ok")


def title(finding: dict[str, Any]) -> str:
    """What a finding is about: ``disk /azaion``."""
    return f"{finding['check']} {finding['subject']}".rstrip()


def screen(told: dict[str, Any]) -> str:
    """The worst first; of what is not well, what to do."""
    lines = []
    for finding in sorted(told["findings"], key=lambda each: (each["mute"] is not None, RANKS[each["verdict"]])):
        fine = finding["verdict"] == "ok"
        since = "" if fine else f" (for {text.since(finding['since'])})"
        lines += _wrapped(f"{shout(finding['verdict']):<10}{title(finding)}{since}: {finding['text']}")
        if not fine and finding["advice"]:
            lines += _wrapped(f"{_INDENT}-> {finding['advice']}", more="   ")
        if finding["mute"] is not None:
            lines += _wrapped(f"{_INDENT}{_mute(finding['mute'])}")
    return "\n".join(lines or ["nothing has been looked at yet"])


def shout(verdict: str) -> str:
    """``ok``, but ``WARNING``: seen without colour."""
    return verdict if verdict == "ok" else verdict.upper()


def _mute(mute: dict[str, Any]) -> str:
    reason = f": {mute['reason']}" if mute["reason"] else ""
    return f"muted by {mute['by']} until {mute['until'][:16].replace('T', ' ')} UTC{reason}"


def _wrapped(line: str, more: str = "") -> list[str]:
    clean = "".join(character if character.isprintable() else "?" for character in line)
    return textwrap.wrap(clean, _COLUMNS, subsequent_indent=_INDENT + more) or [""]
