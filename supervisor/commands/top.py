"""``azaionctl top``: the live full screen."""

import argparse
import os
import sys

from supervisor.control.client import Client, ClientError, find_socket


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``top``."""
    parser = commands.add_parser(
        "top",
        help="the live full screen: jobs with their curves, devices, the queue over time; cancel, hold, retry",
        epilog="Every key is shown at the bottom; what changes anything asks first.",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.json or not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        raise ClientError("top needs a terminal to draw on; for scripts there is `azaionctl status --json`")
    client = Client(find_socket(arguments.socket))
    # Whoever has named the wrong socket is told so before the screen is taken.
    client.get("/v1/jobs", {"limit": 0})
    from supervisor.top.app import Top  # noqa: PLC0415 - a quarter of a second, only for someone who looks

    app = Top(client)
    app.run()
    return app.return_code or 0
