"""The daemon killed at every step and at random, shims stopped and killed: each acknowledged job runs exactly once."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor import processes
from supervisor.control.client import ClientError, UnreachableError
from tests.installations import Installation
from tests.shims import read
from tests.tallies import tally
from tests.waiting import until

#: How many random kills; `make soak` sets many more.
KILLS = int(os.environ.get("AZAION_KILLS", "30"))

STEPS = [
    "store.submit.before-commit",
    "store.submit.committed",
    "store.reserve.before-commit",
    "store.reserve.committed",
    "store.started.committed",
    "store.finish.before-commit",
    "store.finish.committed",
    # The first durable writes of a start: config.yaml aside, the attempt's spec.json.
    "files.replace.rename",
]


def ledger(server: Installation) -> list[str]:
    """What the jobs themselves have written: one line a run, outside of the product."""
    path = server.folder / "ledger"
    return path.read_text().split() if path.exists() else []


def submit(server: Installation, key: str, pause: float = 0.0) -> bool:
    """File a job that writes its key into the ledger; returns whether that was acknowledged."""
    script = f"echo {key} >> ledger; sleep {pause:.3f}; exit {int(key.removeprefix('k')) % 7}"
    try:
        server.submit(script, key=key)
    except ClientError:
        return False
    return True


def judge(server: Installation, acknowledged: set[str], asked: set[str]) -> None:
    """Every acknowledged job ran exactly once and its exit status is known; no other ran more than once."""
    jobs = {job["key"]: job for job in server.client.get("/v1/jobs")}
    for key in acknowledged:
        server.wait(jobs[key]["id"])
    for job in server.client.get("/v1/jobs"):
        server.wait(job["id"])
    lines = ledger(server)
    assert len(lines) == len(set(lines)), f"run twice: {sorted(key for key in lines if lines.count(key) > 1)}"
    assert acknowledged <= set(lines) <= asked
    for job in server.client.get("/v1/jobs"):
        code = int(job["key"].removeprefix("k")) % 7
        whole = server.job(job["id"])
        assert whole["state"] == ("failed" if code else "succeeded"), whole
        assert [a["exit_code"] for a in whole["attempts"] if a["cause"] != "never-started"] == [code], whole


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_killed_at_a_step(server: Installation, step: str, nth: int) -> None:
    daemon = server.launch(f"{step}={nth}:kill")
    until(lambda: server.answers() or daemon.poll() is not None, "the daemon answers or dies")
    asked = {f"k{number}" for number in range(3)}
    acknowledged = {key for key in sorted(asked) if submit(server, key)}
    until(lambda: daemon.poll() is not None, f"the daemon reaches {step}")
    assert daemon.returncode == -signal.SIGKILL
    server.start()
    judge(server, acknowledged, asked)


@pytest.mark.timeout(300 + 3 * KILLS)
def test_random_kills(server: Installation) -> None:
    """SIGKILL around submits, starts and ends: AZAION_SEED replays a failure, AZAION_KILLS sets how many."""
    seed = int(os.environ.get("AZAION_SEED", time.time_ns() % 1_000_000))
    print(f"AZAION_SEED={seed}")
    dice = random.Random(seed)
    asked: set[str] = set()
    acknowledged: set[str] = set()
    for _ in range(KILLS):
        server.start()
        for _ in range(dice.randint(0, 3)):
            key = f"k{len(asked)}"
            asked.add(key)
            if submit(server, key, dice.choice((0.0, 0.0, 0.05, 0.5))):
                acknowledged.add(key)
        time.sleep(dice.choice((0.0, dice.uniform(0, 0.03), dice.uniform(0, 0.15))))
        server.kill()
    server.start()
    judge(server, acknowledged, asked)
    note = f"{len(acknowledged)} acknowledged of {len(asked)} submits, {len(ledger(server))} runs"
    tally("SIGKILL of the daemon", KILLS, "every acknowledged job ran, and none twice", note)


def test_killed_between_launch_and_anything_else(server: Installation) -> None:
    """The shim is stopped between lock and spawn, the daemon killed and restarted, the shim continued: one start."""
    server.launch("shim.locked=1:stop")
    until(server.answers, "the daemon answers")
    assert submit(server, "k1")
    lock = until(lambda: next(iter(server.layout.jobs.glob("*/*/lock")), None), "the shim has been launched")
    holder = until(lambda: processes.lock_holder(lock), "the shim has its lock")
    server.kill()
    server.start()
    # The lease is kept for as long as somebody holds the lock.
    time.sleep(1.0)
    assert server.job(1)["state"] == "starting"
    assert len(server.job(1)["attempts"]) == 1
    os.kill(holder, signal.SIGCONT)
    judge(server, {"k1"}, {"k1"})
    assert len(server.job(1)["attempts"]) == 1


def test_a_shim_that_wakes_up_too_late_starts_nothing(server: Installation) -> None:
    """Stopped before its lock: the next daemon fences the folder and starts another attempt; the late shim leaves."""
    server.launch("shim.begun=1:stop")
    until(server.answers, "the daemon answers")
    assert submit(server, "k1")
    attempt = until(lambda: next(iter(server.layout.jobs.glob("*/1/spec.json")), None), "the spec is there").parent

    def stopped() -> int | None:
        for folder in Path("/proc").iterdir():
            try:
                if (folder / "cwd").readlink() == attempt and b"T (stopped)" in (folder / "status").read_bytes():
                    return int(folder.name)
            except (OSError, ValueError):
                continue
        return None

    late = until(stopped, "the shim has stopped")
    server.kill()
    server.start()
    judge(server, {"k1"}, {"k1"})
    assert [a["cause"] for a in server.job(1)["attempts"]] == ["never-started", "exit:1"]
    os.kill(late, signal.SIGCONT)
    until(lambda: processes.identify(late) is None, "the late shim leaves")
    assert ledger(server) == ["k1"]


def test_a_killed_shim_of_a_command_is_told_and_never_run_again(server: Installation) -> None:
    server.start()
    number = server.submit("echo k0 >> ledger; sleep 1; echo done >> ledger")
    server.wait(number, "running")
    state = read(server.attempt(number).state)
    os.kill(state["shim"]["pid"], signal.SIGKILL)
    job = server.wait(number)
    assert (job["state"], job["cause"]) == ("failed", "lost:shim")
    assert "not known" in job["reason"]
    # The run itself was left to end.
    assert ledger(server) == ["k0", "done"]
    assert len(job["attempts"]) == 1


def test_a_run_that_ended_while_the_daemon_was_away(server: Installation) -> None:
    server.start()
    number = server.submit("sleep 0.3; exit 6")
    server.wait(number, "running")
    server.kill()
    until(server.attempt(number).exit.exists, "the run ends")
    server.start()
    job = server.wait(number)
    assert (job["state"], job["attempts"][0]["exit_code"]) == ("failed", 6)


def test_an_intent_outlives_the_daemon(server: Installation) -> None:
    """Killed right after the commit, before any signal: the next daemon asks the run to end."""
    server.start("store.request.committed=1:kill")
    number = server.submit("trap 'echo termed >> ledger; exit 0' TERM; touch ready; while :; do sleep 0.05; done")
    until((server.folder / "ready").exists, "the run is ready")
    with pytest.raises(UnreachableError):
        server.client.post(f"/v1/jobs/{number}/stop")
    assert not server.attempt(number).request.exists()
    assert server.daemon is not None
    server.daemon.wait()
    server.start()
    assert server.wait(number)["state"] == "succeeded"
    assert ledger(server) == ["termed"]
    assert read(server.attempt(number).request)["intent"] == "stop"


#: Ends well when it finds the file, and writes down each time that it is asked to end.
LISTENS = "trap 'echo termed >> ledger' TERM; touch ready; while test ! -e go; do sleep 0.05; done"


def test_what_was_not_committed_was_not_asked(server: Installation) -> None:
    """Killed right before the commit: nothing has been asked, and the run has heard nothing."""
    server.start("store.request.before-commit=1:kill")
    number = server.submit(LISTENS)
    until((server.folder / "ready").exists, "the run is ready")
    with pytest.raises(UnreachableError):
        server.client.post(f"/v1/jobs/{number}/stop")
    assert server.daemon is not None
    server.daemon.wait()
    server.start()
    (server.folder / "go").touch()
    assert server.wait(number)["state"] == "succeeded"
    assert ledger(server) == []
    assert read(server.attempt(number).exit)["stop_requested"] is None


def test_a_daemon_that_is_stopped_leaves_its_runs_alone(server: Installation) -> None:
    server.start()
    number = server.submit(LISTENS)
    until((server.folder / "ready").exists, "the run is ready")
    assert server.wait(number, "running")
    assert server.stop() == 0
    server.start()
    (server.folder / "go").touch()
    job = server.wait(number)
    assert (job["state"], len(job["attempts"])) == ("succeeded", 1)
    assert ledger(server) == []


def test_the_grace_ends_though_the_shim_is_gone(server: Installation) -> None:
    server.start()
    number = server.submit("trap '' TERM; touch ready; while :; do sleep 0.05; done")
    until((server.folder / "ready").exists, "the run is ready")
    os.kill(read(server.attempt(number).state)["shim"]["pid"], signal.SIGKILL)
    server.client.post(f"/v1/jobs/{number}/cancel", query={"now": 1})
    assert server.wait(number)["state"] == "cancelled"


def test_another_boot_means_lost_and_run_again(server: Installation) -> None:
    """Power was lost: nothing lives, the folder tells of another boot."""
    server.start()
    number = server.submit("echo k >> ledger; test $(wc -l < ledger) -gt 1 || sleep 1000")
    server.wait(number, "running")
    until(lambda: ledger(server) == ["k"], "the run has begun")
    state = server.lose_power(number)
    folder = server.attempt(number)
    folder.state.write_text(json.dumps({**state, "boot_id": "another"}))
    server.start()
    job = server.wait(number)
    assert [a["cause"] for a in job["attempts"]] == ["lost:reboot", None]
    assert job["state"] == "succeeded"


def test_a_decoy_with_a_reused_pid_lives(server: Installation) -> None:
    """The attempt's PIDs now belong to somebody else, who must not be waited for, and never be killed."""
    server.start()
    number = server.submit("sleep 1000")
    server.wait(number, "running")
    state = server.lose_power(number)
    folder = server.attempt(number)
    me = os.getpid()
    folder.state.write_text(
        json.dumps({**state, "shim": {**state["shim"], "pid": me}, "child": {**state["child"], "pid": me}})
    )
    server.start()
    job = server.wait(number)
    assert (job["state"], job["cause"]) == ("failed", "lost:shim")


@pytest.mark.parametrize("shim", [True, False], ids=["with its shim", "without its shim"])
def test_a_restored_database_does_not_take_anothers_device(server: Installation, *, shim: bool) -> None:
    """The database is restored from before a run that still goes on: its device is not handed out a second time."""
    server.start()
    assert server.stop() == 0
    shutil.copy(server.layout.database, server.folder / "backup.sqlite")
    server.start()
    first = server.submit("touch running; while test -e running; do sleep 0.05; done", devices=1)
    until((server.folder / "running").exists, "the run has begun")
    server.kill()
    if not shim:
        os.kill(read(server.attempt(first).state)["shim"]["pid"], signal.SIGKILL)
    for name in server.layout.state.glob("jobs.sqlite*"):
        name.unlink()
    shutil.copy(server.folder / "backup.sqlite", server.layout.database)
    server.start()
    second = server.submit("echo second >> ledger", devices=1)
    assert second == first
    time.sleep(0.5)
    job = server.job(second)
    assert job["state"] == "queued"
    assert "an unknown run" in job["reason"]
    (server.folder / "running").unlink()
    assert server.wait(second)["state"] == "succeeded"


def muted(server: Installation) -> bool:
    """Whether the check of the consumer is; it is looked at soon after the start."""
    found = until(lambda: server.client.get("/v1/health")["findings"], "something is looked at")
    return any(each["mute"] for each in found if each["check"] == "consumer")


#: What people change beside filing and ending jobs: the command, its event, and where the change is seen.
CHANGES: dict[str, tuple[str, str, Callable[[Installation], object]]] = {
    "hold": ("hold 1", "held", lambda server: server.job(1)["state"]),
    "release": ("release 2", "released", lambda server: server.job(2)["state"]),
    "priority": ("priority 1 7", "priority", lambda server: server.job(1)["priority"]),
    "maintenance": ("maintenance on", "maintenance-on", lambda server: server.json("status")["maintenance"]),
    "mute": ("health mute consumer --for 1h", "health-muted", muted),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_asked_is_done_wholly_or_not_at_all(server: Installation, name: str) -> None:
    """Killed before its commit, nothing has been asked; killed after it, it is done, and in the events, once."""
    command, event, look = CHANGES[name]
    server.start()
    for held in (False, True):
        server.submit("true", begins=4e9, hold=held)
    before = look(server)
    for step, done in (("before-commit", False), ("committed", True)):
        server.stop()
        server.start(f"store.{name}.{step}=1:kill")
        assert server.ctl(*command.split()).returncode == 4, "nobody has answered"
        assert server.daemon is not None
        assert server.daemon.wait() == -signal.SIGKILL
        server.start()
        assert (look(server) != before) is done
        assert len(server.client.get("/v1/events", {"type": event})) == done
