"""Limits of a job under a real daemon, without control groups: what is over them ends, and nothing else does."""

import os
import sys
import time
from typing import Any

import pytest

from supervisor import processes
from tests.installations import Installation
from tests.shims import read
from tests.waiting import until

#: Takes so many MiB, in a child of its own if asked to, and keeps them.
HOG = """
import os, sys, time
if "fork" in sys.argv and os.fork():
    os.wait()
    sys.exit()
kept = bytearray(os.urandom(1 << 20) * int(sys.argv[1]))
open("full", "w").close()
time.sleep(1000)
"""
#: Takes so many MiB, and has them shared by four children for longer than the shim needs to find them too many.
SHARER = """
import os, sys, time
kept = bytearray(os.urandom(1 << 20) * int(sys.argv[1]))
for _ in range(4):
    if not os.fork():
        break
total = sum(kept[::4096])
time.sleep(5)
"""


def python(server: Installation, script: str, *arguments: str, **limits: Any) -> int:
    body = {"kind": "command", "argv": [sys.executable, "-c", script, *arguments], "cwd": str(server.folder), "env": {}}
    number: int = server.client.post("/v1/jobs", {**body, "devices": 0, "limits": limits})["id"]
    return number


@pytest.mark.parametrize("where", [(), ("fork",)])
def test_too_much_memory_ends_with_its_cause(server: Installation, where: tuple[str, ...]) -> None:
    server.start()
    number = python(server, HOG, "200", *where, memory=100 << 20)
    until((server.folder / "full").exists, "it has its memory")
    job = server.wait(number)
    assert (job["state"], job["cause"]) == ("failed", "oom:ram")
    assert job["reason"].startswith("killed for its memory: 2")
    assert job["reason"].endswith("its limit is 100 MiB")
    assert job["enforced"]["memory"] == "watched"
    assert processes.carriers(read(server.attempt(number).spec)["nonce"]) == []


def test_memory_that_is_shared_counts_once(server: Installation) -> None:
    server.start()
    number = python(server, SHARER, "100", memory=250 << 20)
    assert server.wait(number)["state"] == "succeeded"


def test_the_memory_of_others_is_not_counted(server: Installation) -> None:
    server.start()
    hog = python(server, HOG, "200")
    until((server.folder / "full").exists, "it has its memory")
    number = python(server, "import time; time.sleep(3)", memory=100 << 20)
    assert server.wait(number)["state"] == "succeeded"
    assert server.job(hog)["state"] == "running"


def test_processors_and_niceness(server: Installation) -> None:
    server.start()
    script = "import os; print(len(os.sched_getaffinity(0)), os.nice(0))"
    filed = server.ctl(
        *("submit", "--gpu", "0", "--cpu-quota", "50%", "--nice", "7", "--memory", "1.5G", "--time", "2h"),
        *("--wait", "--", sys.executable, "-c", script),
    )
    assert filed.returncode == 0, filed.stderr
    assert server.ctl("logs", "1").stdout == f"1 {os.nice(0) + 7}\n"
    job = server.json("show", "1")
    assert job["limits"] == {"memory": 3 << 29, "cpus": 0.5, "nice": 7, "time_s": 7200.0}
    every = len(os.sched_getaffinity(0))
    enforced = {"memory": "watched", "cpus": f"1 of {every} processors", "nice": "setpriority"}
    assert job["enforced"] == read(server.attempt(1).state)["enforced"] == enforced
    shown = server.ctl("show", "1").stdout
    assert f"1.5 GiB (watched), 0.5 processors (1 of {every} processors), nice 7 (setpriority), 2h 0m" in shown


@pytest.mark.parametrize("option", ["--memory=12X", "--cpu-quota=-1", "--time=4", "--nice=20", "--cpu-quota=0"])
def test_what_is_no_limit_is_refused(server: Installation, option: str) -> None:
    server.start()
    assert server.ctl("submit", option, "--", "true").returncode in {1, 2}
    assert server.client.get("/v1/jobs") == []


def test_a_run_that_is_out_of_time_is_asked_then_killed(server: Installation) -> None:
    server.start()
    polite = server.submit("trap 'touch asked; exit 3' TERM; while :; do sleep 0.05; done", limits={"time_s": 1.0})
    job = server.wait(polite)
    assert (job["state"], job["cause"], job["reason"]) == ("failed", "time", "it has run for the 1 s that it may")
    assert (server.folder / "asked").exists()
    assert [attempt["cause"] for attempt in job["attempts"]] == ["time"]
    assert read(server.attempt(polite).exit)["ran_s"] < 5


def test_a_run_that_ends_well_when_its_time_is_over_has_succeeded(server: Installation) -> None:
    server.start()
    number = server.submit("trap 'exit 0' TERM; while :; do sleep 0.05; done", limits={"time_s": 1.0})
    assert server.wait(number)["state"] == "succeeded"


def test_time_passes_while_the_daemon_is_away_and_waiting_costs_none(server: Installation) -> None:
    server.start()
    inside = server.submit("sleep 0.2", limits={"time_s": 1.0})
    over = server.submit("sleep 1.5; touch late; sleep 1000", limits={"time_s": 1.0})
    server.wait(over, "running")
    server.wait(inside)
    held = server.submit("true", limits={"time_s": 1.0}, hold=True)
    server.kill()
    until((server.folder / "late").exists, "its time is over")
    assert not server.attempt(over).exit.exists()
    server.start()
    assert server.wait(over, limit_s=5)["cause"] == "time"
    assert server.job(inside)["state"] == "succeeded"
    server.client.post(f"/v1/jobs/{held}/release")
    assert server.wait(held)["state"] == "succeeded"


def test_a_daemon_that_dies_before_its_signal_sends_it_later(server: Installation) -> None:
    daemon = server.launch("attempts.request.written=1:kill")
    until(server.answers, "the daemon answers")
    number = server.submit("sleep 1000", limits={"time_s": 1.0})
    assert daemon.wait(timeout=20) != 0
    assert read(server.attempt(number).request)["measure"] == "time"
    assert not server.attempt(number).exit.exists()
    server.start()
    job = server.wait(number)
    assert (job["state"], job["cause"], len(job["attempts"])) == ("failed", "time", 1)


def test_without_its_shim_a_run_is_still_out_of_time(server: Installation) -> None:
    server.start()
    number = server.submit("sleep 1000", limits={"time_s": 2.0})
    server.wait(number, "running")
    os.kill(read(server.attempt(number).state)["shim"]["pid"], 9)
    job = server.wait(number)
    assert (job["state"], job["cause"]) == ("failed", "time")


def test_a_person_who_cancels_is_heard_before_the_time_is_over(server: Installation) -> None:
    server.start()
    number = server.submit("trap '' TERM; touch ready; while :; do sleep 0.05; done", limits={"time_s": 1.0})
    until(lambda: (server.attempt(number).request).exists() if (server.folder / "ready").exists() else None, "asked")
    began = time.monotonic()
    server.client.post(f"/v1/jobs/{number}/cancel", query={"now": 1})
    job = server.wait(number)
    assert (job["state"], job["cause"]) == ("cancelled", "cancelled")
    assert time.monotonic() - began < 10
