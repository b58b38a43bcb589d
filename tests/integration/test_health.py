"""Health as its user meets it: verdicts of a real daemon, provoked for real, and a room that nothing holds up."""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from azaion import files
from azaion.annotations.spool import Spool
from azaion.declarations.health import CHECKS
from azaion.settings import RabbitMQ, SecretReference, Source
from supervisor.health import annotations, broker, memory, network, table
from supervisor.health.apart import Apart
from supervisor.health.broker import BrokerError, greet
from supervisor.health.looks import Check, Levels, Seen, UnreadableError
from supervisor.health.machine import Loop
from supervisor.health.model import Verdict
from supervisor.health.network import Place
from supervisor.health.room import HealthRoom, look
from supervisor.health.table import Watched
from supervisor.services import ServiceState
from tests.annotation_messages import created
from tests.brokers import Broker
from tests.consumers import broker_variables
from tests.installations import Installation, installation
from tests.nvml import FakeNvml
from tests.training_runs import draw_shapes
from tests.waiting import until


def declare(server: Installation, **checks: dict[str, Any]) -> None:
    """Write ``azaion.yaml``; checks that are not named look every second, too."""
    every = {name: {"interval_s": 1} for name in CHECKS}
    server.layout.state.mkdir(exist_ok=True)
    document = {"health": {"checks": every | {name: every[name] | more for name, more in checks.items()}}}
    (server.layout.state / "azaion.yaml").write_text(json.dumps(document), encoding="utf-8")


def findings(server: Installation) -> dict[str, dict[str, Any]]:
    told = server.client.get("/v1/health")["findings"]
    return {f"{each['check']} {each['subject']}".rstrip(): each for each in told}


def becomes(server: Installation, name: str, verdict: str, text: str = "", limit_s: float = 20.0) -> dict[str, Any]:
    """Wait until a finding has this verdict, and speaks of this."""

    def seen() -> dict[str, Any] | None:
        found = findings(server).get(name)
        return found if found and found["verdict"] == verdict and text in found["text"] else None

    return until(seen, f"{name} is {verdict}", limit_s)


# The command.


def test_health_of_a_well_machine_and_of_none(server: Installation) -> None:
    server.start()
    until(lambda: "loop" in findings(server), "everything has been looked at")
    told = server.json("health")
    assert told["verdict"] == "ok", told
    checks = [each["check"] for each in told["findings"]]
    assert [name for name in CHECKS if name in checks] == list(dict.fromkeys(checks))
    # No broker, no API, no GPU, no services, no .env: nobody is bothered with them.
    assert not {"broker", "publishing", "certificate", "gpu", "services", "secrets"} & set(checks)
    screen = server.ctl("health").stdout.splitlines()
    assert all(line.startswith(("ok ", "          ")) and len(line) <= 80 for line in screen)
    assert server.ctl("status").stdout.startswith("health    ok\n")
    assert server.ctl("health", "dsk").returncode == 3
    server.stop()
    none = server.ctl("health")
    assert (none.returncode, none.stdout) == (3, "")
    assert "start it with `azaiond`" in none.stderr


def test_a_warning_is_shown_until_it_is_muted_and_the_mute_outlives_the_daemon(server: Installation) -> None:
    declare(server, disk={"warning": 0, "critical": 100})
    server.start()
    disk = f"disk {server.root}"
    becomes(server, disk, "warning")
    becomes(server, "memory", "ok")
    warned = server.ctl("health")
    assert warned.returncode == 1
    assert "-> make room: azaionctl retention" in warned.stdout
    assert server.ctl("health", "memory").returncode == 0
    screen = server.ctl("status").stdout
    assert screen.startswith(f"health    WARNING {disk}: ")
    assert "\n          -> make room" in screen
    assert server.json("status")["health"]["verdict"] == "warning"
    assert server.ctl("health", "mute", "disk").returncode == 2
    assert server.ctl("health", "mute", "dsk", "--for", "1h").returncode == 1
    assert server.ctl("health", "mute", "disk", str(server.root), "--for", "1h", "--reason", "moving").returncode == 0
    server.kill()
    server.start()
    becomes(server, disk, "warning")
    muted = server.ctl("health")
    assert muted.returncode == 0
    assert "UTC: moving" in muted.stdout
    assert server.ctl("status").stdout.startswith("health    ok (1 muted)\n")
    assert server.ctl("health", "unmute", "disk", str(server.root)).returncode == 0
    assert server.ctl("health").returncode == 1
    assert server.ctl("health", "mute", "disk", "--for", "0.5s").returncode == 0
    until(lambda: server.ctl("health").returncode == 1, "the mute ends by itself")


def test_a_daemon_does_not_start_with_a_check_that_nobody_knows(server: Installation) -> None:
    server.layout.state.mkdir(exist_ok=True)
    (server.layout.state / "azaion.yaml").write_text("health: {checks: {dsk: {warning: 5}}}", encoding="utf-8")
    assert server.launch().wait(timeout=20) == 78
    assert "did you mean disk?" in (server.folder / "azaiond.log").read_text()


# Provoked for real.


def test_a_stopped_consumer_and_messages_that_wait(server: Installation) -> None:
    declare(server, offset={"warning": 2, "critical": 600})
    server.start()
    becomes(server, "consumer", "ok", "consuming")
    event = created("a", 1)
    # As while a dataset is taken: it reads, and may not commit.
    with files.locked(server.layout.commit_lock, wait=True):
        Spool(server.layout.spool).append([(event.status, event.body)])
        becomes(server, "offset", "warning", "1 messages wait")
    becomes(server, "offset", "ok", "at 1, no messages wait")
    pid = server.client.get("/v1/consumer")["pid"]
    os.kill(pid, signal.SIGSTOP)
    stopped = becomes(server, "consumer", "critical", "stopped by a signal")
    assert stopped["advice"] == f"let it go on: kill -CONT {pid}"
    assert server.ctl("health").returncode == 2
    os.kill(pid, signal.SIGCONT)
    becomes(server, "consumer", "ok")


def test_a_stopped_trainer() -> None:
    with installation(AZAION_HANG_START_S="600") as server:
        declare(server)
        draw_shapes(server.layout, images=4, size=32)
        server.start()
        number = server.client.post("/v1/jobs", {"kind": "train", "epochs": 1})["id"]
        pid = server.wait(number, "running")["attempts"][0]["pid"]
        becomes(server, f"training job {number}", "ok")
        os.kill(pid, signal.SIGSTOP)
        assert f"kill -CONT {pid}" in becomes(server, f"training job {number}", "warning")["advice"]
        server.client.post(f"/v1/jobs/{number}/cancel", query={"now": 1})
        server.wait(number)
        until(lambda: f"training job {number}" not in findings(server), "nobody speaks of it any more")


def test_faults_of_a_gpu(tmp_path: Path) -> None:
    nvml = FakeNvml(tmp_path / "nvml")
    with installation(AZAION_GPUS="0", **nvml.environment) as server:
        declare(server)
        server.start()
        assert "40 °C" in becomes(server, "gpu gpu0", "ok")["text"]
        for told, verdict, text in (
            ({"temperature_0": 90, "reasons_0": 0x40}, "warning", "90 °C; slowed down by the hardware: heat"),
            ({"ecc_0": 3, "remapping_0": 2}, "critical", "3 uncorrected"),
            ({"pid_0_0": os.getpid(), "pid_mb_0_0": 100}, "warning", f"{os.getpid()}"),
            ({"count": 0}, "critical", "fallen off the bus"),
            ({"nodriver": 1}, "critical", "no NVIDIA driver"),
        ):
            nvml.tell(**told)
            becomes(server, "gpu gpu0", verdict, text)


@contextmanager
def small_disk(place: Path, options: str) -> Iterator[None]:
    """A filesystem of its own in a folder that is there."""
    made = subprocess.run(
        ["/usr/bin/env", "mount", "-t", "tmpfs", "-o", options, "small", place], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["/usr/bin/env", "umount", "-l", place], check=True)


def test_a_disk_that_fills_up(server: Installation) -> None:
    declare(server)
    server.layout.models.mkdir()
    with small_disk(server.layout.models, "size=1000k,nr_inodes=100"):
        server.start()
        name = f"{server.layout.models}"
        becomes(server, f"disk {name}", "ok")
        ballast = server.layout.models / "ballast"
        for size, verdict in ((820, "warning"), (960, "critical"), (100, "ok")):
            ballast.write_bytes(bytes(size << 10))
            becomes(server, f"disk {name}", verdict)
        for number in range(90):
            (server.layout.models / str(number)).touch()
        becomes(server, f"inodes {name}", "warning")
        server.stop()


def test_a_memory_hog() -> None:
    before = memory.read()
    levels = Levels(warning=100 * (1 - before.available / before.total) + 100 * (256 << 20) / before.total)
    assert memory.judge(before, levels).verdict is Verdict.OK
    hog = subprocess.Popen(
        [sys.executable, "-c", "held = b'x' * (1 << 29); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert hog.stdout is not None
        hog.stdout.readline()
        until(lambda: memory.judge(memory.read(), levels).verdict is Verdict.WARNING, "it is seen")
    finally:
        hog.kill()
        hog.communicate()


# The broker.


def broker_settings(rabbit: Broker, stream: str, **more: Any) -> RabbitMQ:
    return RabbitMQ(
        **{
            "host": rabbit.host,
            "port": rabbit.port,
            "user": rabbit.user,
            "password": SecretReference("RABBITMQ_PASSWORD"),
            "queue_name": stream,
            "vhost": rabbit.vhost,
            "tls": False,
            "tls_ca": None,
            "load_balancer": False,
            "heartbeat": 20,
            **more,
        }
    )


async def test_a_broker_is_greeted_as_the_consumer_would(rabbit: Broker, stream: str) -> None:
    settings = broker_settings(rabbit, stream)
    await greet(settings, rabbit.password, None)
    for password, more, said in (
        ("wrong", {}, "refuses the user or the password"),
        (rabbit.password, {"queue_name": "absent"}, "no such stream"),
        (rabbit.password, {"vhost": "absent"}, "virtual host"),
        (rabbit.password, {"port": 1}, "cannot be reached"),
    ):
        with pytest.raises(BrokerError, match=said):
            await greet(broker_settings(rabbit, stream, **more), password, None)


async def test_what_is_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "_ANSWER_S", 0.2)
    ended = asyncio.Semaphore(0)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if hangs_up:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        else:
            await reader.read()
        writer.close()
        ended.release()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        settings = broker_settings(
            cast("Broker", SimpleNamespace(host="127.0.0.1", port=port, user="u", vhost="/")), "s"
        )
        hangs_up = False
        with pytest.raises(BrokerError, match="does not answer") as silent:
            await greet(settings, "p", None)
        assert silent.value.silent
        await ended.acquire()
        hangs_up = True
        with pytest.raises(BrokerError, match="hung up") as other:
            await greet(settings, "p", None)
        assert "RABBITMQ_PORT" in other.value.advice
        await ended.acquire()


def test_a_broker_that_is_stopped(own_rabbit: Broker) -> None:
    with installation(**broker_variables(own_rabbit, own_rabbit.stream)) as server:
        declare(server)
        server.start()
        becomes(server, "broker", "ok", "answers, stream annotations is there")
        own_rabbit.kill()
        found = becomes(server, "broker", "critical", "cannot be reached")
        assert "start RabbitMQ there" in found["advice"]
        becomes(server, "consumer", "warning", "no connection to the broker")


def certificate(folder: Path, days: int) -> Path:
    """A certificate for localhost, and its key in the same file."""
    made, command = folder / "server.pem", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    options = ["-nodes", "-days", str(days), "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        ["/usr/bin/env", "openssl", *command, *options, "-keyout", folder / "key", "-out", made],
        check=True,
        capture_output=True,
    )
    return made


async def test_a_certificate_that_ends_soon_and_one_that_nobody_trusts(tmp_path: Path) -> None:
    made = certificate(tmp_path, 10)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, tmp_path / "key")
    levels = Levels.of(CHECKS["certificate"])
    async with await asyncio.start_server(
        lambda _reader, writer: writer.close(), "localhost", 0, ssl=context
    ) as listening:
        port = listening.sockets[0].getsockname()[1]
        look = network.CertificateLook([Place(host="localhost", port=port, authority=str(made))], levels)
        (soon,) = await look()
        assert (soon.verdict, soon.text) == (Verdict.WARNING, "ends in 10 days")
        (untrusted,) = await network.CertificateLook([Place(host="localhost", port=port)], levels)()
        assert untrusted.verdict is Verdict.CRITICAL
        assert "cannot be trusted" in untrusted.text
    # It ends in ten days also while nobody answers.
    (still,) = await look()
    assert (still.verdict, still.text) == (soon.verdict, soon.text)
    (gone,) = await network.look_at_api(Place(host="localhost", port=port))
    assert gone.verdict is Verdict.CRITICAL


# The room.


def check(name: str, look: Any, **more: Any) -> Check:
    return Check(name=name, look=look, interval_s=0.01, again_s=0.01, **more)


async def good() -> list[Seen]:
    return [Seen(verdict=Verdict.OK, text="well")]


async def test_a_check_that_hangs_holds_up_nothing_and_starts_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = Apart(pipe.read_text, "hangs")
    began = 0

    async def hangs() -> list[Seen]:
        nonlocal began
        began += 1
        return [Seen(verdict=Verdict.OK, text=await reader())]

    async def breaks() -> list[Seen]:
        raise ZeroDivisionError

    loop = Loop()
    room = HealthRoom([check("hangs", hangs, limit_s=0.05), check("breaks", breaks), check("good", good)], loop, dict)
    changes = 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    room.listen(changed)
    running = asyncio.create_task(room.run())
    async with asyncio.timeout(10):
        while began < 4 or len(room.findings()) < 3:  # noqa: ASYNC110 - nothing tells of a look
            await asyncio.sleep(0.01)
    told = {each.check: each for each in room.findings()}
    assert (told["hangs"].verdict, told["breaks"].verdict, told["good"].verdict) == ("unknown", "unknown", "ok")
    assert "a look has not come back for" in told["hangs"].text
    assert "ZeroDivisionError" in told["breaks"].text
    assert changes == 2
    running.cancel()
    before = time.monotonic()
    with suppress(asyncio.CancelledError):
        await running
    assert time.monotonic() - before < 1
    with pytest.raises(UnreadableError):
        await reader()
    pipe.write_text("let it go", encoding="ascii")


async def test_a_busy_machine_makes_unknown_of_what_is_not_sure() -> None:
    loop = Loop()
    ticking = asyncio.create_task(loop.run())
    await asyncio.sleep(0)

    async def late() -> list[Seen]:
        time.sleep(1.7)  # noqa: ASYNC251 - that is what makes the loop late
        await asyncio.sleep(0.01)
        return [Seen(verdict=Verdict.CRITICAL, text="no answer", sure=sure) for sure in (False, True)]

    unsure, sure = await look(check("far", late), loop)
    assert unsure.verdict is Verdict.UNKNOWN
    assert "the machine is busy" in unsure.text
    assert sure.verdict is Verdict.CRITICAL
    assert loop.judge(Levels.of(CHECKS["loop"])).verdict is not Verdict.UNKNOWN
    ticking.cancel()


async def test_a_silent_consumer_is_killed_when_messages_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process stands for one that is stuck; what a stream holds is asked of its keeper."""
    monkeypatch.setattr(annotations, "SILENT_S", 0.0)
    monkeypatch.setattr(annotations, "KILL_S", 0.05)
    with installation() as server:
        stuck = subprocess.Popen(["/usr/bin/env", "sleep", "1000"])  # noqa: ASYNC220 - the kind that has a PID to wait for
        try:
            status = {"service": ServiceState.RUNNING, "pid": stuck.pid, "updated": 1.0, "offset": 0, "lag": 0}
            notes: list[str] = []
            settings = SimpleNamespace(layout=server.layout, daemon=SimpleNamespace(source=Source.SPOOL))
            consumer = SimpleNamespace(
                status=lambda: status, offset=lambda: None, service=SimpleNamespace(pid=stuck.pid)
            )
            watched = SimpleNamespace(
                settings=settings, consumer=consumer, store=SimpleNamespace(note=lambda kind, _text: notes.append(kind))
            )
            made = table._Table(cast("Watched", watched), CHECKS).consumer(CHECKS["consumer"])
            for _ in range(3):
                await made.look()
                await asyncio.sleep(0.05)
            assert stuck.poll() is None
            event = created("a", 1)
            Spool(server.layout.spool).append([(event.status, event.body)])
            await made.look()
            assert stuck.wait(timeout=5) == -signal.SIGKILL
            assert notes == ["consumer-killed"]
        finally:
            stuck.kill()
            stuck.wait()
