"""``make pictures``: draws ``azaionctl status`` and ``azaionctl top`` before a real daemon in the middle of a training.

Nothing is made up but the annotations, which are drawn shapes, and the names of folders, which are those of a server.
"""

import asyncio
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

sys.path.insert(0, str(Path(__file__).parents[2]))

from supervisor.commands import status
from supervisor.control.client import Client
from supervisor.top.app import Top
from tests import training_runs
from tests.installations import Installation, installation
from tests.waiting import until

_EPOCHS: Final = 200
#: There are curves by then.
_EPOCH: Final = 120
_TRAINING_S: Final = 600.0
_WIDE: Final = (132, 38)
_COLUMNS: Final = 80


class RenamingClient(Client):
    """Names the folders of the installation as a server would."""

    def __init__(self, server: Installation) -> None:
        super().__init__(server.layout.socket)
        self._folder = str(server.folder)

    def get(self, path: str, query: Mapping[str, Any] | None = None, timeout: float = 60.0) -> Any:
        """Ask for something."""
        return json.loads(json.dumps(super().get(path, query, timeout)).replace(self._folder, ""))


def main() -> None:
    """Make both pictures in the folder that the command line names."""
    folder = Path(sys.argv[1])
    with installation(AZAION_GPUS="none") as server:
        training_runs.draw_shapes(server.layout, images=48, size=96)
        server.start()
        _file(server)
        client = RenamingClient(server)
        screen = status.screen(client.get("/v1/status"))
        asyncio.run(_draw_top(client, folder / "top.svg"))
    console = Console(record=True, width=_COLUMNS, file=sys.stderr, force_terminal=True)
    for line in screen.splitlines():
        console.print(Text(line), no_wrap=True)
    _write(folder / "status.svg", console.export_svg(title="azaionctl status"))


def _file(server: Installation) -> None:
    """A queue, with a training that has come far enough."""
    server.wait(server.submit("echo 214 passed", name="tests of the detector"))
    server.wait(server.submit("echo 'no such video: night.mp4'; exit 3", name="night video"))
    training = server.client.post(
        "/v1/jobs",
        {"kind": "train", "name": "shapes, tiny", "epochs": _EPOCHS, "overrides": dict(training_runs.QUICK)},
    )["id"]
    server.submit("true", name="evaluate on last week", devices=1)
    server.submit("true", name="night video, again", devices=1, priority=5)
    server.submit("true", name="for Monday", hold=True)
    until(lambda: _epoch(server, training) >= _EPOCH, "the training has come far enough", _TRAINING_S)


def _epoch(server: Installation, training: int) -> int:
    job = server.job(training)
    if job["state"] in {"failed", "cancelled", "succeeded"}:
        raise AssertionError(f"the training has {job['state']}: {job['reason']}")
    return int((job["progress"] or {}).get("epoch") or 0)


async def _draw_top(client: Client, path: Path) -> None:
    app = Top(client)
    async with app.run_test(size=_WIDE) as pilot:
        async with asyncio.timeout(30):
            while app.look is None or app.look.job is None or not app.look.curves:
                await pilot.pause(0.1)
        # From an hour over six to ten minutes.
        for _ in range(2):
            await pilot.press("t")
        async with asyncio.timeout(30):
            while app.look.wish != app.wish:
                await pilot.pause(0.1)
        await pilot.pause()
        _write(path, app.export_screenshot(title="azaionctl top"))


def _write(path: Path, drawn: str) -> None:
    # The template fetches its font from the network; the reader's own will do.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
