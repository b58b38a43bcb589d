"""``azaionctl annotations import`` and ``publish``: a folder of images and labels becomes annotation messages."""

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from azaion.errors import AzaionError
from supervisor.commands import text
from supervisor.commands.settings import env_file

if TYPE_CHECKING:
    from azaion.annotations.importer import Imported, Options

    Progress = Callable[[int, int], None]

#: So many files that could not be taken are named; the rest is counted.
_SHOWN = 20
_ROLES = ("operator", "validator", "admin")
_STATUSES = ("created", "edited")
_COMPRESSIONS = ("none", "gzip")


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
    _add_options(sending)
    sending.set_defaults(run=_import)
    publishing = actions.add_parser(
        "publish",
        help="send a folder of images and YOLO labels to the broker's stream, as the platform would",
        description="Every image in DIR (or DIR/images) with a label NAME.txt beside it (or in DIR/labels) becomes an "
        "annotation message in the stream that RABBITMQ_* name. It is for tests and try-outs. Exits 0 only when the "
        "broker has confirmed every one, and 1 if a file could not be taken; all others are sent.",
    )
    _add_options(publishing)
    publishing.add_argument(
        "--compress",
        choices=_COMPRESSIONS,
        default="gzip",
        help="how the messages are packed into sub-batches (default: gzip, as the platform does)",
    )
    publishing.set_defaults(run=_publish)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument(
        "--as",
        dest="role",
        choices=_ROLES,
        default="validator",
        help="who drew the boxes: an operator's await validation (default: validator)",
    )
    parser.add_argument(
        "--media-from",
        metavar="REGEXP",
        help="finds the source video's name in an image's, so that its frames stay in one split; e.g. '^(.*)-frame'",
    )
    parser.add_argument(
        "--status",
        choices=_STATUSES,
        default="created",
        help="what happened to the annotations (default: created)",
    )


def _import(arguments: argparse.Namespace) -> int:
    from azaion import config  # noqa: PLC0415 - what no other command should pay for
    from azaion.annotations.importer import import_folder  # noqa: PLC0415 - the same
    from azaion.annotations.spool import Spool  # noqa: PLC0415 - the same

    settings = config.settings(os.environ, env_file())
    if settings.daemon.source is not config.Source.SPOOL:
        raise AzaionError(
            f"AZAION_SOURCE is {settings.daemon.source}: `import` is for the source `spool`, `publish` for the broker"
        )
    config.check_root(settings)
    spool, options = settings.layout.spool, _options(arguments)
    imported = _shown(lambda progress: import_folder(Spool(spool), arguments.folder, options, progress))
    return _report(imported, f"annotations sent to {spool}", as_json=arguments.json)


def _publish(arguments: argparse.Namespace) -> int:
    from azaion import config  # noqa: PLC0415 - what no other command should pay for
    from azaion.annotations.publisher import Compression, publish_folder  # noqa: PLC0415 - the same

    broker = config.settings(os.environ, env_file()).rabbitmq
    if broker is None:
        raise AzaionError("no broker is named: give every RABBITMQ_* that .env.example shows, in .env")
    password = config.resolve(broker.password, os.environ, env_file())
    options = _options(arguments)
    compression = Compression(arguments.compress)
    imported = _shown(
        lambda progress: publish_folder(broker, password, arguments.folder, options, compression, progress)
    )
    place = f"{broker.queue_name} at {broker.host}:{broker.port}"
    return _report(imported, f"annotations confirmed in the stream {place}", as_json=arguments.json)


def _options(arguments: argparse.Namespace) -> "Options":
    from azaion.annotations.importer import Options  # noqa: PLC0415 - the same
    from azaion.annotations.message import Role, Status  # noqa: PLC0415 - the same

    try:
        media = re.compile(arguments.media_from) if arguments.media_from else None
    except re.error as error:
        arguments.usage_error(f"--media-from is not a regular expression: {error}")
    return Options(role=Role[arguments.role.upper()], media=media, status=Status[arguments.status.upper()])


def _report(imported: "Imported", what: str, *, as_json: bool) -> int:
    if as_json:
        problems = [{"file": str(problem.path), "reason": problem.reason} for problem in imported.problems]
        text.put_json({"sent": imported.sent, "problems": problems})
    else:
        print(f"{imported.sent} {what}")
        for problem in imported.problems[:_SHOWN]:
            print(f"left out: {problem.path}: {problem.reason}", file=sys.stderr)
        if len(imported.problems) > _SHOWN:
            print(f"left out: {len(imported.problems) - _SHOWN} more; --json names them all", file=sys.stderr)
    return 1 if imported.problems else 0


def _shown(send: "Callable[[Progress | None], Imported]") -> "Imported":
    """Do it with a bar at a terminal."""
    if not sys.stderr.isatty():
        return send(None)
    from rich import console, progress  # noqa: PLC0415 - only for someone who looks

    with progress.Progress(console=console.Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sending", total=None)
        return send(lambda done, whole: bar.update(task, completed=done, total=whole))
