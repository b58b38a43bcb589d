"""What an attempt's folder and the machine tell of it, and what follows: facts first, then a pure verdict.

The situations that a daemon can meet when it looks at an attempt, in the order in which they are tried:

1. ``exit.json``: the shim has the last word.
2. ``result.json`` and nobody of the attempt lives: the worker's own last word, also when power was lost before
   ``exit.json`` (else a finished, stripped checkpoint would be "resumed").
3. another boot id: lost with the machine.
4. the shim lives: wait for it.
5. the shim is gone, the leader lives: wait for the leader.
6. both are gone without a word: lost; who is left of it and carries the nonce is killed before anything follows.
7. no ``state.json``, the lock is held: a shim is on its way or was stopped; wait.
8. no ``state.json``, the lock is free: fence the folder; only then may another attempt start.

A ``state.json`` that cannot be read, or is another attempt's, says that something was started here: with the lock free,
the attempt is lost.
"""

import asyncio
import errno
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec

from azaion import files
from azaion.layout import AttemptFolder
from supervisor import processes
from supervisor.errors import ProcessError
from supervisor.jobs.model import Measure
from supervisor.jobs.outcome import Ending, Source
from supervisor.processes import Identity

_Fact = TypeVar("_Fact", bound=msgspec.Struct)

# The run can write these files too, and what is taken from them must fit into the database and into a date.
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_Code = Annotated[int, msgspec.Meta(ge=-1024, le=1024)]
_Time = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
#: A last word is a few lines; the limit is there for whoever writes gigabytes.
_MAX_BYTES: Final = 1 << 20
#: What a file cannot be opened for that may be as it should.
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
#: A shim that has said its last word has nothing left to do but to end.
_LAST_WORD_S: Final = 5.0


class _Process(msgspec.Struct):
    pid: Annotated[int, msgspec.Meta(ge=1, le=1 << 30)]
    start: _Count


class ShimState(msgspec.Struct):
    """``state.json``, as the shim writes it."""

    nonce: str
    boot_id: str
    shim: _Process
    child: _Process
    started: _Time
    monotonic: _Time | None = None
    enforced: dict[str, Annotated[str, msgspec.Meta(max_length=200)]] = {}


class Request(msgspec.Struct):
    """``request.json``, as the daemon writes it: what is asked of a run, and whether the daemon itself is behind it."""

    intent: str
    grace_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    measure: Measure | None = None
    reason: str = ""


class _Exit(msgspec.Struct):
    nonce: str
    rc: _Code | None = None
    signal: _Code | None = None
    oom: bool = False
    memory: _Count | None = None
    ran_s: _Time | None = None
    stop_requested: str | None = None
    error: str = ""
    never_started: bool = False


class _Result(msgspec.Struct):
    nonce: str
    exit_code: _Code
    message: str = ""
    resumed_from_epoch: _Count | None = None
    verified_epoch: _Count | None = None
    batch: _Count | None = None
    artifacts: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What there is to see of an attempt. A file that is unreadable, or of another attempt, counts as absent.

    Attributes:
        last_sign: the wall-clock time at which the run has last written something; None if it never has.
    """

    exit: _Exit | None
    result: _Result | None
    state: ShimState | None
    request: Request | None
    last_sign: float | None
    same_boot: bool
    shim_alive: bool
    child_alive: bool
    lock_held: bool
    something_started: bool


class Verdict(Enum):
    """What to do about an attempt."""

    TAKE_EXIT = auto()
    TAKE_RESULT = auto()
    LOST_REBOOT = auto()
    LOST = auto()
    WATCH_SHIM = auto()
    WATCH_CHILD = auto()
    WAIT_FOR_LOCK = auto()
    FENCE = auto()


def judge(evidence: Evidence) -> Verdict:
    """Say what to do; see the module's text for the order."""
    living = evidence.same_boot and (evidence.shim_alive or evidence.child_alive)
    if evidence.exit is not None:
        return Verdict.TAKE_EXIT
    if evidence.result is not None and not living:
        return Verdict.TAKE_RESULT
    if evidence.state is None:
        if evidence.lock_held:
            return Verdict.WAIT_FOR_LOCK
        return Verdict.LOST if evidence.something_started else Verdict.FENCE
    if not evidence.same_boot:
        return Verdict.LOST_REBOOT
    if evidence.shim_alive:
        return Verdict.WATCH_SHIM
    return Verdict.WATCH_CHILD if evidence.child_alive else Verdict.LOST


def shim_of(state: ShimState) -> Identity:
    """The attempt's shim."""
    return Identity(state.shim.pid, state.shim.start)


def child_of(state: ShimState) -> Identity:
    """The leader of the attempt's run."""
    return Identity(state.child.pid, state.child.start)


def gather(folder: AttemptFolder, nonce: str, boot_id: str) -> Evidence:
    """Look at an attempt.

    Raises:
        OSError: too many files are open, or the lock cannot be looked at; nobody knows anything then.
        ProcessError: its processes cannot be looked at.
    """
    # Each look comes before the one that it makes final: a lock that is free now was free before the state was read,
    # and a shim that is dead now cannot write exit.json after we have read it.
    lock_held = held(folder)
    something_started = folder.state.exists()
    state = _read(folder, "state", ShimState, nonce)
    same_boot = state is not None and state.boot_id == boot_id
    shim_alive = state is not None and same_boot and processes.alive(shim_of(state))
    child_alive = state is not None and same_boot and processes.alive(child_of(state))
    return Evidence(
        exit=_read(folder, "exit", _Exit, nonce),
        result=_read(folder, "result", _Result, nonce),
        state=state,
        request=request_of(folder),
        last_sign=_last_sign(folder),
        same_boot=same_boot,
        shim_alive=shim_alive,
        child_alive=child_alive,
        lock_held=lock_held,
        something_started=something_started,
    )


def fence(folder: AttemptFolder, nonce: str) -> bool:
    """Make sure that this folder can never start anything: take the lock and write ``exit.json`` in the shim's place.

    Returns whether that was done; if not, a shim is there after all.

    Raises:
        OSError: the disk is full or the like; nothing is fenced then.
    """
    try:
        with files.locked(folder.lock, wait=False):
            if folder.state.exists():
                return False
            files.write_json(folder.exit, {"nonce": nonce, "never_started": True})
            return True
    except BlockingIOError:
        return False


def ending(evidence: Evidence, verdict: Verdict, first_epoch: int, last_epoch: int) -> Ending:
    """How the attempt ended, for a verdict that says that it did.

    Args:
        evidence: what there is to see.
        verdict: one of ``TAKE_EXIT``, ``TAKE_RESULT``, ``LOST_REBOOT``, ``LOST``.
        first_epoch: the first that the attempt's own metrics tell of; 0 for none.
        last_epoch: the last of them.
    """
    last, word = evidence.exit, evidence.result
    told: dict[str, Any] = {
        "verified_epoch": last_epoch,
        # Of one that was killed before its last word the first epoch tells.
        "resumed_from_epoch": first_epoch - 1 if first_epoch > 1 else None,
        "ran_s": _ran_s(evidence),
    }
    if word is not None:
        told |= {
            "message": word.message,
            "resumed_from_epoch": word.resumed_from_epoch,
            "verified_epoch": last_epoch if word.verified_epoch is None else word.verified_epoch,
            "batch": word.batch,
            "artifacts": word.artifacts,
        }
    if evidence.request is not None and evidence.request.measure is not None and not _succeeded(evidence, verdict):
        told |= {"measure": evidence.request.measure, "message": evidence.request.reason}
    if verdict is Verdict.TAKE_EXIT and last is not None:
        if last.never_started:
            return Ending(source=Source.NEVER_STARTED)
        if last.error:
            told["message"] = last.error
        return Ending(
            source=Source.EXIT,
            code=last.rc,
            signal=last.signal,
            oom=last.oom,
            memory=last.memory,
            passed_on=last.stop_requested,
            **told,
        )
    if verdict is Verdict.TAKE_RESULT and word is not None:
        return Ending(source=Source.RESULT, code=word.exit_code, **told)
    return Ending(source=Source.REBOOT if verdict is Verdict.LOST_REBOOT else Source.LOST, **told)


def _succeeded(evidence: Evidence, verdict: Verdict) -> bool:
    if verdict is Verdict.TAKE_EXIT and evidence.exit is not None:
        return evidence.exit.rc == 0
    return evidence.result is not None and evidence.result.exit_code == 0


def _ran_s(evidence: Evidence) -> float:
    """For how long the run has lasted. Where no shim tells, until its last sign of life, by the clock on the wall."""
    if evidence.exit is not None:
        return evidence.exit.ran_s or 0.0
    if evidence.state is None or evidence.last_sign is None:
        return 0.0
    return max(0.0, evidence.last_sign - evidence.state.started)


def _last_sign(folder: AttemptFolder) -> float | None:
    signs = []
    for path in (folder.result, folder.progress, folder.metrics, folder.log):
        with suppress(OSError):
            signs.append(path.lstat().st_mtime)
    return max(signs, default=None)


def request_of(folder: AttemptFolder) -> Request | None:
    """What has been asked of an attempt; None if nothing has, or it cannot be read.

    Raises:
        OSError: too many files are open; nobody knows then.
    """
    return _decoded(folder.request, Request)


def enforced(folder: AttemptFolder, nonce: str) -> Mapping[str, str]:
    """How each limit of an attempt is enforced, limit to words; empty before its start."""
    state = None
    with suppress(OSError):
        state = _read(folder, "state", ShimState, nonce)
    return {} if state is None else state.enforced


def held(folder: AttemptFolder) -> bool:
    """Whether somebody holds the lock of an attempt."""
    try:
        with files.locked(folder.lock, wait=False):
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except PermissionError:
        # Somebody has started it as another user, root say.
        return processes.lock_holder(folder.lock) is not None
    except OSError as error:
        # A link, a folder or a socket in its place is held by nobody; whether the run lives its PIDs tell.
        if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
            return False
        raise


async def clear(folder: AttemptFolder, nonce: str, shim: Identity | None = None) -> None:
    """Kill all that is left of an attempt that has ended: who carries its nonce, and who has inherited its lock.

    A process may have left the group of its attempt and overwritten its environment; the lock it cannot give away.

    Args:
        folder: the attempt.
        nonce: that of its spec.
        shim: it may be about to end, for it has said its last word.

    Raises:
        ProcessError: whoever holds the lock is hidden from us. What the attempt had is not free then.
    """
    if shim is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                await processes.gone(shim)
    await processes.clear(nonce)
    while held(folder):
        found = await asyncio.to_thread(processes.holders, folder.lock)
        # Retention tries locks, too, in a thread of ours.
        left = [process for process in found if process.pid != os.getpid()]
        if not left and not found and held(folder):
            raise ProcessError(
                f"a process that azaiond may not look at still holds {folder.lock}, so what its job had is not free; "
                f"find it as root and end it: fuser -v {folder.lock}"
            )
        for process in left:
            processes.send(process, signal.SIGKILL)
        await asyncio.gather(*(processes.gone(process) for process in left))


def _read(folder: AttemptFolder, name: str, kind: type[_Fact], nonce: str) -> _Fact | None:
    fact = _decoded(getattr(folder, name), kind)
    return fact if getattr(fact, "nonce", None) == nonce else None


def _decoded(path: Path, kind: type[_Fact]) -> _Fact | None:
    try:
        return msgspec.json.decode(files.read_small(path, limit=_MAX_BYTES), type=kind)
    except OSError as error:
        if error.errno in _SHORT:
            # It may well be there, and what it says decide whether something runs again.
            raise
        return None
    except (files.FileError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
