"""The daemon killed at every step of a service's start and end, and at random: a service never runs twice."""

import json
import os
import random
import signal
import time
from contextlib import suppress

import pytest

from supervisor import processes
from supervisor.control.client import ClientError
from tests.installations import Installation
from tests.services import declare, keeper, newest, record, shown, starts
from tests.shims import read
from tests.tallies import tally
from tests.waiting import until

KILLS = int(os.environ.get("AZAION_KILLS", "60")) // 4

STARTING = ["units.folder.made", "files.replace.rename", "units.spec.written", "units.launched", "units.recorded"]
ENDING = ["store.wish.committed", "units.request.written", "units.signalled", "units.cleared"]


def living(server: Installation, name: str) -> list[int]:
    """The PIDs that its starts have written and that still live."""
    return [int(pid) for pid in starts(server, name) if processes.identify(int(pid)) is not None]


def once(server: Installation, name: str) -> int:
    """It runs, once, and it was never started beside itself."""
    until(lambda: record(server, name)["state"] == "ready" and len(living(server, name)) == 1, f"{name} runs")
    assert "twice" not in starts(server, name)
    (pid,) = living(server, name)
    assert record(server, name)["pid"] == pid
    return pid


def dies_or_finds_it(server: Installation, step: str) -> None:
    """A daemon that is killed at this step, or else when it has found the service that an earlier one has started."""
    daemon = server.launch(f"{step}=1:kill")
    until(lambda: daemon.poll() is not None or living(server, "web"), "the daemon reaches the step, or has found it")
    server.kill()


@pytest.mark.parametrize("step", STARTING)
@pytest.mark.parametrize("again", [1, 3])
def test_killed_while_it_starts(server: Installation, step: str, again: int) -> None:
    """Several daemons in a row die at the same step; then one lives."""
    declare(server, web=keeper(server, "web"))
    for _ in range(again):
        dies_or_finds_it(server, step)
    server.start()
    pid = once(server, "web")
    server.kill()
    server.start()
    assert once(server, "web") == pid
    assert record(server, "web")["restarts"] == 0


@pytest.mark.parametrize("step", ENDING)
def test_killed_while_a_person_stops_it(server: Installation, step: str) -> None:
    declare(server, web=keeper(server, "web"))
    server.start()
    once(server, "web")
    server.kill()
    daemon = server.launch(f"{step}=1:kill")
    until(server.answers, "the daemon answers")
    shown(server, "web", "ready")
    with pytest.raises(ClientError):
        server.client.post("/v1/services/web/stop")
    assert daemon.wait(timeout=20) == -signal.SIGKILL
    server.start()
    # The wish was committed before anything was done about it.
    assert shown(server, "web", "stopped")["why"] == "stopped by root"
    assert living(server, "web") == []
    assert len(starts(server, "web")) == 1
    server.client.post("/v1/services/web/start")
    once(server, "web")


@pytest.mark.parametrize("step", [*ENDING[1:], "store.reserve.committed", "attempts.request.written"])
def test_killed_while_it_makes_way_for_a_job(server: Installation, step: str) -> None:
    """The job runs, and alone; the service comes back after it."""
    declare(server, model=keeper(server, "model", holds_gpu=True))
    server.start()
    once(server, "model")
    server.kill()
    daemon = server.launch(f"{step}=1:kill")
    until(server.answers, "the daemon answers")
    shown(server, "model", "ready")
    number = server.submit(
        "flock -n model.lock echo alone >> seen || echo shared >> seen; sleep 0.5", devices=1, key="k"
    )
    if step == "attempts.request.written":
        server.wait(number, "running")
        # The answer may be there before the step is reached.
        with suppress(ClientError):
            server.client.post(f"/v1/jobs/{number}/cancel")
    assert daemon.wait(timeout=20) == -signal.SIGKILL
    server.start()
    server.wait(number)
    once(server, "model")
    assert set((server.folder / "seen").read_text().split()) == {"alone"}
    assert len(starts(server, "model")) == 2


@pytest.mark.parametrize("step", ["shim.begun", "shim.locked", "shim.spawned"])
def test_a_shim_that_is_slow_is_not_started_beside(server: Installation, step: str) -> None:
    """Stopped at a step, the daemon killed: whoever wakes up first, one runs."""
    declare(server, web=keeper(server, "web"))
    server.launch(f"{step}=1:stop")
    until(server.layout.service("web").start(1).spec.exists, "it is being started")
    folder = server.layout.service("web").start(1)

    def stopped() -> int | None:
        for process in processes._PROC.iterdir():
            try:
                if (process / "cwd").readlink() == folder.path and b"T (stopped)" in (process / "status").read_bytes():
                    return int(process.name)
            except (OSError, ValueError):
                continue
        return None

    late = until(stopped, "the shim has stopped")
    server.kill()
    server.start()
    if step == "shim.begun":
        # It has not got its lock: the next daemon fences the folder, and starts another one.
        once(server, "web")
    os.kill(late, signal.SIGCONT)
    once(server, "web")
    assert len(starts(server, "web")) == 1


def test_its_shim_killed_it_goes_on_and_is_stopped_all_the_same(server: Installation) -> None:
    declare(server, web=keeper(server, "web"))
    server.start()
    pid = once(server, "web")
    os.kill(read(newest(server, "web").state)["shim"]["pid"], signal.SIGKILL)
    server.kill()
    server.start()
    assert once(server, "web") == pid
    server.client.post("/v1/services/web/stop")
    assert living(server, "web") == []
    server.client.post("/v1/services/web/start")
    assert once(server, "web") != pid


@pytest.mark.parametrize("spoilt", [{"env": None}, {"env": []}, {"secrets": 1}, {"secrets": {"X": []}, "env": "X"}])
def test_a_spec_that_it_has_spoilt_ends_nobody(server: Installation, spoilt: dict[str, object]) -> None:
    declare(server, web=keeper(server, "web"))
    server.start()
    pid = once(server, "web")
    server.kill()
    spec = newest(server, "web").spec
    spec.write_text(json.dumps(read(spec) | {"secrets": ["X"]} | spoilt))
    server.start()
    assert once(server, "web") == pid
    server.client.post("/v1/services/web/stop")
    assert living(server, "web") == []


@pytest.mark.timeout(300 + 3 * KILLS)
def test_random_kills(server: Installation) -> None:
    """SIGKILL of the daemon, of services, around jobs: AZAION_SEED replays a failure, AZAION_KILLS sets how many."""
    seed = int(os.environ.get("AZAION_SEED", time.time_ns() % 1_000_000))
    print(f"AZAION_SEED={seed}")
    dice = random.Random(seed)
    declare(server, web=keeper(server, "web"), model=keeper(server, "model", after=["web"], holds_gpu=True))
    jobs: list[int] = []
    for _ in range(KILLS):
        server.start()
        deed = dice.choice(("job", "stop", "start", "restart", "none", "kill"))
        name = dice.choice(("web", "model"))
        if deed == "job":
            alone = "flock -n model.lock echo alone >> seen || echo shared >> seen"
            jobs.append(server.submit(f"{alone}; sleep 0.1", devices=1))
        elif deed == "kill":
            for pid in living(server, name):
                os.kill(pid, signal.SIGKILL)
        elif deed != "none":
            server.client.post(f"/v1/services/{name}/{deed}")
        time.sleep(dice.uniform(0, 0.15))
        server.kill()
    server.start()
    for number in jobs:
        server.wait(number)
    server.client.post("/v1/services/start")
    for name in ("web", "model"):
        once(server, name)
    if jobs:
        assert set((server.folder / "seen").read_text().split()) == {"alone"}
    note = f"{len(jobs)} jobs, {len(starts(server, 'web'))} and {len(starts(server, 'model'))} starts"
    tally("SIGKILL of the daemon around services", KILLS, "no service runs twice, or beside a job on the GPU", note)
