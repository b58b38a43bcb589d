"""A headless Chromium that looks at a page: what it shows, what it complains of, and whom it wants to talk to."""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-headless-shell")


@dataclass(frozen=True, kw_only=True)
class Look:
    """What there was to see.

    Attributes:
        dom: the document as the browser has understood it.
        console: what the page has printed or was refused.
        calls: how many connections were opened.
    """

    dom: str
    console: list[str]
    calls: int


@dataclass(frozen=True, kw_only=True)
class Browser:
    """Where a Chromium is, and a folder for its own files."""

    program: str
    folder: Path

    def look(self, page: Path, picture: Path, *, width: int = 1200, height: int = 3000, dark: bool = False) -> Look:
        """Open a page and take a picture of it. Whatever is not in a file is asked of us, and never answered."""
        with socket.create_server(("127.0.0.1", 0)) as proxy:
            proxy.setblocking(False)
            done = subprocess.run(
                [
                    self.program,
                    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
                    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
                    f"--user-data-dir={self.folder}",
                    f"--proxy-server=http://127.0.0.1:{proxy.getsockname()[1]}",
                    "--proxy-bypass-list=<-loopback>",
                    f"--window-size={width},{height}",
                    # 0 is dark, 1 light, whatever the machine's own choice.
                    f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                    *("--enable-logging=stderr", "--timeout=5000"),
                    f"--screenshot={picture}",
                    "--dump-dom",
                    page.as_uri(),
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
            )
            return Look(
                dom=done.stdout,
                console=[line for line in done.stderr.splitlines() if ":CONSOLE" in line],
                calls=_waiting(proxy),
            )


def installed() -> str | None:
    """The Chromium that `make test` has fetched, else the machine's own; None if there is none."""
    path = f"{Path(sys.prefix) / 'chromium' / 'bin'}:{os.environ['PATH']}"
    return next((found for name in NAMES if (found := shutil.which(name, path=path))), None)


def browser(folder: Path) -> Browser:
    """A browser; skips the test without one, and fails it where it must be there."""
    program = installed()
    if program is None:
        reason = "no Chromium: make test fetches it"
        if os.environ.get("CI") or os.environ.get("AZAION_REQUIRE_CHROMIUM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return Browser(program=program, folder=folder)


def _waiting(server: socket.socket) -> int:
    """How many connections nobody has accepted."""
    number = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return number
        number += 1
