"""The daemon's figures: submit to start, status with 10,000 jobs of history, memory, idle CPU, re-adoption."""

import os
import sqlite3
import sys
import time
from pathlib import Path

from benchmarks.measure import Figure, cpu_seconds, resident_mib, time_command
from supervisor.jobs.store import Store
from tests.installations import Installation, installation
from tests.waiting import until

CTL = str(Path(sys.executable).with_name("azaionctl"))
HISTORY = 10_000


def reference(runs: int) -> Figure:
    """A Python that does nothing: what any command written in Python costs on this machine."""
    environment = dict(os.environ)
    values = tuple(time_command([sys.executable, "-c", "pass"], environment, "/") for _ in range(runs))
    return Figure(name="reference: python -c pass", values=values, goal="")


def submit_to_start(server: Installation, runs: int) -> Figure:
    """From the exec of ``azaionctl submit`` to the job's own first instruction."""
    values = []
    for number in range(runs):
        told = server.folder / f"started-{number}"
        # bash's own clock: the first thing that the job does.
        script = f"echo $EPOCHREALTIME > {told}.part; mv {told}.part {told}"
        began = time.time()
        time_command(
            [CTL, "submit", "--gpu", "0", "--", "bash", "-c", script], server.environment(), str(server.folder)
        )
        until(told.exists, "the job starts")
        values.append(1000 * (float(told.read_text()) - began))
    return Figure(name="submit to start", values=tuple(values), goal="p50 <= 70 ms")


def fill_history(server: Installation) -> None:
    """Ten thousand finished jobs, as the daemon would have left them."""
    Store(server.layout.database).close()
    connection = sqlite3.connect(server.layout.database)
    with connection:
        connection.executemany(
            "INSERT INTO jobs (uid, kind, name, state, parameters, owner, priority, devices, attempt_limit, created,"
            " started, ended) VALUES (?, 'command', 'done', 'succeeded', '{}', 'root', 0, 0, 1, 1, 2, 3)",
            [(f"{number:08x}",) for number in range(HISTORY)],
        )
        connection.executemany(
            "INSERT INTO attempts (job, number, nonce, reserved, started, ended, exit_code)"
            " VALUES (?, 1, ?, 1, 2, 3, 0)",
            [(number + 1, f"{number:032x}") for number in range(HISTORY)],
        )
    connection.close()


def status(server: Installation, runs: int) -> Figure:
    """``azaionctl status`` as a whole process."""
    values = tuple(time_command([CTL, "status"], server.environment(), str(server.folder)) for _ in range(runs))
    return Figure(name=f"status, {HISTORY} jobs", values=values, goal="p50 <= 70 ms, p99 <= 120 ms")


def readoption(server: Installation, runs: int) -> Figure:
    """From the start of a new daemon until it says that it holds the run of the one that was killed."""
    number = server.submit("sleep 600")
    server.wait(number, "running")
    values = []
    for _ in range(runs):
        server.kill()
        began = time.perf_counter()
        server.launch()
        until(server.answers, "the daemon answers")
        until(lambda: server.job(number)["state"] == "running", "the run is held")
        values.append(1000 * (time.perf_counter() - began))
    server.client.post(f"/v1/jobs/{number}/cancel", query={"now": 1})
    return Figure(name="killed daemon to re-adopted run", values=tuple(values), goal="<= 500 ms after start")


def idle(server: Installation, seconds: float) -> list[Figure]:
    assert server.daemon is not None
    pid = server.daemon.pid
    before = cpu_seconds(pid)
    time.sleep(seconds)
    share = 100 * (cpu_seconds(pid) - before) / seconds
    return [
        Figure(name=f"daemon, idle CPU over {seconds:.0f} s", values=(share,), goal="<= 0.1 %", unit="%"),
        Figure(name="daemon, resident memory", values=(resident_mib(pid),), goal="<= 60 MiB", unit="MiB"),
    ]


def run(*, quick: bool) -> list[Figure]:
    runs = 10 if quick else 100
    with installation() as server:
        server.layout.state.mkdir()
        fill_history(server)
        server.start()
        figures = [
            reference(runs),
            submit_to_start(server, runs),
            status(server, runs * 2),
            readoption(server, 5 if quick else 20),
        ]
        return figures + idle(server, 10.0 if quick else 60.0)
