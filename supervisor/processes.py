"""Processes as facts: who they are, whether they live, how to wait for them and how to signal them.

A PID alone names nothing for long, so a process is its PID *and* its start time, and every wait and every signal goes
through a pidfd that was opened before the start time was compared.
"""

import asyncio
import contextlib
import errno
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import ProcessError

_PROC = Path("/proc")


@dataclass(frozen=True)
class Identity:
    """A process for good: its PID, and its start in clock ticks since boot (field 22 of /proc/PID/stat)."""

    pid: int
    start: int


def boot_id() -> str:
    """This boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def identify(pid: int) -> Identity | None:
    """Who has this PID now; None if nobody has, or only a zombie."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in {"Z", "X"} else Identity(pid, int(fields[19]))


@contextlib.contextmanager
def opened(process: Identity) -> Iterator[int | None]:
    """A pidfd of this very process, or None if it has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (ProcessLookupError, ValueError, OverflowError):
        yield None
        return
    except OSError as error:
        hint = "; the kernel must be Linux 5.4 or later" if error.errno == errno.ENOSYS else ""
        raise ProcessError(f"cannot watch process {process.pid}: {error}{hint}") from None
    try:
        # Compared after opening: from here on the descriptor can mean nobody else.
        yield descriptor if identify(process.pid) == process else None
    finally:
        os.close(descriptor)


def alive(process: Identity) -> bool:
    """Whether this very process lives."""
    with opened(process) as descriptor:
        return descriptor is not None


def send(process: Identity, number: signal.Signals) -> bool:
    """Signal this very process and nobody else. Returns whether it still lived."""
    with opened(process) as descriptor:
        if descriptor is None:
            return False
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        return True


async def gone(process: Identity) -> None:
    """Wait until this very process has ended, without polling. It need not be our child."""
    with opened(process) as descriptor:
        if descriptor is None:
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)


def carriers(nonce: str) -> list[Identity]:
    """Every process that has the attempt's nonce in its environment: all that the attempt started, wherever it is."""
    mark = b"AZAION_NONCE=" + nonce.encode() + b"\0"
    found = []
    for folder in _PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        # A process may end while it is looked at, or be hidden from us (hidepid): then it is not one of ours.
        with contextlib.suppress(OSError):
            who = identify(int(folder.name))
            if who is None:
                continue
            environment = (folder / "environ").read_bytes()
            if environment.startswith(mark) or b"\0" + mark in environment:
                found.append(who)
    return found


async def clear(nonce: str) -> int:
    """Kill every process that carries the nonce and wait until none is left. Returns how many there were."""
    killed = 0
    while left := await asyncio.to_thread(carriers, nonce):
        for process in left:
            killed += send(process, signal.SIGKILL)
        await asyncio.gather(*(gone(process) for process in left))
    return killed


def holders(path: Path) -> list[Identity]:
    """Every process that we may look at and that has the flock of ``path``, taken by itself or inherited."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return []
    found = []
    for folder in _PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            who = identify(int(folder.name))
            if who is not None and any(_locks(folder, each.name, status) for each in (folder / "fd").iterdir()):
                found.append(who)
    return found


def _locks(process: Path, descriptor: str, file: os.stat_result) -> bool:
    """Whether a descriptor is of this file and holds its lock, and has not merely opened it, as a backup does."""
    try:
        told = (process / "fd" / descriptor).stat()
        same = (told.st_dev, told.st_ino) == (file.st_dev, file.st_ino)
        return same and b"FLOCK" in (process / "fdinfo" / descriptor).read_bytes()
    except OSError:
        return False


def lock_holder(path: Path) -> int | None:
    """The PID in /proc/locks of whoever took the flock of ``path``; None if it is free or the taker is not visible.

    The lock may outlive its taker in a child that inherited it: then the PID names nobody.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in (_PROC / "locks").read_text(encoding="ascii").splitlines():
        if re.search(rf"FLOCK\s+ADVISORY\s+WRITE\s+(-?\d+)\s+{device}\s", line):
            return int(line.split()[4])
    return None


def expendable(pid: int) -> None:
    """Have a child not share the protection that systemd gives the daemon when memory is short."""
    # It may have ended, or be less protected already, which nobody may take back.
    with contextlib.suppress(OSError):
        (_PROC / str(pid) / "oom_score_adj").write_text("0", encoding="ascii")


async def finished(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child of ours without polling; returns its exit code, negative for a signal."""
    if process.returncode is not None:
        return process.returncode
    # A child stays a zombie, and its PID its own, until poll() reaps it: no start time is needed here.
    descriptor = os.pidfd_open(process.pid)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.wait()
