"""``azaionctl``: reads the command line, calls the command, turns errors into one line and an exit code."""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from azaion import BUILD
from azaion.errors import AzaionError
from supervisor.control.client import Client, UnreachableError

#: Which module of `supervisor.commands` knows which command. Only the one that is called is imported: all together cost
#: more than the rest of a command.
MODULES: Final = MappingProxyType(
    {
        "status": "status",
        "top": "top",
        "submit-train": "submit",
        "submit": "submit",
        "list": "jobs",
        "show": "jobs",
        "logs": "watch",
        "wait": "watch",
        "events": "watch",
        "cancel": "jobs",
        "stop": "jobs",
        "hold": "jobs",
        "release": "jobs",
        "retry": "jobs",
        "priority": "jobs",
        "report": "report",
        "maintenance": "maintenance",
        "health": "health",
        "alerts": "alerts",
        "services": "services",
        "service": "services",
        "consumer": "consumer",
        "annotations": "annotations",
        "models": "models",
        "datasets": "datasets",
        "publish": "publish",
        "fetch": "publish",
        "quarantine": "quarantine",
        "retention": "retention",
        "preflight": "preflight",
        "keys": "keys",
        "config": "config",
        "doctor": "doctor",
        "deploy": "deploy",
        "releases": "deploy",
        "install": "install",
        "uninstall": "install",
    },
)

#: Exit codes that scripts may rely on, beside 0 and those that a command documents.
FAILED: Final = 1
UNREACHABLE: Final = 4
INTERRUPTED: Final = 130


def parser(modules: Iterable[str]) -> argparse.ArgumentParser:
    """The command line, with the commands of these modules."""
    whole = argparse.ArgumentParser(
        prog="azaionctl",
        description="Talks to azaiond: submit trainings, look at them, stop them.",
        epilog="Exit codes: 0 done, 1 failed, 2 bad usage, 4 no daemon; wait and --wait: 0 succeeded, 10 failed, "
        "11 cancelled.",
    )
    whole.add_argument("--socket", type=Path, metavar="PATH", help="the daemon's socket (default: $AZAION_SOCKET)")
    whole.add_argument("--json", action="store_true", help="print JSON for scripts")
    whole.add_argument("--version", action="version", version=f"azaionctl {BUILD}")
    commands = whole.add_subparsers(metavar="COMMAND", required=True)
    for module in dict.fromkeys(modules):
        importlib.import_module(f"supervisor.commands.{module}").register(commands)
    _everywhere(whole)
    return whole


def _everywhere(parser: argparse.ArgumentParser) -> None:
    """Let every command take the global options too, after its name, and report its own usage errors."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to its sub-commands
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - the same
            for child in action.choices.values():
                child.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
                child.add_argument("--socket", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
                child.set_defaults(usage_error=child.error)
                _everywhere(child)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; see ``azaionctl --help``."""
    given = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character shows its number.
            stream.reconfigure(errors="backslashreplace")
    called = next((word for word in given if word in MODULES), None)
    arguments = parser(MODULES.values() if called is None else [MODULES[called]]).parse_args(given)
    Client.impatient = _remark
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
    except UnreachableError as error:
        _complain(error)
        code = UNREACHABLE
    except AzaionError as error:
        _complain(error)
        code = FAILED
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        _close_output()
        code = 0
    except OSError as error:
        # Of the daemon's troubles the client tells by itself: this one is of our output or of a file that was named.
        _complain(AzaionError(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"))
        _close_output()
        code = FAILED
    sys.exit(code)


def _close_output() -> None:
    """What could not be written is given up; Python must not complain about it again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(error: AzaionError) -> None:
    _remark(str(error))


def _remark(text: str) -> None:
    print(f"azaionctl: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
