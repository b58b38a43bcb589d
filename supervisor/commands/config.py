"""``azaionctl config``: check the settings, render config.yaml, show what a rendering would change."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from azaion.errors import AzaionError
from supervisor.commands.settings import env_file

if TYPE_CHECKING:
    from azaion.config import Config

# `azaion.config` costs 40 ms to import, which no other command should pay: it is imported where it is used.

_STANDARD_OUTPUT = Path("-")


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``config`` with its own commands."""
    parser = commands.add_parser("config", help="check, render or compare the configuration")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    check = actions.add_parser("check", help="name everything that is missing, unknown or malformed")
    check.set_defaults(run=_check)

    render = actions.add_parser("render", help="check, then write config.yaml")
    render.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where to write; - is the standard output (default: config.yaml in the state folder)",
    )
    render.set_defaults(run=_render)

    diff = actions.add_parser("diff", help="show what a rendering would change; exits 1 if anything")
    diff.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the file to compare with (default: config.yaml in the state folder)",
    )
    diff.set_defaults(run=_diff)

    for action in (check, render, diff):
        action.add_argument(
            "--env-file", type=Path, metavar="FILE", help="the variables (default: .env here, else the server's)"
        )


def _settings(arguments: argparse.Namespace) -> "Config":
    from azaion import config  # noqa: PLC0415 see above

    return config.settings(os.environ, arguments.env_file or env_file())


def _check(arguments: argparse.Namespace) -> int:
    from azaion import config, declarations  # noqa: PLC0415 see above

    try:
        found = _settings(arguments)
        config.check_root(found)
        declarations.read(found.daemon.declarations, required=found.declarations_required)
    except config.ConfigError as error:
        if not arguments.json:
            raise
        print(json.dumps({"ok": False, "problems": error.problems}))
        return 1
    if arguments.json:
        folders = {"root": str(found.layout.root), "state": str(found.layout.state)}
        print(json.dumps({"ok": True, "problems": [], **folders}))
    else:
        print(f"The configuration is good: root {found.directories.root}, source {found.daemon.source}.")
        there = found.daemon.declarations.exists()
        print(f"Services, checks and rules: {found.daemon.declarations}{'' if there else ' (there is none)'}.")
    return 0


def _render(arguments: argparse.Namespace) -> int:
    from azaion import config, files  # noqa: PLC0415 see above

    found = _settings(arguments)
    if arguments.output == _STANDARD_OUTPUT:
        sys.stdout.write(config.render(found))
        return 0
    path: Path = arguments.output or found.layout.config
    try:
        files.make_folder(path.absolute().parent)
        config.write(found, path)
    except OSError as error:
        raise AzaionError(f"{path} cannot be written: {error.strerror}. Nothing was changed.") from None
    print(json.dumps({"path": str(path)}) if arguments.json else f"Wrote {path}.")
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from azaion import config, files  # noqa: PLC0415 see above

    found = _settings(arguments)
    path: Path = arguments.output or found.layout.config
    try:
        now = files.read_small(path, limit=1 << 20).decode(errors="replace")
    except FileNotFoundError:
        now = ""
    except OSError as error:
        raise AzaionError(f"{path} cannot be read: {error.strerror}.") from None
    difference = config.diff(now, config.render(found))
    if arguments.json:
        print(json.dumps({"path": str(path), "different": bool(difference), "diff": difference}))
    else:
        sys.stdout.write(difference)
    return 1 if difference else 0
