"""The order of evidence, as a table, and what a folder may hold against us."""

import errno
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from azaion import files
from supervisor import processes
from supervisor.jobs import evidence as looks
from supervisor.jobs.evidence import Evidence, Request, ShimState, Verdict, judge
from supervisor.jobs.model import Measure
from supervisor.jobs.outcome import Ending, Source
from supervisor.processes import Identity
from tests.shims import NONCE, attempt

STATE = ShimState(
    nonce=NONCE,
    boot_id="here",
    shim=looks._Process(pid=1, start=1),
    child=looks._Process(pid=2, start=2),
    started=0.0,
)
NOTHING = Evidence(
    exit=None,
    result=None,
    state=None,
    request=None,
    last_sign=None,
    same_boot=False,
    shim_alive=False,
    child_alive=False,
    lock_held=False,
    something_started=False,
)
EXIT = looks._Exit(nonce=NONCE, rc=0)
RESULT = looks._Result(nonce=NONCE, exit_code=0)
RUNNING = replace(NOTHING, state=STATE, same_boot=True, shim_alive=True, child_alive=True, lock_held=True)


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (replace(RUNNING, exit=EXIT, result=RESULT), Verdict.TAKE_EXIT),
        (replace(NOTHING, exit=EXIT), Verdict.TAKE_EXIT),
        (replace(NOTHING, something_started=True), Verdict.LOST),
        (replace(NOTHING, something_started=True, lock_held=True), Verdict.WAIT_FOR_LOCK),
        (replace(NOTHING, state=STATE, result=RESULT), Verdict.TAKE_RESULT),
        (replace(NOTHING, state=STATE, same_boot=True, result=RESULT), Verdict.TAKE_RESULT),
        (replace(RUNNING, result=RESULT), Verdict.WATCH_SHIM),
        (replace(RUNNING, result=RESULT, shim_alive=False), Verdict.WATCH_CHILD),
        (replace(NOTHING, state=STATE), Verdict.LOST_REBOOT),
        (RUNNING, Verdict.WATCH_SHIM),
        (replace(RUNNING, child_alive=False), Verdict.WATCH_SHIM),
        (replace(RUNNING, shim_alive=False), Verdict.WATCH_CHILD),
        (replace(RUNNING, shim_alive=False, child_alive=False), Verdict.LOST),
        (replace(NOTHING, lock_held=True), Verdict.WAIT_FOR_LOCK),
        (NOTHING, Verdict.FENCE),
    ],
)
def test_the_order_of_evidence(evidence: Evidence, verdict: Verdict) -> None:
    assert judge(evidence) is verdict


def test_a_decoy_with_our_pid_is_not_our_process(tmp_path: Path) -> None:
    me = processes.identify(os.getpid())
    assert me is not None
    folder = attempt(tmp_path, ["true"])
    decoy = {"pid": me.pid, "start": me.start + 1}
    state = {"nonce": NONCE, "boot_id": "here", "shim": decoy, "child": decoy, "started": 0.0}
    folder.state.write_text(json.dumps(state))
    evidence = looks.gather(folder, NONCE, "here")
    assert (evidence.shim_alive, evidence.child_alive) == (False, False)
    assert judge(evidence) is Verdict.LOST


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"nonce": 5}', b"\xff\xfe", b'{"nonce": "%s"}' % NONCE.encode(), b"[" * 100_000],
    ids=range(8),
)
def test_an_unreadable_file_counts_as_absent(tmp_path: Path, content: bytes) -> None:
    folder = attempt(tmp_path, ["true"])
    folder.result.write_bytes(content)
    assert judge(looks.gather(folder, NONCE, "here")) is Verdict.FENCE
    # But a start that cannot be read is a start.
    folder.state.write_bytes(content)
    assert judge(looks.gather(folder, NONCE, "here")) is Verdict.LOST


@pytest.mark.parametrize("name", ["exit.json", "result.json", "state.json", "request.json"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_a_file_that_cannot_be_opened_now_is_not_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    folder = attempt(tmp_path, ["true"])
    folder.exit.write_text(json.dumps({"nonce": NONCE, "rc": 0}))
    read_small = files.read_small

    def short(path: Path, *, limit: int) -> bytes:
        if path.name == name:
            raise OSError(number, os.strerror(number))
        return read_small(path, limit=limit)

    monkeypatch.setattr(files, "read_small", short)
    with pytest.raises(OSError, match=os.strerror(number)):
        looks.gather(folder, NONCE, "here")


def test_who_holds_a_lock_that_may_not_be_opened_the_kernel_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = attempt(tmp_path, ["true"])
    locked = files.locked

    def refused(path: Path, **_wait: bool) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(files, "locked", refused)
    assert not looks.held(folder)
    with locked(folder.lock):
        assert looks.held(folder)
    assert not looks.held(folder)


def test_a_file_of_another_attempt_counts_as_absent(tmp_path: Path) -> None:
    folder = attempt(tmp_path, ["true"])
    folder.exit.write_text(json.dumps({"nonce": "6" * 32, "rc": 0}))
    assert looks.gather(folder, NONCE, "here").exit is None


def test_a_link_counts_as_absent(tmp_path: Path) -> None:
    folder = attempt(tmp_path / "1", ["true"])
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps({"nonce": NONCE, "rc": 0}))
    folder.exit.symlink_to(elsewhere)
    assert looks.gather(folder, NONCE, "here").exit is None


def test_a_pipe_in_place_of_a_file_blocks_nobody(tmp_path: Path) -> None:
    folder = attempt(tmp_path, ["true"])
    os.mkfifo(folder.exit)
    assert looks.gather(folder, NONCE, "here").exit is None


def test_a_finished_workers_word_counts_without_an_exit() -> None:
    word = looks._Result(nonce=NONCE, exit_code=0, message="done", verified_epoch=7, artifacts={"model": "m"})
    ending = looks.ending(replace(NOTHING, result=word), Verdict.TAKE_RESULT, 1, 3)
    assert ending == Ending(source=Source.RESULT, code=0, message="done", verified_epoch=7, artifacts={"model": "m"})


def test_where_a_run_that_was_killed_had_gone_on_its_epochs_tell() -> None:
    killed = replace(NOTHING, state=STATE)
    for first, last, resumed in ((0, 0, None), (1, 2, None), (4, 6, 3)):
        ending = looks.ending(killed, Verdict.LOST_REBOOT, first, last)
        assert (ending.resumed_from_epoch, ending.verified_epoch) == (resumed, last)


def test_a_signal_to_a_stranger_is_never_sent() -> None:
    me = processes.identify(os.getpid())
    assert me is not None
    assert not processes.send(Identity(me.pid, me.start - 1), signal.SIGKILL)
    assert not processes.alive(Identity(2**22 + 1, 1))


HANGS = Request(intent="hang", grace_s=10.0, measure=Measure.HANG, reason="no progress for 15 min")


def test_the_measure_that_the_daemon_took_is_why_it_ended() -> None:
    killed = replace(NOTHING, exit=looks._Exit(nonce=NONCE, signal=9, ran_s=5.0), request=HANGS)
    ending = looks.ending(killed, Verdict.TAKE_EXIT, 1, 2)
    assert (ending.measure, ending.message, ending.ran_s) == (Measure.HANG, "no progress for 15 min", 5.0)
    # Its shim was killed as well.
    assert looks.ending(replace(NOTHING, state=STATE, request=HANGS), Verdict.LOST, 1, 2).measure is Measure.HANG


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (replace(NOTHING, exit=EXIT, request=HANGS), Verdict.TAKE_EXIT),
        (replace(NOTHING, result=RESULT, request=HANGS), Verdict.TAKE_RESULT),
    ],
)
def test_a_run_that_has_succeeded_all_the_same_was_not_ended(evidence: Evidence, verdict: Verdict) -> None:
    assert looks.ending(evidence, verdict, 1, 2).measure is None


def test_how_long_a_run_has_lasted() -> None:
    state = replace(NOTHING, state=ShimState("n", "here", STATE.shim, STATE.child, started=100.0))
    for last_sign, ran_s in ((None, 0.0), (160.0, 60.0), (50.0, 0.0)):
        ending = looks.ending(replace(state, last_sign=last_sign), Verdict.LOST, 0, 0)
        assert ending.ran_s == ran_s
    told = replace(state, last_sign=160.0, exit=looks._Exit(nonce=NONCE, rc=1, ran_s=7.0))
    assert looks.ending(told, Verdict.TAKE_EXIT, 0, 0).ran_s == 7.0


@pytest.mark.parametrize("content", [b"", b"{}", b'{"intent": "hang", "measure": "no"}', b"[" * 100_000, b"\xff"])
def test_an_unreadable_request_counts_as_absent(tmp_path: Path, content: bytes) -> None:
    folder = attempt(tmp_path, ["true"])
    folder.request.write_bytes(content)
    assert looks.request_of(folder) is None
