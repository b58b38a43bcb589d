"""The fork launcher: what it starts is nobody's child, and what it keeps warm never runs without being told."""

import asyncio
import os
from pathlib import Path

from supervisor import processes
from supervisor.jobs.launchers import ForkLauncher
from tests.shims import attempt, read
from tests.waiting import until


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> list[bytes]:
    """The command lines of this process's children."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [Path("/proc", pid, "cmdline").read_bytes() for pid in pids]


async def test_one_start_after_the_other_each_by_a_shim_that_was_warm(tmp_path: Path) -> None:
    launcher = ForkLauncher()
    try:
        for number in range(3):
            folder = attempt(tmp_path / str(number), ["sh", "-c", f"exit {number}"])
            await launcher.launch(folder)
            until(folder.exit.exists, "the run ends")
            assert read(folder.exit)["rc"] == number
            assert launcher._spare is not None
    finally:
        await launcher.close()


async def test_a_warm_shim_that_was_killed_is_replaced(tmp_path: Path) -> None:
    launcher = ForkLauncher()
    try:
        first = attempt(tmp_path / "1", ["true"])
        await launcher.launch(first)
        assert launcher._spare is not None
        launcher._spare.process.kill()
        until(lambda: launcher._spare is not None and launcher._spare.process.poll() is not None, "it is dead")
        second = attempt(tmp_path / "2", ["true"])
        await launcher.launch(second)
        until(second.exit.exists, "the run ends")
    finally:
        await launcher.close()


async def test_the_warm_one_leaves_with_us_and_has_run_nothing(tmp_path: Path) -> None:
    launcher = ForkLauncher()
    await launcher.launch(attempt(tmp_path / "1", ["true"]))
    assert launcher._spare is not None
    pid = launcher._spare.process.pid
    await launcher.close()
    assert processes.identify(pid) is None


async def test_starts_that_overlap_leave_one_warm_shim_and_no_other(tmp_path: Path) -> None:
    launcher = ForkLauncher()
    before = open_files()
    folders = [attempt(tmp_path / str(number), ["true"]) for number in range(4)]
    await asyncio.gather(*(launcher.launch(folder) for folder in folders))
    await launcher.close()
    assert open_files() <= before + 2  # the loop's own
    assert not [command for command in children() if b"shim" in command]
    for folder in folders:
        until(folder.exit.exists, "the run ends")
