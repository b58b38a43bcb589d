"""``azaionctl preflight``: would a training start now?"""

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from azaion.errors import AzaionError
from supervisor.commands import text
from supervisor.commands.settings import env_file
from supervisor.control.client import Client, UnreachableError, find_socket

if TYPE_CHECKING:
    from azaion.config import Config


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``preflight``."""
    parser = commands.add_parser(
        "preflight",
        help="would a training start now? memory, GPUs, disks, base model, images",
        description="What is looked at before every start, by hand. Exits 0 when all is well, 1 when not. "
        "Without a daemon the command looks by itself, with the configuration of .env and the environment.",
    )
    parser.add_argument("--ram", type=text.amount, default=0, metavar="SIZE", help="memory that it needs, e.g. 10G")
    parser.add_argument("--vram", type=text.amount, default=0, metavar="SIZE", help="memory of a GPU, e.g. 14G")
    parser.add_argument("--disk", type=text.amount, default=0, metavar="SIZE", help="room on every disk, e.g. 20G")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    query = {name: getattr(arguments, name) for name in ("ram", "vram", "disk")}
    try:
        told = Client(find_socket(arguments.socket)).get("/v1/preflight", query)
    except UnreachableError as error:
        told = _look(query, error)
        print("azaionctl: no azaiond answers, so this is what the command sees by itself", file=sys.stderr)
    if arguments.json:
        text.put_json(told)
    else:
        for check in told["checks"]:
            print(f"{'ok   ' if check['ok'] else 'LACKS'}  {check['name']:<6}  {text.cut(check['text'], 500)}")
    return 0 if told["ok"] else 1


def _look(query: dict[str, int], unreachable: UnreachableError) -> dict[str, Any]:
    """The same checks without the daemon. Nobody knows then which run is whose."""
    # Costs more than a whole command, which does without as long as there is a daemon.
    import asyncio  # noqa: PLC0415 - see above

    from supervisor import resources  # noqa: PLC0415 - see above
    from supervisor.control.protocol import preflight_record  # noqa: PLC0415 - see above
    from supervisor.gpus import Probe  # noqa: PLC0415 - see above
    from supervisor.jobs.model import Needs  # noqa: PLC0415 - see above
    from supervisor.jobs.preflight import by_hand, floors_of  # noqa: PLC0415 - see above
    from supervisor.jobs.runner import machine_of  # noqa: PLC0415 - see above

    config = _configuration(unreachable)
    checks = by_hand(
        Needs(ram=query["ram"], vram=query["vram"]),
        query["disk"],
        facts=resources.facts(config.layout, asyncio.run(Probe().ask())),
        floors=floors_of(config),
        given=resources.first_inputs(config),
        devices=machine_of(config.daemon.gpu_ids).devices,
    )
    return preflight_record(checks)


def _configuration(unreachable: UnreachableError) -> "Config":
    from azaion import config  # noqa: PLC0415 - see `_look`

    try:
        return config.settings(os.environ, env_file())
    except AzaionError as error:
        raise AzaionError(f"{unreachable}. Nor can the command look by itself: {error}") from None
