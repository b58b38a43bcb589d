"""Services beside a real daemon: they outlive it, make way for jobs, come back, and run once."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from azaion.declarations.services import Check, Declaration
from azaion.layout import Layout
from supervisor import processes
from supervisor.jobs.launchers import ForkLauncher
from supervisor.jobs.store import Store
from supervisor.units import model, readiness, unit
from supervisor.units.model import UnitError, UnitState
from supervisor.units.room import UnitRoom
from tests.installations import Installation
from tests.nvml import FakeNvml
from tests.services import declare, events, keeper, newest, record, settled, shown, starts
from tests.waiting import until


def living(pid: int) -> bool:
    return processes.identify(pid) is not None


def test_they_start_in_order_and_outlive_the_daemon(server: Installation) -> None:
    marker = server.folder / "marker"
    declare(
        server,
        late=keeper(server, "late", after=["early"]),
        early=keeper(server, "early", ready={"command": ["test", "-e", str(marker)]}),
    )
    server.start()
    shown(server, "early", "starting")
    late = shown(server, "late", "waiting")
    assert late["why"] == "waits for early, which is starting"
    until(lambda: record(server, "early")["why"], "it says what is lacking")
    assert record(server, "early")["why"] == "test ended with 1"
    early = record(server, "early")
    assert early["pid"] is not None
    assert starts(server, "late") == []
    marker.touch()
    pids = {name: shown(server, name, "ready")["pid"] for name in ("early", "late")}
    assert pids["early"] == early["pid"]
    assert [service["name"] for service in server.json("services")] == ["consumer", "early", "late"]
    assert server.json("services")[0]["kind"] == "consumer"
    assert "service   late: ready" in server.ctl("status").stdout

    server.kill()
    server.start()
    assert {name: shown(server, name, "ready")["pid"] for name in pids} == pids
    assert server.stop() == 0
    assert all(living(pid) for pid in pids.values())
    server.start()
    assert {name: shown(server, name, "ready")["pid"] for name in pids} == pids
    assert all(len(settled(server, name)) == 1 for name in pids)


def test_one_that_dies_is_started_again_also_when_the_daemon_was_away(server: Installation) -> None:
    declare(server, web=keeper(server, "web"), once=keeper(server, "once", "exit 0", restart="on-failure"))
    server.start()
    first = shown(server, "web", "ready")["pid"]
    assert shown(server, "once", "stopped")["why"] == "ended with 0, and is not started again (restart: on-failure)"
    # It counts its starts itself, and runs from the moment in which it is shown.
    until(lambda: len(starts(server, "web")) == 1, "it has counted its start")
    os.kill(first, signal.SIGKILL)
    until(lambda: len(starts(server, "web")) == 2, "it is started again")
    until(lambda: events(server, "service-ended"), "an event tells it")
    assert "web: was killed by signal 9" in events(server, "service-ended")
    second = shown(server, "web", "ready")
    assert (second["restarts"], second["last_exit"]["signal"]) == (1, 9)

    server.kill()
    exit_file = newest(server, "web").exit
    os.kill(second["pid"], signal.SIGKILL)
    until(exit_file.exists, "its shim has recorded the end")
    server.start()
    until(lambda: len(starts(server, "web")) == 3, "it is started again after its backoff")
    third = shown(server, "web", "ready")
    assert third["restarts"] == 2
    assert starts(server, "web") == [str(each["pid"]) for each in (second | {"pid": first}, second, third)]
    assert len(starts(server, "once")) == 1


def test_a_job_waits_until_one_that_holds_the_gpu_has_gone(server: Installation) -> None:
    stubborn = keeper(server, "model", "trap '' TERM; while :; do sleep 0.05; done", holds_gpu=True, grace_s=1)
    declare(server, model=stubborn, web=keeper(server, "web"))
    server.start()
    first, web = shown(server, "model", "ready")["pid"], shown(server, "web", "ready")["pid"]
    began = time.monotonic()
    alone = "flock -n model.lock true && echo alone > seen || echo shared > seen"
    number = server.submit(f"{alone}; sleep 1000", devices=1)
    until(lambda: record(server, "model")["state"] == "stopping", "it is asked to stop")
    assert record(server, "model")["why"] == f"paused for job {number}"
    server.wait(number, "running")
    until((server.folder / "seen").exists, "the job runs")
    assert time.monotonic() - began >= 1.0
    until(lambda: (server.folder / "seen").read_text() == "alone\n", "it has the GPU for itself")
    assert not living(first)
    paused = shown(server, "model", "paused")
    assert (paused["pid"], paused["why"]) == (None, f"paused for job {number}")
    assert record(server, "web")["pid"] == web

    # A job without a device disturbs nobody, and the daemon's death changes nothing.
    server.kill()
    server.start()
    assert shown(server, "model", "paused")["why"] == f"paused for job {number}"
    assert record(server, "web")["pid"] == web
    server.ctl("cancel", "--now", "--yes", str(number))
    server.wait(number)
    shown(server, "model", "ready")
    light = server.submit("sleep 0.1", devices=0)
    server.wait(light)
    assert len(settled(server, "model")) == 2
    assert "twice" not in starts(server, "model")


def test_it_comes_back_when_the_job_has_ended_while_the_daemon_was_away(server: Installation) -> None:
    declare(server, model=keeper(server, "model", holds_gpu=True))
    server.start()
    settled(server, "model")
    number = server.submit("while ! test -e over; do sleep 0.05; done", devices=1)
    server.wait(number, "running")
    server.kill()
    (server.folder / "over").touch()
    until(server.attempt(number).exit.exists, "the job has ended")
    assert len(starts(server, "model")) == 1
    server.start()
    shown(server, "model", "ready")
    assert server.job(number)["state"] == "succeeded"
    assert len(settled(server, "model")) == 2


def test_jobs_one_after_the_other_do_not_have_it_started_in_between(server: Installation) -> None:
    declare(server, model=keeper(server, "model", holds_gpu=True))
    server.start()
    settled(server, "model")
    jobs = [server.submit("while ! test -e go; do sleep 0.05; done", devices=1) for _ in range(4)]
    (server.folder / "go").touch()
    for number in jobs:
        server.wait(number)
    assert len(settled(server, "model")) == 2


def test_the_memory_of_the_gpu_that_it_has_is_there_for_a_job(server: Installation) -> None:
    nvml = FakeNvml(server.folder / "nvml")
    server.variables |= {"AZAION_GPUS": "0", **nvml.environment}
    script = 'echo "$CUDA_VISIBLE_DEVICES" > devices; exec sleep 1000'
    declare(server, model=keeper(server, "model", script, holds_gpu=True, cwd=str(server.folder)))
    nvml.tell(total_mb_0=21504, free_mb_0=1024)
    server.start()
    pid = shown(server, "model", "ready")["pid"]
    told = server.folder / "devices"
    assert until(lambda: told.exists() and told.read_text(), "it runs") == "0\n"
    nvml.tell(total_mb_0=21504, free_mb_0=1024, pid_0_0=pid, pid_mb_0_0=20000)
    # It would not be enough even then, so that nobody is disturbed.
    large = server.submit("true", devices=1, needs={"vram": 21 << 30})
    until(lambda: server.job(large)["reason"].startswith("needs 21.0 GiB VRAM, 20.5 free"), "it waits")
    assert record(server, "model")["pid"] == pid
    number = server.submit("sleep 1000", devices=1, needs={"vram": 14 << 30})
    server.wait(number, "running")
    assert shown(server, "model", "paused")["why"] == f"paused for job {number}"
    assert not living(pid)


def test_what_people_want_is_kept(server: Installation) -> None:
    declare(server, web=keeper(server, "web"), model=keeper(server, "model", after=["web"], holds_gpu=True))
    server.start()
    first = shown(server, "model", "ready")["pid"]
    settled(server, "web")
    again = server.json("service", "restart", "model")
    assert [each["name"] for each in again] == ["model"]
    second = until(lambda: shown(server, "model", "ready")["pid"] not in {None, first}, "it is another")
    assert second
    assert not living(first)
    assert server.ctl("service", "stop", "--all").stdout == (
        "web: stopped, stopped by root\nmodel: stopped, stopped by root\n"
    )
    stopped = [event["text"] for event in server.client.get("/v1/events") if event["type"] == "service-stopped"]
    assert stopped == ["model: stopped by root", "web: stopped by root"]
    (asked, *_) = [event for event in server.client.get("/v1/events") if event["type"] == "service-stop"]
    assert (asked["text"], asked["actor"], asked["uid"]) == ("model", "root", 0)
    server.kill()
    server.start()
    assert shown(server, "web", "stopped")["why"] == "stopped by root"
    assert len(starts(server, "web")) == 1
    done = server.ctl("service", "start", "model")
    assert done.stdout == "model: waiting, waits for web, which is stopped\n"
    assert server.ctl("service", "start", "--all").returncode == 0
    assert [shown(server, name, "ready")["state"] for name in ("web", "model")] == ["ready", "ready"]
    assert server.ctl("service", "stop", "wep").stderr == (
        "azaionctl: there is no service 'wep' to start or stop; there is: web, model\n"
    )
    assert "is a part of azaiond" in server.ctl("service", "stop", "consumer").stderr
    assert server.ctl("service", "stop").returncode == 2


def test_a_changed_declaration_is_another_process_and_a_removed_one_ends(server: Installation) -> None:
    declare(
        server,
        same=keeper(server, "same"),
        changed=keeper(server, "changed", env={"A": "1"}),
        removed=keeper(server, "removed"),
    )
    server.start()
    pids = {name: shown(server, name, "ready")["pid"] for name in ("same", "changed", "removed")}
    server.kill()
    declare(
        server,
        same=keeper(server, "same", grace_s=7, restart="never"),
        changed=keeper(server, "changed", env={"A": "2"}),
    )
    server.start()
    until(lambda: len(starts(server, "changed")) == 2, "the changed one is started anew")
    until(lambda: not living(pids["removed"]), "the removed one ends")
    assert shown(server, "same", "ready")["pid"] == pids["same"]
    assert not living(pids["changed"])
    until(lambda: "removed: it is declared no more" in events(server, "service-stopped"), "an event tells it")
    assert "changed: its declaration has changed" in events(server, "service-stopping")
    assert "it is declared no more" in (server.folder / "azaiond.log").read_text()
    assert [service["name"] for service in server.json("services")] == ["consumer", "same", "changed"]


def test_a_log_goes_on_across_starts_and_shows_no_secret(server: Installation) -> None:
    secret = "correct horse"  # noqa: S105 - for this test alone
    server.variables["SOME_TOKEN"] = secret
    script = "echo hello from $$; test ${#TOKEN} = 13 && echo it knows; exec sleep 1000"
    declare(server, web={"argv": ["sh", "-c", script], "env": {"TOKEN": {"variable": "SOME_TOKEN"}}})
    server.start()
    first = shown(server, "web", "ready")["pid"]
    server.ctl("service", "restart", "web")
    second = until(lambda: record(server, "web")["pid"], "it runs again")
    until(lambda: server.ctl("service", "logs", "web").stdout.count("it knows") == 2, "both have written")
    assert server.ctl("service", "logs", "web").stdout == (
        f"hello from {first}\nit knows\nhello from {second}\nit knows\n"
    )
    until(lambda: secret not in newest(server, "web").spec.read_text(), "the secret has left the disk")
    assert secret not in (server.folder / "azaiond.log").read_text()
    assert secret not in json.dumps(server.client.get("/v1/services"))
    assert server.ctl("service", "logs", "nobody").returncode == 1


def test_the_secret_of_one_that_ends_at_once_leaves_the_disk(server: Installation) -> None:
    secret = "correct horse"  # noqa: S105 - for this test alone
    server.variables["SOME_TOKEN"] = secret
    env = {"TOKEN": {"variable": "SOME_TOKEN"}}
    for name, argv in (("short", ["true"]), ("wrong", ["/no/such/program"])):
        declare(server, **{name: {"argv": argv, "env": env, "restart": "never"}})
        server.start()
        until(lambda name=name: newest(server, name).exit.exists(), "it has ended")  # type: ignore[misc]
        until(lambda name=name: secret not in newest(server, name).spec.read_text(), "it has left the disk")  # type: ignore[misc]
        server.kill()


def test_a_secret_that_is_nowhere_is_a_failure_that_says_so(server: Installation) -> None:
    declare(server, web=keeper(server, "web", env={"TOKEN": {"variable": "NO_SUCH_TOKEN"}}))
    server.start()
    assert "LoadCredential=NO_SUCH_TOKEN" in shown(server, "web", "failed")["why"]
    (alert,) = server.json("status")["alerts"]
    assert (alert["service"], alert["job"]) == ("web", None)
    assert "alert     service web has failed" in server.ctl("status").stdout
    assert server.ctl("service", "start", "web").returncode == 0
    assert starts(server, "web") == []


def test_a_bad_declaration_keeps_the_daemon_from_starting(server: Installation) -> None:
    declare(server, web={"argv": ["x"], "readdy": {"tcp": 1}})
    assert server.launch().wait(timeout=20) == 78
    assert "services.web.readdy: unknown; did you mean ready?" in (server.folder / "azaiond.log").read_text()
    done = server.ctl("config", "check")
    assert (done.returncode, "services.web.readdy: unknown" in done.stderr) == (1, True)


def test_one_that_cannot_be_run_says_why(server: Installation) -> None:
    declare(server, web={"argv": ["/no/such/program"], "restart": "never"})
    server.start()
    assert "cannot run ['/no/such/program'] in /" in shown(server, "web", "failed")["why"]


# In one process, so that the pauses can be made short.


@asynccontextmanager
async def room(folder: Path, *declared: Declaration) -> AsyncIterator[tuple[UnitRoom, Store]]:
    layout = Layout(root=folder, state=folder / "s", spool=folder / "spool", socket=folder / "socket")
    layout.services.mkdir(parents=True)
    store = Store(layout.database)
    launcher = ForkLauncher()
    made = UnitRoom(declared, store=store, layout=layout, launcher=launcher, boot_id=processes.boot_id(), gpus=["0"])
    made.told("")
    running = asyncio.create_task(made.run())
    try:
        yield made, store
    finally:
        await made.stop([each.name for each in declared], "the test")
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await launcher.close()
        store.close()


async def becomes(made: UnitRoom, state: UnitState) -> None:
    async with asyncio.timeout(30):
        while made.units[0].state is not state:  # noqa: ASYNC110 - a test has nothing to wait on
            await asyncio.sleep(0.01)


async def test_one_that_dies_again_and_again_has_failed_until_somebody_starts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "BACKOFF_S", 0.001)
    declared = Declaration(name="web", argv=("sh", "-c", f"echo x >> {tmp_path}/ledger; exit 3"))
    async with room(tmp_path, declared) as (made, store):
        await becomes(made, UnitState.FAILED)
        assert made.units[0].why == "has ended 8 times in a row; ended with 3"
        assert (tmp_path / "ledger").read_text().count("x") == 8
        assert [event.text for event in store.events() if event.type == "service-failed"] == [
            "web: has ended 8 times in a row; ended with 3"
        ]
        await made.start(["web"], "ann")
        await becomes(made, UnitState.FAILED)
        assert (tmp_path / "ledger").read_text().count("x") == 16
        with pytest.raises(UnitError, match="there is no service 'wep'"):
            await made.start(["wep"], "ann")


async def test_one_that_answers_no_more_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit, "EVERY_S", 0.05)
    well = tmp_path / "well"
    well.touch()
    check = Check(command=("test", "-e", str(well)))
    declared = Declaration(name="web", argv=("sleep", "1000"), ready=check)
    async with room(tmp_path, declared) as (made, _):
        await becomes(made, UnitState.READY)
        pid = made.units[0].pid
        well.unlink()
        await becomes(made, UnitState.NOT_READY)
        assert made.units[0].why == "test ended with 1"
        well.touch()
        await becomes(made, UnitState.READY)
        assert made.units[0].pid == pid
        await made.stop(["web"], "ann")
        assert made.units[0].state is UnitState.STOPPED


async def test_a_check_says_what_is_lacking(tmp_path: Path) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async def look(check: Check) -> str:
        return await readiness.look(check, dict(os.environ), str(tmp_path))

    status = "200 OK"
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await look(Check(tcp=port)) == ""
    assert await look(Check(http=f"http://127.0.0.1:{port}/health")) == ""
    status = "503 Busy"
    assert await look(Check(http=f"http://127.0.0.1:{port}/health")) == f"http://127.0.0.1:{port}/health: 503 Busy"
    server.close()
    await server.wait_closed()
    assert await look(Check(tcp=port)) == f"127.0.0.1:{port}: Connection refused"
    assert await look(Check(http=f"http://127.0.0.1:{port}/")) == f"http://127.0.0.1:{port}/: Connection refused"
    assert await look(Check(command=("sh", "-c", "exit 4"))) == "sh ended with 4"
    assert await look(Check(command=("/no/such",))) == "/no/such: No such file or directory"
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        assert await look(Check(http=address, timeout_s=0.1)) == f"{address}: no answer within 0.1 s"
    own = tmp_path / "pid"
    slow = Check(command=("sh", "-c", f"echo $$ > {own}; exec sleep 1000"), timeout_s=0.5)
    assert (await look(slow)).endswith("no answer within 0.5 s")
    assert not living(int(own.read_text()))
