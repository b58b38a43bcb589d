"""The units under a real systemd: whatever happens to the daemon's, no run notices and no call is lost."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from supervisor.control.client import ClientError
from tests.shims import read
from tests.systemd.machine import Machine
from tests.training_runs import QUICK, draw_shapes, epochs_done
from tests.waiting import until

#: Boots and restarts, on a busy machine.
pytestmark = pytest.mark.timeout(300)

#: Runs until it is told how to end.
UNTIL_TOLD = "until [ -e go-%s ]; do sleep 0.05; done; exit 7"

#: Takes so many MiB and keeps them.
HOG = "/opt/azaion/current/bin/python -c 'kept = b\"1\" * (%d << 20); import time; time.sleep(1000)'"


@dataclass
class Calls:
    """What became of the calls that were made again and again."""

    answered: int = 0
    longest_s: float = 0.0
    failed: list[str] = field(default_factory=list)


@contextmanager
def calling(server: Machine) -> Iterator[Calls]:
    """Call the daemon again and again meanwhile, each time on a new connection."""
    calls, stop = Calls(), threading.Event()

    def call() -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                server.client.get("/v1/jobs", {"limit": 0})
                calls.answered += 1
            except ClientError as error:
                calls.failed.append(str(error))
            calls.longest_s = max(calls.longest_s, time.monotonic() - began)
            time.sleep(0.01)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield calls
    finally:
        stop.set()
        thread.join()


def restart(server: Machine) -> None:
    server.systemctl("restart", "azaion.service")


def kill(server: Machine) -> None:
    server.systemctl("kill", "-s", "KILL", "--kill-who=main", "azaion.service")


def stop_and_start(server: Machine) -> None:
    server.systemctl("stop", "azaion.service")
    server.systemctl("start", "azaion.service")


def restart_all(server: Machine) -> None:
    # The units that refuse make it fail; it restarts the others all the same.
    refused = server.run("systemctl", "restart", "azaion*", check=False).stderr
    assert "azaiontrain.slice" in refused
    assert "azaion.socket" in refused


def hang(server: Machine) -> None:
    # One that lives is left alone, however often systemd has looked.
    daemon = server.show("MainPID")
    until(lambda: server.client.get("/v1/status")["daemon"]["uptime_s"] > 2.5, "systemd has looked twice")
    assert server.show("MainPID") == daemon
    server.systemctl("kill", "-s", "STOP", "--kill-who=main", "azaion.service")


def exhaust(server: Machine) -> None:
    """Have the kernel kill the daemon: what is larger is not there, and what is smaller takes all that is left."""
    # In the unit altogether, and one after the other: what ends the daemon ends them.
    groups = [server.group(each, "azaion.service") for each in ("", "memory")]
    enter = "".join(f"echo $$ >{group}/cgroup.procs; " for group in groups)
    pid = server.show("MainPID")
    hogs = f"set -e; {enter} for each in $(seq 20); do {HOG % 20} & sleep 0.2; done"
    server.run("setsid", "--fork", "sh", "-c", f"exec >/dev/null 2>&1; {hogs}")
    until(lambda: server.show("MainPID") != pid, "the daemon is killed")
    assert re.search(r"status=9/KILL|oom-kill", server.journal())


@pytest.mark.parametrize(
    ("act", "drop_in"),
    [
        (restart, ""),
        (kill, ""),
        (stop_and_start, ""),
        (restart_all, ""),
        (hang, "WatchdogSec=1"),
        (exhaust, "MemoryMax=150M\nOOMScoreAdjust=0"),
    ],
)
def test_whatever_happens_to_the_daemon_no_run_notices_and_calls_wait(
    server: Machine, act: Callable[[Machine], None], drop_in: str
) -> None:
    if drop_in:
        server.drop_in("azaion.service", f"[Service]\n{drop_in}\n")
        server.systemctl("restart", "azaion.service")
    number = server.submit(UNTIL_TOLD % act.__name__)
    server.wait(number, "running")
    before, daemon = server.processes(number), server.show("MainPID")
    with calling(server) as calls:
        act(server)
        until(lambda: server.show("MainPID") not in {daemon, "0"}, "there is another daemon")
        until(lambda: server.show("ActiveState") == "active", "it serves")
        answered = calls.answered
        until(lambda: calls.answered > answered + 2, "it answers")
    assert server.show("MainPID") != daemon
    assert not calls.failed
    assert server.processes(number) == before
    assert server.job(number)["state"] == "running"
    (server.layout.state / f"go-{act.__name__}").touch()
    job = server.wait(number)
    (attempt,) = job["attempts"]
    assert (attempt["pid"], attempt["exit_code"], job["cause"]) == (before["child"]["pid"], 7, "exit:7")


def test_a_run_ends_while_the_daemon_is_away_and_its_exit_status_is_known(server: Machine) -> None:
    number = server.submit(UNTIL_TOLD % "away")
    server.wait(number, "running")
    unit = server.unit(number)
    server.systemctl("stop", "azaion.service")
    server.systemctl("daemon-reexec")
    assert server.show("ActiveState", unit) == "active"
    (server.layout.state / "go-away").touch()
    until(server.attempt(number).exit.exists, "the run has ended")
    # Nobody starts the daemon: the first call does, and waits for it.
    assert server.show("MainPID") == "0"
    assert server.wait(number)["cause"] == "exit:7"


def test_a_daemon_that_is_stopped_for_longer_is_started_by_no_call(server: Machine) -> None:
    number = server.submit(UNTIL_TOLD % "longer")
    server.wait(number, "running")
    before = server.processes(number)
    stopped = server.path("/run/azaion.stopped")
    try:
        server.run("sh", "-c", "touch /run/azaion.stopped && systemctl stop azaion")
        status = ("/opt/azaion/current/bin/python", "-P", "-m", "supervisor.ctl", "status")
        told = [server.run(*status, check=False) for _ in range(2)]
        assert {done.returncode for done in told} == {4}, told
        assert "has been stopped on purpose" in told[0].stderr
        assert server.show("MainPID") == "0"
        server.run("sh", "-c", told[0].stderr.partition("): ")[2].replace("sudo ", ""))
    finally:
        stopped.unlink(missing_ok=True)
    assert server.job(number)["state"] == "running"
    assert server.processes(number) == before
    (server.layout.state / "go-longer").touch()
    assert server.wait(number)["cause"] == "exit:7"


def test_systemd_itself_is_replaced_under_the_daemon_and_its_runs(server: Machine) -> None:
    number = server.submit(UNTIL_TOLD % "reexec")
    server.wait(number, "running")
    before, daemon = server.processes(number), server.show("MainPID")
    with calling(server) as calls:
        server.systemctl("daemon-reexec")
        server.systemctl("daemon-reload")
    assert not calls.failed
    assert (server.processes(number), server.show("MainPID")) == (before, daemon)
    (server.layout.state / "go-reexec").touch()
    assert server.wait(number)["cause"] == "exit:7"


def test_limits_are_the_kernels_and_nothing_is_left_of_them(server: Machine) -> None:
    number = server.submit("sleep 1000", limits={"memory": 64 << 20, "cpus": 0.5, "nice": 3})
    job = server.wait(number, "running")
    assert job["enforced"] == {"memory": "systemd", "cpus": "systemd", "nice": "setpriority"}
    unit = server.unit(number)
    assert server.limit("memory", unit) == 64 << 20
    assert server.limit("cpu", unit) == 0.5
    inside = server.path("/run/systemd/system.control")
    assert any(unit in each.name for each in inside.iterdir())
    server.client.post(f"/v1/jobs/{number}/cancel", query={"now": 1})
    assert server.wait(number)["state"] == "cancelled"
    until(lambda: not list(inside.glob(f"{unit}*")), "its limits are forgotten")
    until(lambda: not list(server.path("/run/azaion/orders").iterdir()), "its order is gone")
    assert unit not in server.systemctl("list-units", "--all", "azaion-train@*")


@pytest.mark.parametrize("where", ["", " &wait $!; exit 1"])
def test_a_job_out_of_memory_dies_alone_with_its_cause(server: Machine, where: str) -> None:
    """The leader itself, or a child for which the leader fails."""
    bystander = server.submit("sleep 1000")
    hog = HOG % 300
    number = server.submit(f"{hog}{where}" if where else f"exec {hog}", limits={"memory": 64 << 20})
    daemon = server.show("MainPID")
    job = server.wait(number)
    assert (job["state"], job["cause"]) == ("failed", "oom:ram")
    assert job["reason"] == "the kernel killed it for memory; its limit is 64 MiB"
    assert server.job(bystander)["state"] == "running"
    assert server.show("MainPID") == daemon
    server.client.post(f"/v1/jobs/{bystander}/cancel", query={"now": 1})
    server.wait(bystander)


def test_a_killed_shim_leaves_the_run_in_its_unit_and_a_person_cannot_stop_it_by_mistake(server: Machine) -> None:
    number = server.submit("until [ -e go-alone ]; do sleep 0.05; done")
    server.wait(number, "running")
    unit = server.unit(number)
    for verb in ("stop", "restart"):
        assert "refused" in server.run("systemctl", verb, unit, check=False).stderr
    server.run("kill", "-KILL", str(server.processes(number)["shim"]["pid"]))
    (child,) = (server.processes(number)["child"]["pid"],)
    until(lambda: server.show("MainPID", unit) == "0", "systemd has noticed")
    assert server.show("ActiveState", unit) == "active"
    assert server.run("kill", "-0", str(child)).returncode == 0
    (server.layout.state / "go-alone").touch()
    assert server.wait(number)["cause"] == "lost:shim"


def test_a_service_of_the_users_is_a_unit_and_outlives_the_daemon(server: Machine) -> None:
    script = "cat /proc/self/oom_score_adj >score; exec sleep 1000"
    declared = {"services": {"helper": {"argv": ["sh", "-c", script], "cwd": "/var/lib/azaion"}}}
    (server.layout.state / "azaion.yaml").write_text(json.dumps(declared), encoding="utf-8")
    server.systemctl("restart", "azaion.service")

    def helper() -> dict[str, Any]:
        services: list[dict[str, Any]] = server.client.get("/v1/services")
        return next(each for each in services if each["name"] == "helper")

    until(lambda: helper()["state"] == "ready", "it runs")
    pid = helper()["pid"]
    assert server.show("ActiveState", "azaion-train@helper-1.service") == "active"
    until(lambda: (server.layout.state / "score").read_text(encoding="ascii") == "300\n", "it goes before any run")
    server.systemctl("restart", "azaion.service")
    until(lambda: helper()["state"] == "ready", "it is found again")
    assert helper()["pid"] == pid
    (server.layout.state / "azaion.yaml").unlink()
    server.systemctl("restart", "azaion.service")
    until(lambda: server.show("ActiveState", "azaion-train@helper-1.service") == "inactive", "it is ended")


def test_the_user_azaion_may_start_runs_and_nothing_else(server: Machine) -> None:
    def tried(*arguments: str) -> str:
        return server.run("systemctl", "--no-ask-password", *arguments, user="azaion", check=False).stderr

    refused = "Interactive authentication required|Access denied"
    assert re.search(refused, tried("restart", "azaion.service"))
    assert re.search(refused, tried("start", "azaion-other.service"))
    assert re.search(refused, tried("stop", "azaion-train@x.service") + tried("kill", "azaion-train@x.service"))
    transient = server.run("systemd-run", "--no-ask-password", "id", user="azaion", check=False).stderr
    assert re.search(refused, transient)
    # Without an order it has nothing to do.
    assert "control process exited" in tried("start", "azaion-train@x.service") or not tried(
        "start", "azaion-train@x.service"
    )


def test_settings_and_secrets_come_as_credentials_and_reach_no_run(server: Machine) -> None:
    assert (server.path("/etc/azaion/.env").stat().st_mode & 0o777, server.path("/etc/azaion/.env").owner()) == (
        0o640,
        "root",
    )
    assert server.run("cat", "/etc/azaion/.env", user="azaion", check=False).returncode != 0
    number = server.submit("ls -A /run/credentials 2>&1; env | grep -c CREDENTIALS; cat /etc/azaion/.env 2>&1; exit 0")
    assert server.wait(number)["state"] == "succeeded"
    log = server.attempt(number).log.read_text(encoding="utf-8")
    assert "AZAION_ROOT_DIR" not in log
    assert "azaion.service" not in log


def test_what_systemd_thinks_of_the_units(server: Machine) -> None:
    told = server.systemctl("--version")
    assert int(told.split()[1]) >= 252
    for unit in ("azaion.service", "azaion.socket", "azaiontrain.slice", "azaion-train@x.service"):
        verified = server.run("systemd-analyze", "verify", unit, check=False)
        ours = [line for line in verified.stderr.splitlines() if "azaion" in line]
        assert not ours, ours
    rated = server.run("systemd-analyze", "security", "--no-pager", "azaion.service", check=False).stdout
    exposure = re.search(r"exposure level for azaion.service: ([\d.]+)", rated)
    assert exposure is not None
    assert float(exposure[1]) <= 2.0, rated


def test_a_bad_configuration_is_not_started_again_and_again(server: Machine) -> None:
    settings = server.path("/etc/azaion/.env")
    good = settings.read_text(encoding="utf-8")
    settings.write_text(good + "AZAION_NONSENSE=1\n", encoding="utf-8")
    try:
        assert server.run("systemctl", "restart", "azaion.service", check=False).returncode != 0
        assert server.show("ExecMainStatus") == "78"
        assert server.show("NRestarts") == "0"
        assert "AZAION_NONSENSE: unknown" in server.journal()
    finally:
        settings.write_text(good, encoding="utf-8")


@pytest.mark.train
def test_a_power_cut_and_a_reboot_resume_a_training(booted: Machine) -> None:
    """The real trainer, in its unit: it goes on from the last epoch, first after a power cut, then after a reboot."""
    server = booted
    draw_shapes(server.layout, images=24, size=96)
    server.run("chown", "-R", "azaion:azaion", "/azaion/")
    body = {"kind": "train", "epochs": 6, "overrides": {**QUICK}}
    number: int = server.client.post("/v1/jobs", body)["id"]

    def reached(epoch: int, attempt: int) -> bool:
        done = epochs_done(server.attempt(number, attempt)) if server.job(number)["attempts"][attempt - 1 :] else []
        return bool(done) and done[-1] >= epoch

    until(lambda: reached(1, 1), "an epoch is done", 120)
    server.cut_power()
    server.boot()
    until(lambda: reached(3, 2), "it goes on", 120)
    server.shut_down()
    assert read(server.attempt(number, 2).exit)["stop_requested"] == "shutdown"
    server.boot()
    job = server.wait(number, limit_s=150)
    assert job["state"] == "succeeded", (job, server.attempt(number, 3).log.read_text(encoding="utf-8")[-3000:])
    causes = [attempt["cause"] for attempt in job["attempts"]]
    assert (causes[0], causes[-1], len(causes)) == ("lost:reboot", None, 3)
    resumed = [attempt["resumed_from_epoch"] for attempt in job["attempts"]]
    assert resumed[0] is None
    assert resumed[1] >= 1
    assert resumed[2] >= 3
    epochs = [epoch for each in (1, 2, 3) for epoch in epochs_done(server.attempt(number, each))]
    assert sorted(set(epochs)) == list(range(1, 7))
    assert all(after > before for before, after in pairwise(sorted(set(epochs))))
    assert Path(server.root, "models", job["artifacts"]["model"], "azaion.pt").exists()
