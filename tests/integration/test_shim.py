"""The shim, as a process: one start, ever; every exit told; nothing of it needed once it is gone."""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from azaion.layout import AttemptFolder
from supervisor import processes
from supervisor.jobs import evidence
from supervisor.jobs.launchers import shim_path
from supervisor.processes import Identity
from tests.shims import NONCE, attempt, read, start
from tests.waiting import until


def run(folder: AttemptFolder, failpoints: str = "") -> int:
    return start(folder, failpoints).wait(timeout=20)


def child_of(folder: AttemptFolder) -> Identity:
    state = read(folder.state)["child"]
    return Identity(state["pid"], state["start"])


@pytest.mark.parametrize(
    ("script", "rc", "killer"),
    [("exit 0", 0, None), ("exit 7", 7, None), ("kill -SEGV $$", None, 11), ("kill -KILL $$", None, 9)],
)
def test_tells_how_the_run_ended(tmp_path: Path, script: str, rc: int | None, killer: int | None) -> None:
    folder = attempt(tmp_path / "1", ["sh", "-c", f"echo out; echo err >&2; {script}"])
    assert run(folder) == 0
    told = read(folder.exit)
    assert (told["rc"], told["signal"], told["nonce"], told["oom"]) == (rc, killer, NONCE, False)
    assert folder.log.read_text() == "out\nerr\n"


def test_state_is_there_before_the_child_runs(tmp_path: Path) -> None:
    folder = attempt(tmp_path / "1", ["sh", "-c", "cp state.json seen.json; echo $$ >> seen.json"])
    assert run(folder) == 0
    state, pid = (folder.path / "seen.json").read_text().splitlines()
    assert json.loads(state)["child"]["pid"] == int(pid)


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    folder = attempt(tmp_path / "1", ["no-such-program"])
    assert run(folder) == 0
    told = read(folder.exit)
    assert told["rc"] == 127
    assert "no-such-program" in told["error"]


@pytest.mark.parametrize("name", ["state.json", "exit.json", "request.json"])
def test_a_folder_serves_one_start_ever(tmp_path: Path, name: str) -> None:
    folder = attempt(tmp_path / "1", ["touch", "ran"])
    (folder.path / name).write_text("{}")
    assert run(folder) == 73
    assert not (folder.path / "ran").exists()


def test_ten_shims_at_once_start_one_run(tmp_path: Path) -> None:
    folder = attempt(tmp_path / "1", ["sh", "-c", "echo x >> ran; sleep 0.3"])
    shims = [start(folder) for _ in range(10)]
    assert sorted(shim.wait(timeout=20) for shim in shims) == [0] + [73] * 9
    assert (folder.path / "ran").read_text() == "x\n"


@pytest.mark.parametrize("spec", ["", "[]", "{}", '{"protocol": 2}', "{" * 100_000])
def test_an_unreadable_spec_starts_nothing(tmp_path: Path, spec: str) -> None:
    folder = attempt(tmp_path / "1", ["true"])
    folder.spec.write_text(spec)
    assert run(folder) == 1
    assert not folder.state.exists()
    assert "nothing was started" in folder.log.read_text()


def test_a_fenced_folder_starts_nothing(tmp_path: Path) -> None:
    folder = attempt(tmp_path / "1", ["touch", "ran"])
    assert evidence.fence(folder, NONCE)
    assert run(folder) == 73
    assert not (folder.path / "ran").exists()


def test_a_shim_stopped_before_its_lock_is_fenced_out(tmp_path: Path) -> None:
    folder = attempt(tmp_path / "1", ["touch", "ran"])
    shim = start(folder, "shim.begun=1:stop")
    until(lambda: os.waitpid(shim.pid, os.WUNTRACED | os.WNOHANG)[0], "the shim stops")
    assert evidence.fence(folder, NONCE)
    shim.send_signal(signal.SIGCONT)
    assert shim.wait(timeout=20) == 73
    assert not (folder.path / "ran").exists()


def test_a_shim_stopped_with_its_lock_cannot_be_fenced(tmp_path: Path) -> None:
    folder = attempt(tmp_path / "1", ["touch", "ran"])
    shim = start(folder, "shim.locked=1:stop")
    until(lambda: os.waitpid(shim.pid, os.WUNTRACED | os.WNOHANG)[0], "the shim stops")
    assert not evidence.fence(folder, NONCE)
    assert processes.lock_holder(folder.lock) == shim.pid
    shim.send_signal(signal.SIGCONT)
    assert shim.wait(timeout=20) == 0
    assert (folder.path / "ran").exists()


@pytest.mark.parametrize("step", ["shim.spawned", "shim.recorded"])
def test_killed_before_the_gate_opens_nothing_runs(tmp_path: Path, step: str) -> None:
    folder = attempt(tmp_path / "1", ["touch", "ran"])
    assert run(folder, f"{step}=1:kill") == -signal.SIGKILL
    # The lock is inherited, so a free lock means that the child has gone too.
    until(lambda: not evidence.held(folder), "the child at the gate leaves")
    assert not (folder.path / "ran").exists()


@pytest.mark.parametrize("step", ["shim.started", "shim.reaped"])
def test_killed_between_start_and_record_the_run_happened_once_and_counts_as_lost(tmp_path: Path, step: str) -> None:
    folder = attempt(tmp_path / "1", ["sh", "-c", "echo x >> ran"])
    assert run(folder, f"{step}=1:kill") == -signal.SIGKILL
    until(lambda: not evidence.held(folder), "the run ends")
    assert (folder.path / "ran").read_text() == "x\n"
    assert not folder.exit.exists()
    seen = evidence.gather(folder, NONCE, processes.boot_id())
    assert evidence.judge(seen) is evidence.Verdict.LOST
    # Another start is not to be had from this folder.
    assert run(folder) == 73
    assert (folder.path / "ran").read_text() == "x\n"


def test_killed_later_the_run_goes_on_and_keeps_the_lock(tmp_path: Path) -> None:
    folder = attempt(tmp_path / "1", ["sh", "-c", "touch begun; read line < fifo; touch ran"])
    os.mkfifo(folder.path / "fifo")
    shim = start(folder)
    until((folder.path / "begun").exists, "the run has begun")
    child = child_of(folder)
    shim.kill()
    shim.wait()
    assert processes.alive(child)
    assert evidence.held(folder)
    (folder.path / "fifo").write_text("go\n")
    until(lambda: not processes.alive(child), "the run ends")
    assert (folder.path / "ran").exists()
    assert not folder.exit.exists()


def test_term_reaches_the_leader_alone(tmp_path: Path) -> None:
    script = "sh -c 'trap \"touch child-termed\" TERM; sleep 0.5' & trap 'touch termed; wait; exit 75' TERM; wait; wait"
    folder = attempt(tmp_path / "1", ["sh", "-c", f"touch ready; {script}"])
    shim = start(folder)
    until((folder.path / "ready").exists, "the run is ready")
    time.sleep(0.1)  # sh sets its trap after it has said that it is ready
    shim.terminate()
    assert shim.wait(timeout=20) == 0
    told = read(folder.exit)
    assert (told["rc"], told["stop_requested"], told["killed"]) == (75, "shutdown", False)
    assert (folder.path / "termed").exists()
    assert not (folder.path / "child-termed").exists()


def test_what_its_starter_ignores_it_and_the_run_do_not(tmp_path: Path) -> None:
    """An ignored SIGCHLD would leave no exit status, an ignored SIGTERM could not stop the run."""
    folder = attempt(tmp_path / "1", ["sh", "-c", "kill -TERM $$; echo ignored"])

    def ignore() -> None:
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    shim = subprocess.Popen([sys.executable, "-I", "-S", shim_path(), folder.path], preexec_fn=ignore)  # noqa: PLW1509
    assert shim.wait(timeout=20) == 0
    assert read(folder.exit)["signal"] == signal.SIGTERM


def test_a_leader_that_ends_before_its_shim_hears_of_the_shutdown(tmp_path: Path) -> None:
    """A machine that goes down asks all at once: the leader may be gone when the shim looks at its own signal."""
    folder = attempt(tmp_path / "1", ["sleep", "1000"])
    shim = start(folder)
    until(folder.state.exists, "the start is recorded")
    child = child_of(folder)
    until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n", "the run has begun")
    shim.send_signal(signal.SIGSTOP)
    processes.send(child, signal.SIGTERM)
    until(lambda: not processes.alive(child), "the leader ends")
    # The signals that wait for the shim are taken in the order of their numbers; SIGHUP wakes it first.
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGCONT):
        shim.send_signal(number)
    assert shim.wait(timeout=20) == 0
    told = read(folder.exit)
    assert (told["signal"], told["stop_requested"]) == (signal.SIGTERM, "shutdown")


def test_cancel_kills_the_group_at_the_end_of_the_grace(tmp_path: Path) -> None:
    folder = attempt(tmp_path / "1", ["sh", "-c", "trap '' TERM; sleep 1000 & echo $! > pid; touch ready; wait"])
    shim = start(folder)
    until((folder.path / "ready").exists, "the run is ready")
    folder.request.write_text('{"intent": "cancel", "grace_s": 0.2}')
    shim.terminate()
    assert shim.wait(timeout=20) == 0
    told = read(folder.exit)
    assert (told["signal"], told["stop_requested"], told["killed"], told["oom"]) == (9, "cancel", True, False)
    grandchild = int((folder.path / "pid").read_text())
    until(lambda: processes.identify(grandchild) is None, "the group is gone")


def test_what_the_leader_leaves_behind_is_killed(tmp_path: Path) -> None:
    folder = attempt(tmp_path / "1", ["sh", "-c", "sleep 1000 & echo $! > pid"])
    assert run(folder) == 0
    assert read(folder.exit)["rc"] == 0
    grandchild = int((folder.path / "pid").read_text())
    until(lambda: processes.identify(grandchild) is None, "the group is gone")


async def test_what_escapes_the_group_is_found_by_its_nonce(tmp_path: Path) -> None:
    folder = attempt(tmp_path / "1", ["sh", "-c", "setsid sleep 1000 & echo $! > pid; sleep 0.2"])
    assert run(folder) == 0
    escaped = processes.identify(int((folder.path / "pid").read_text()))
    assert escaped is not None
    assert processes.carriers(NONCE) == [escaped]
    assert await processes.clear(NONCE) == 1
    assert not processes.alive(escaped)


def test_a_full_disk_cannot_lose_the_exit(tmp_path: Path) -> None:
    """With no byte left to write in any new file, the space set aside beforehand still takes exit.json."""
    folder = attempt(tmp_path / "1", ["sh", "-c", "sleep 0.3; exit 5"])

    def limit() -> None:
        # Files may not grow past what was set aside: a stand-in for a disk without room.
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    shim = subprocess.Popen([sys.executable, "-I", "-S", shim_path(), folder.path], preexec_fn=limit)  # noqa: PLW1509
    assert shim.wait(timeout=20) == 0
    assert read(folder.exit)["rc"] == 5


def test_no_space_to_set_aside_starts_nothing(tmp_path: Path) -> None:
    folder = attempt(tmp_path / "1", ["touch", "ran"])

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    shim = subprocess.Popen([sys.executable, "-I", "-S", shim_path(), folder.path], preexec_fn=limit)  # noqa: PLW1509
    assert shim.wait(timeout=20) != 0
    assert not (folder.path / "ran").exists()
    assert not folder.state.exists()


def test_detached_it_is_nobodys_child(tmp_path: Path) -> None:
    folder = attempt(tmp_path / "1", ["sleep", "0.5"])
    begun = subprocess.run([sys.executable, "-I", "-S", shim_path(), "--detach", folder.path], timeout=20, check=False)
    assert begun.returncode == 0
    until(folder.state.exists, "the start is recorded")
    state = read(folder.state)
    assert os.getsid(state["shim"]["pid"]) == state["shim"]["pid"]
    assert os.getsid(state["child"]["pid"]) == state["child"]["pid"]
    until(folder.exit.exists, "the end is recorded")


def test_names_and_numbers_agree_with_the_daemons(tmp_path: Path) -> None:
    source = shim_path().read_text(encoding="utf-8")
    folder = AttemptFolder(path=tmp_path)
    for path in (folder.lock, folder.spec, folder.request, folder.state, folder.exit, folder.log):
        assert f'"{path.name}"' in source
    own = processes.identify(os.getpid())
    assert own is not None
    lock = tmp_path / "lock"
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert processes.lock_holder(lock) == own.pid
