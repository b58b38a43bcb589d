"""``azaionctl annotations import``: a folder of images and labels becomes annotation messages."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from azaion.errors import AzaionError
from supervisor.commands import text

if TYPE_CHECKING:
    from azaion.annotations.importer import Imported, Options
    from azaion.layout import Layout

#: So many files that could not be taken are named; the rest is counted.
_SHOWN = 20
_ROLES = ("operator", "validator", "admin")


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``annotations`` with its own commands."""
    parser = commands.add_parser("annotations", help="send annotations by hand")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    sending = actions.add_parser(
        "import",
        help="send a folder of images and YOLO labels into the embedded stream",
        description="Every image in DIR (or DIR/images) with a label NAME.txt beside it (or in DIR/labels) becomes an "
        "annotation message. Exits 1 if a file could not be taken; all others are sent.",
    )
    sending.add_argument("folder", type=Path, metavar="DIR")
    sending.add_argument(
        "--as",
        dest="role",
        choices=_ROLES,
        default="validator",
        help="who drew the boxes: an operator's await validation (default: validator)",
    )
    sending.add_argument(
        "--media-from",
        metavar="REGEXP",
        help="finds the source video's name in an image's, so that its frames stay in one split; e.g. '^(.*)-frame'",
    )
    sending.set_defaults(run=_import)


def _import(arguments: argparse.Namespace) -> int:
    from azaion import config  # noqa: PLC0415 - what no other command should pay for
    from azaion.annotations.importer import Options  # noqa: PLC0415 - the same
    from azaion.annotations.message import Role  # noqa: PLC0415 - the same

    file = Path(".env")
    settings = config.settings(os.environ, file if os.path.lexists(file) else None)
    if settings.daemon.source is not config.Source.SPOOL:
        raise AzaionError(f"AZAION_SOURCE is {settings.daemon.source}: only the source `spool` can be written to")
    config.check_root(settings)
    try:
        media = re.compile(arguments.media_from) if arguments.media_from else None
    except re.error as error:
        arguments.usage_error(f"--media-from is not a regular expression: {error}")
    options = Options(role=Role[arguments.role.upper()], media=media)
    imported = _send(settings.layout, arguments.folder, options)
    if arguments.json:
        problems = [{"file": str(problem.path), "reason": problem.reason} for problem in imported.problems]
        text.put_json({"sent": imported.sent, "problems": problems})
    else:
        print(f"{imported.sent} annotations sent to {settings.layout.spool}")
        for problem in imported.problems[:_SHOWN]:
            print(f"left out: {problem.path}: {problem.reason}", file=sys.stderr)
        if len(imported.problems) > _SHOWN:
            print(f"left out: {len(imported.problems) - _SHOWN} more; --json names them all", file=sys.stderr)
    return 1 if imported.problems else 0


def _send(layout: "Layout", folder: Path, options: "Options") -> "Imported":
    from azaion.annotations.importer import import_folder  # noqa: PLC0415 - the same
    from azaion.annotations.spool import Spool  # noqa: PLC0415 - the same

    spool = Spool(layout.spool)
    if not sys.stderr.isatty():
        return import_folder(spool, folder, options)
    from rich.console import Console  # noqa: PLC0415 - only for someone who looks
    from rich.progress import Progress  # noqa: PLC0415 - the same

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("sending", total=None)
        return import_folder(
            spool,
            folder,
            options,
            lambda done, whole: progress.update(task, completed=done, total=whole),
        )
