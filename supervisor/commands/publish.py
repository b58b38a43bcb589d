"""``azaionctl publish`` and ``fetch``: send a model to its consumers, and do what a consumer does."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from azaion.errors import AzaionError
from azaion.words import size
from supervisor.commands import text
from supervisor.control.client import Client, find_socket

if TYPE_CHECKING:
    from azaion.publishing.streams import Progress

# What reads the settings, or decrypts, costs more than the rest of a command: it is imported where it is used.

_TARGETS: Final = ("azaion", "directory")


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``publish`` and ``fetch``."""
    publish = commands.add_parser(
        "publish",
        help="file a job that encrypts a model, sends it and leads consumers to it",
        description="What is at the target already is not sent again: to go back to an older model, publish it again.",
    )
    publish.add_argument("model", metavar="MODEL")
    publish.add_argument(
        "--export", metavar="NAME", help="which export, or weights (default: ONNX if there is one, else the weights)"
    )
    publish.add_argument("--target", choices=_TARGETS, help="where to (default: AZAION_PUBLISH_TARGET)")
    publish.add_argument("--priority", type=int, default=0, metavar="N", help="higher goes first (default: 0)")
    publish.add_argument("--wait", action="store_true", help="follow it; exit with its outcome (0, 10, 11)")
    publish.set_defaults(run=_publish)
    fetch = commands.add_parser(
        "fetch",
        help="what a consumer does: fetch a published model, verify and decrypt it",
        description="Works from the settings and the keys, without the daemon.",
    )
    fetch.add_argument("model", nargs="?", metavar="MODEL", help="which (default: the one that consumers shall use)")
    fetch.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="where to (default: here)")
    fetch.add_argument("--target", choices=_TARGETS, help="where from (default: AZAION_PUBLISH_TARGET)")
    fetch.add_argument("--env-file", type=Path, metavar="FILE", help="the variables (default: .env, if it is here)")
    fetch.set_defaults(run=_fetch)


def _publish(arguments: argparse.Namespace) -> int:
    client = Client(find_socket(arguments.socket))
    body = {name: getattr(arguments, name) for name in ("export", "target", "priority")}
    job = client.post(f"/v1/models/{arguments.model}/publish", body)
    if arguments.wait:
        from supervisor.commands.watch import follow  # noqa: PLC0415 - only for whoever stays

        if not arguments.json:
            print(f"job {job['id']}")
        return follow(client, job["id"], as_json=arguments.json)
    if arguments.json:
        text.put_json(job)
    else:
        print(job["id"])
        if (waiting := job["maintenance"]) is not None:
            print(f"it waits for the end of the {waiting}", file=sys.stderr)
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    from azaion import config, environment  # noqa: PLC0415 - see above
    from azaion.publishing import targets  # noqa: PLC0415 - the same
    from azaion.publishing.fetching import fetch  # noqa: PLC0415 - the same
    from azaion.publishing.package import Packer  # noqa: PLC0415 - the same

    folder: Path = arguments.output.absolute()
    if not folder.is_dir():
        raise AzaionError(f"{folder} is no folder: make it, or name another with --output")
    env_file = arguments.env_file or environment.env_file(os.environ)
    settings = config.settings(os.environ, env_file)
    wanted = config.PublishTarget(arguments.target) if arguments.target is not None else None
    packer = Packer(settings)
    with targets.opened(settings, os.environ, env_file, wanted) as target:
        found = fetch(target, packer, folder, arguments.model, _bar(arguments))
        place = target.place
    told: dict[str, Any] = {
        "model": found.told.model,
        "publication": found.told.publication,
        "created": found.told.created,
        "path": str(found.path),
        "size": found.told.plain.size,
        "sha256": found.told.plain.sha256,
        "fresh": found.fresh,
        "target": place,
    }
    if arguments.json:
        text.put_json(told)
    else:
        what = f"{told['model']} from {place}" if found.fresh else f"{told['model']} was here already"
        print(f"{told['path']}: {what}, {size(told['size'])}, published {told['created']}")
    return 0


def _bar(arguments: argparse.Namespace) -> "Progress":
    """How much has arrived, at a terminal."""
    if arguments.json or not sys.stderr.isatty():
        return lambda _done, _size: None

    def show(done: int, whole: int) -> None:
        end = "\n" if done >= whole else ""
        print(f"\r{text.bar(done, whole)} {size(done)} of {size(whole)}", end=end, file=sys.stderr, flush=True)

    return show
