"""Alerts as they arrive: a real daemon, a real webhook that is well, slow, refusing, broken, and a real mail server."""

import asyncio
import email
import email.policy
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.installations import Installation
from tests.waiting import until

#: A part of every address here; it must be seen nowhere.
SECRET = "hush4f6a91cc"  # noqa: S105 - of nobody


class Webhook(ThreadingHTTPServer):
    """Takes what `json://` sends; answers as it is told."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.code = 200
        self.pause = threading.Event()
        self.pause.set()
        self.got: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"json://u:{SECRET}@127.0.0.1:{self.server_port}/{SECRET}"

    def text(self) -> str:
        return "\n".join(each["message"] for each in self.got)


class _Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.pause.wait(60)
        if self.server.code == 200:
            self.server.got.append(body)
        self.send_response(self.server.code)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@contextmanager
def webhook(port: int = 0) -> Iterator[Webhook]:
    made = Webhook(port)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        made.pause.set()
        made.shutdown()
        made.server_close()
        thread.join()


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as made:
        yield made


def declare(server: Installation, channels: dict[str, Any], **checks: Any) -> None:
    server.layout.state.mkdir(exist_ok=True)
    alerts = {"gather_s": 0.2, "gap_s": 0, "channels": channels}
    document = {"alerts": alerts, "health": {"checks": checks}}
    (server.layout.state / "azaion.yaml").write_text(json.dumps(document), encoding="utf-8")


def channel(server: Installation, name: str) -> dict[str, Any]:
    (found,) = [each for each in server.client.get("/v1/alerts")["channels"] if each["name"] == name]
    return dict(found)


def assert_hushed(server: Installation) -> None:
    """No part of an address has become known anywhere."""
    told = (server.folder / "azaiond.log").read_text()
    told += "".join(server.ctl(*words).stdout for words in (["alerts", "--json"], ["status", "--json"], ["events"]))
    assert SECRET not in told


def test_an_alert_is_raised_survives_a_restart_and_is_resolved(server: Installation, hook: Webhook) -> None:
    low = {"warning": 0, "critical": 100, "interval_s": 1}
    declare(server, {"ops": {"url": hook.url}}, disk=low)
    server.start()
    disk = f"disk {server.root}"
    until(lambda: f"WARNING {disk}: " in hook.text(), "the disk is told of")
    assert "-> make room" in hook.text()
    until(lambda: channel(server, "ops")["last_success"], "the daemon knows")
    server.kill()
    server.start()
    # Something else that must come makes sure that it has looked.
    number = server.submit("exit 3")
    until(lambda: f"WARNING job {number}: " in hook.text(), "a failed job is told of")
    assert hook.text().count(f"WARNING {disk}: ") == 1
    assert f"{disk} (for " in server.ctl("alerts").stdout
    server.stop()
    declare(server, {"ops": {"url": hook.url}}, disk=low | {"warning": 99.9})
    server.start()
    until(lambda: f"ok again {disk}: " in hook.text(), "it is over")
    assert server.json("alerts")["open"] == []
    told = server.client.get("/v1/events", {"after": 0, "type": "alert-raised,alert-resolved"})
    types = [event["type"] for event in told]
    assert types == ["alert-raised", "alert-resolved"]
    assert_hushed(server)


@pytest.mark.parametrize("step", ["before-commit", "committed"])
def test_an_alert_is_told_though_the_daemon_dies_as_it_is_raised(
    server: Installation, hook: Webhook, step: str
) -> None:
    declare(server, {"ops": {"url": hook.url}}, disk={"warning": 0, "critical": 100, "interval_s": 1})
    daemon = server.launch(f"store.alerts.{step}=1:kill")
    until(lambda: daemon.poll() is not None, "the daemon dies")
    assert "WARNING" not in hook.text()
    server.start()
    disk = f"disk {server.root}"
    until(lambda: f"WARNING {disk}: " in hook.text(), "the disk is told of")
    told = [event["text"] for event in server.client.get("/v1/events", {"type": "alert-raised"})]
    assert len([text for text in told if disk in text]) == 1


def test_jobs_are_told_of_and_a_channel_hears_what_it_wants(server: Installation, hook: Webhook) -> None:
    with webhook() as other:
        wants = {"levels": ["info"], "kinds": ["finished", "resumed"]}
        declare(server, {"ops": {"url": hook.url}, "few": {"url": other.url, **wants}})
        server.start()
        bad, good = server.submit("exit 3"), server.submit("exit 0")
        until(lambda: f"job {good}: (command" in other.text(), "the good one is told of")
        until(lambda: f"job {bad}: (command" in hook.text(), "the bad one is told of")
        assert "exit 3" in hook.text() or "code 3" in hook.text(), hook.text()
        assert f"job {bad}: " not in other.text()
        again = server.submit("test -e again || { touch again; sleep 600; }")
        server.wait(again, "running")
        until((server.folder / "again").exists, "it has begun")
        server.client.post(f"/v1/jobs/{again}/cancel")
        server.wait(again, "cancelled")
        last = server.submit("exit 0")
        until(lambda: f"job {last}: (command" in other.text(), "the last one is told of")
        # Whoever cancels knows it.
        assert f"job {again}: " not in hook.text()


def test_a_channel_that_is_broken_is_shown_and_told_to_the_others(server: Installation, hook: Webhook) -> None:
    with webhook() as ill:
        ill.code = 500
        declare(server, {"ops": {"url": hook.url}, "ill": {"url": ill.url}})
        server.start()
        number = server.submit("exit 0")
        until(lambda: f"job {number}: " in hook.text(), "the well one takes it")
        until(lambda: channel(server, "ill")["dead"], "three failures", 40)
        until(lambda: "WARNING channel ill: has taken no message in 3 tries" in hook.text(), "the other hears of it")
        assert "error=500" in channel(server, "ill")["error"]
        assert "alert     channel ill takes no messages" in server.ctl("status").stdout
        assert "DEAD, failed" in server.ctl("alerts").stdout
        tried = server.ctl("alerts", "test")
        assert tried.returncode == 1
        assert "ill        NOT TAKEN: " in tried.stdout
        assert "ops        taken in " in tried.stdout
        (tested,) = server.client.get("/v1/events", {"after": 0, "type": "alert-tested,asked"})
        assert (tested["type"], tested["text"]) == ("alert-tested", "ops, ill")
        assert server.ctl("alerts", "test", "oops").stderr.count("there is: ops, ill") == 1
        # What waits outlives the daemon.
        server.kill()
        ill.code = 200
        server.start()
        until(lambda: f"job {number}: " in ill.text(), "it has come in the end")
        until(lambda: "ok again channel ill" in hook.text(), "the other hears of that, too")
        assert not server.client.get("/v1/status")["alerts"]
        assert_hushed(server)


def test_a_channel_that_is_slow_or_gone_holds_up_nobody(server: Installation, hook: Webhook) -> None:
    with webhook() as slow:
        slow.pause.clear()
        gone = f"json://127.0.0.1:9/{SECRET}"
        declare(server, {"slow": {"url": slow.url}, "gone": {"url": gone}, "ops": {"url": hook.url}})
        server.start()
        began = time.monotonic()
        number = server.submit("exit 0")
        until(lambda: f"job {number}: " in hook.text(), "nobody waits for the slow one")
        assert time.monotonic() - began < 10
        until(lambda: "timed out" in channel(server, "slow")["error"], "it is given up")
        assert "Connection refused" in channel(server, "gone")["error"]
        assert server.stop() == 0
        server.start()
        assert_hushed(server)


def test_the_secret_of_a_channel_that_is_nowhere(server: Installation) -> None:
    declare(server, {"ops": {"url": {"variable": "NO_SUCH_SECRET"}}, "odd": {"url": f"jsn://x/{SECRET}"}})
    server.start()
    tried = server.ctl("alerts", "test")
    assert tried.returncode == 1
    assert "The secret NO_SUCH_SECRET was not found" in tried.stdout
    assert "Apprise does not understand the address" in tried.stdout
    assert_hushed(server)


async def test_mail(server: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    mails: list[str] = []
    sink = await asyncio.start_server(lambda reader, writer: _smtp(reader, writer, mails), "127.0.0.1", 0)
    port = sink.sockets[0].getsockname()[1]
    async with sink:
        url = f"mailto://127.0.0.1:{port}/?from=server@example.org&to=ops@example.org&mode=insecure"
        declare(server, {"mail": {"url": {"variable": "OPS_MAIL"}}})
        monkeypatch.setenv("OPS_MAIL", url)
        await asyncio.to_thread(server.start)
        tried = await asyncio.to_thread(server.json, "alerts", "test", "mail")
        assert tried[0]["ok"], tried
    (mail,) = mails
    parsed = email.message_from_string(mail, policy=email.policy.default)
    assert str(parsed["Subject"]).endswith("] a test")
    assert "Nothing is wrong" in str(parsed.get_body(("plain", "html")))


async def _smtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mails: list[str]) -> None:
    writer.write(b"220 sink\r\n")
    while line := await reader.readline():
        if line.upper().startswith(b"DATA"):
            writer.write(b"354 go on\r\n")
            mails.append((await reader.readuntil(b"\r\n.\r\n")).decode())
        writer.write(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 sink\r\n")
    writer.close()
