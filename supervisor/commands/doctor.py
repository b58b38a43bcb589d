"""``azaionctl doctor``: what is wrong with this machine, and the command that mends it."""

import argparse
import os
import textwrap
from typing import Any, Final

from supervisor.commands import text
from supervisor.commands.settings import env_file
from supervisor.control.client import find_socket

_COLUMNS: Final = 100
_INDENT: Final = " " * 10
_CODES: Final = {"ok": 0, "warning": 1, "unknown": 1, "critical": 2}


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``doctor``."""
    parser = commands.add_parser(
        "doctor",
        help="what is wrong with this machine, each with the command that mends it",
        description="Looks at this machine as the user who runs it, with the configuration of .env and the "
        "environment; needs no daemon. Changes nothing.",
        epilog="Exit codes: 0 all is well, 1 something should be better, 2 something cannot work.",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    # Costs many times what other commands do.
    import asyncio  # noqa: PLC0415 - see above

    from supervisor.doctor.table import examine, patient_of  # noqa: PLC0415 - see above

    given = env_file()
    patient = patient_of(os.environ, given and given.absolute(), find_socket(arguments.socket))
    found = [
        {"name": each.name, "verdict": str(each.verdict), "text": each.text, "cure": each.cure}
        for each in asyncio.run(examine(patient))
    ]
    verdict = max((each["verdict"] for each in found), key=_rank, default="ok")
    if arguments.json:
        text.put_json({"verdict": verdict, "findings": found})
    else:
        print(screen(found))
    return _CODES[verdict]


def _rank(verdict: str) -> int:
    return ["ok", "unknown", "warning", "critical"].index(verdict)


def screen(found: list[dict[str, Any]]) -> str:
    """One line each, and below what is not well how to mend it."""
    lines: list[str] = []
    for each in found:
        verdict = each["verdict"]
        shown = verdict if verdict == "ok" else verdict.upper()
        lines += textwrap.wrap(
            text.cut(f"{shown:<10}{each['name']}: {each['text']}", 600), _COLUMNS, subsequent_indent=_INDENT
        )
        # In one piece, so that it can be copied.
        lines += [f"{_INDENT}-> {each['cure']}"] if each["cure"] else []
    return "\n".join(lines)
