"""``azaionctl top`` before a real daemon with real jobs: what it shows, asks, does, and outlives."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from textual.pilot import Pilot

from supervisor.top.app import Top
from tests.installations import Installation
from tests.nvml import FakeNvml
from tests.waiting import until

SIZE = (80, 24)
LIMIT_S = 30.0


class Screen:
    """What somebody sees and types."""

    def __init__(self, app: Top, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def lines(self) -> list[str]:
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]

    def __contains__(self, words: str) -> bool:
        return any(words in line for line in self.lines)

    async def shows(self, *words: str) -> None:
        """Wait until all this is there."""
        deadline = time.monotonic() + LIMIT_S
        while not all(each in self for each in words):
            if time.monotonic() > deadline:
                screen = "\n".join(self.lines)
                raise AssertionError(f"waited in vain for {words}:\n{screen}")
            await self.pilot.pause(0.02)

    async def presses(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()


@asynccontextmanager
async def looked_at(server: Installation, size: tuple[int, int] = SIZE) -> AsyncIterator[Screen]:
    app = Top(server.client, interval_s=0.1)
    async with app.run_test(size=size) as pilot:
        yield Screen(app, pilot)


async def test_it_shows_what_runs_waits_and_has_ended_and_hides_nothing(server: Installation) -> None:
    server.start()
    failed = server.submit("echo '[bold]loud[/bold]'; exit 3", name="[red]not red[/red]")
    server.wait(failed)
    # Without a name, the command is the name: with all that it holds.
    nasty = server.client.post(
        "/v1/jobs",
        {
            "kind": "command",
            "argv": ["true", "\x1b]0;owned\x07[/]"],
            "cwd": str(server.folder),
            "env": {},
            "devices": 0,
        },
    )["id"]
    server.wait(nasty)
    running = server.submit("printf '1%%\\r99%%\\n'; exec sleep 1000", name="runs")
    server.submit("true", name="held one", hold=True)
    server.wait(running, "running")
    async with looked_at(server) as screen:
        await screen.shows("[red]not red", "held by root", "3 running", "true [/]", "1 running, 1 held, 1 failed")
        await screen.shows("consumer  consuming", "cpu free", "% used")
        states = [line.split()[1] for line in screen.lines[screen.lines.index(heading(screen)) + 1 :][:4]]
        assert states == ["running", "held", "succeeded", "failed"]
        await screen.shows("job 3  command  runs", "99%")
        assert "1%99%" not in screen
        await screen.presses("down", "down", "down")
        await screen.shows("job 1  command  [red]not red[/red]", "[bold]loud[/bold]", "ended with exit code 3")
        await screen.presses("m")
        await screen.shows("machine, the last hour", "memory", "lag")
        await screen.presses("t")
        await screen.shows("machine, the last 6 hours")
        await screen.presses("m", "enter")
        await screen.shows("esc back", "[bold]loud[/bold]")
        assert "consumer  consuming" not in screen
        await screen.presses("escape")
        await screen.shows("consumer  consuming")


def heading(screen: Screen) -> str:
    return next(line for line in screen.lines if line.startswith("   ID STATE"))


async def test_it_asks_before_it_acts_and_tells_what_came_of_it(server: Installation) -> None:
    server.start()
    running = server.submit("exec sleep 1000", name="precious [b]")
    server.wait(running, "running")
    waiting = server.submit("true", name="later", after=running)
    async with looked_at(server) as screen:
        await screen.shows("precious [b]", "later")
        await screen.presses("r")
        await screen.shows(f"job {running} is running: only one that has ended can be filed anew")
        await screen.presses("c")
        await screen.shows(f"Cancel job {running}, precious [b]?", "SIGKILL after 30 s", "come after it is cancelled")
        # Enter is on No.
        await screen.presses("enter")
        await screen.shows(f"job {running} is left alone")
        assert server.job(running)["state"] == "running"

        await screen.presses("down", "p")
        await screen.shows(f"Reprioritise job {waiting}, later?")
        await screen.presses("backspace", "9", "9", "9", "9", "enter")
        await screen.shows("from -1000 to 1000")
        await screen.presses("backspace", "enter")
        await screen.shows(f"job {waiting} has priority 999")
        await screen.presses("h", "y")
        await screen.shows(f"job {waiting} is held")
        await screen.shows("held by root")
        await screen.presses("h")
        await screen.shows(f"Release job {waiting}")
        await screen.presses("y")
        await screen.shows(f"job {waiting} is queued")

        await screen.presses("up", "c", "y")
        await screen.shows(f"job {running} is stopping")
        assert server.wait(running)["state"] == "cancelled"
        assert server.job(waiting)["state"] == "cancelled"
        # It keeps its place under the cursor wherever it moves.
        await screen.shows(f"job {running}  command  precious [b]", "cancelled  started", "2 cancelled")
        await screen.presses("r", "y")
        await screen.shows(f"job {running} is filed anew as job {waiting + 1}")
        assert server.wait(waiting + 1, "running")["retry_of"] == running


async def test_what_the_daemon_refuses_is_told_in_its_words(server: Installation) -> None:
    server.start()
    number = server.submit("while ! test -e over; do sleep 0.02; done", name="quick")
    server.wait(number, "running")
    async with looked_at(server) as screen:
        await screen.shows("quick")
        await screen.presses("c")
        await screen.shows(f"Cancel job {number}")
        # It ends while somebody makes up his mind.
        (server.folder / "over").touch()
        server.wait(number)
        await screen.presses("y")
        await screen.shows("not done: ", "succeeded")


async def test_it_survives_a_restart_of_the_daemon(server: Installation) -> None:
    server.start()
    number = server.submit("exec sleep 1000", name="goes on")
    server.wait(number, "running")
    async with looked_at(server) as screen:
        await screen.shows("goes on", "1 running")
        server.kill()
        await screen.shows("NOT REACHABLE  since", "this is how it was", "goes on")
        await screen.presses("c", "y")
        await screen.shows("not done: no azaiond listens")
        server.start()
        await screen.shows("  azaion ", "1 running", "goes on")
        assert "NOT REACHABLE" not in screen


async def test_a_large_screen_shows_the_devices_over_time_beside_the_job(server: Installation) -> None:
    nvml = FakeNvml(server.folder / "nvml")
    nvml.tell(count=1, total_mb_0=49152, free_mb_0=12288, busy_0=97, temperature_0=71)
    server.variables |= {"AZAION_GPUS": "0", **nvml.environment}
    server.start()
    number = server.submit("exec sleep 1000", devices=1)
    server.wait(number, "running")
    server.kill()
    server.start()
    async with looked_at(server, (160, 50)) as screen:
        await screen.shows(f"gpu0 job {number}, 97 %, 36.0 of 48 GiB, 71 °C")
        await screen.shows("machine, the last hour", "gpu0 busy", "97 %", "gpu0 mem", f"job {number}  command")
        for size in ((1, 1), (40, 10), SIZE):
            await screen.pilot.resize_terminal(*size)
        await screen.shows("gpu0 job", f"job {number}  command", "q quit")
        assert "machine, the last hour" not in screen


def test_the_history_is_told_since_a_time(server: Installation) -> None:
    server.start()
    told = until(lambda: sampled(server, 0), "there is a sample")
    assert told["interval_s"] == 10.0
    assert abs(told["times"][0] - time.time()) < 60
    assert set(told["series"]) == {"lag", "lag_s", "rate", "memory_percent", "loop_late_s"}
    assert 0 < told["series"]["memory_percent"][0] < 100
    assert sampled(server, time.time() + 1) is None
    assert "since must be a number" in server_error(server, "/v1/history?since=x")


def sampled(server: Installation, since: float) -> dict[str, Any] | None:
    told: dict[str, Any] = server.client.get("/v1/history", {"since": since})
    return told if told["times"] else None


def server_error(server: Installation, path: str) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its words are looked at
        server.client.get(path)
    return str(caught.value)


def test_in_a_terminal_it_starts_shows_and_leaves_everything_as_it_was(server: Installation) -> None:
    server.start()
    number = server.submit("exec sleep 1000", name="runs")
    server.wait(number, "running")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(theirs)
    environment = server.environment(PYTHONPATH=str(server.code), TERM="xterm-256color", NO_COLOR="1")
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor.ctl", "top"],
        cwd=server.folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    seen = b""

    def sees(words: bytes) -> bool:
        nonlocal seen
        while select.select([ours], [], [], 0)[0]:
            seen += os.read(ours, 1 << 16)
        return words in seen

    try:
        until(lambda: sees(b"1 running"), "it shows the job")
        assert termios.tcgetattr(theirs) != before
        # No colour: neither of the sixteen, nor of the 256, nor any other.
        assert not any(code in seen for code in (b"\x1b[31", b"\x1b[32", b"38;5;", b"38;2;", b"48;5;", b"48;2;"))
        seen = b""
        os.write(ours, b"q")
        until(lambda: sees(b"") or process.poll() is not None, "it ends")
        assert process.wait(timeout=10) == 0
        until(lambda: sees(b"\x1b[?1049l"), "the other screen is left")
        assert b"\x1b[?25h" in seen
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def test_without_a_terminal_or_a_daemon_it_says_so(server: Installation) -> None:
    done = server.ctl("top")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "azaionctl: top needs a terminal to draw on; for scripts there is `azaionctl status --json`\n"
