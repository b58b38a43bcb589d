"""The consumer of a broker's stream, kept alive by the daemon and shown by the command line."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from azaion import files
from azaion.annotations import offset
from azaion.annotations.quarantine import QUARANTINE_LIMIT
from supervisor import processes, services
from supervisor.services import Service, ServiceSpec, ServiceState
from tests.annotation_messages import Event, created, deleted, edited, expected, found, validated
from tests.brokers import Broker
from tests.consumers import broker_variables, end_of
from tests.installations import Installation, installation
from tests.ports import HOST
from tests.waiting import until

EVENTS = [created("a", 1), edited("a", 2, 20, ".png"), created("b", 3), validated("b", "a")]


@pytest.fixture
def site(rabbit: Broker, stream: str) -> Iterator[Installation]:
    """An installation whose annotations come from a stream; its daemon has not been started yet."""
    with installation(**broker_variables(rabbit, stream)) as made:
        yield made


def send(rabbit: Broker, stream: str, *events: Event, sub_batch: str | None = "gzip") -> None:
    rabbit.publish([(event.status, event.body) for event in events], stream=stream, sub_batch=sub_batch)


def shown(server: Installation, **wanted: object) -> dict[str, Any]:
    """Wait until `azaionctl consumer` shows it."""

    def look() -> dict[str, Any] | None:
        status: dict[str, Any] = server.client.get("/v1/consumer")
        return status if wanted.items() <= status.items() else None

    found = until(look, f"the consumer shows {wanted}")
    assert found is not None
    return found


def events(server: Installation, kind: str) -> list[str]:
    """The texts of all events of a kind."""
    told = map(json.loads, server.ctl("--json", "events", "--all").stdout.splitlines())
    return [event["text"] for event in told if event["type"] == kind]


def screens(server: Installation) -> str:
    """What people see; no line of the one screen is wider than a terminal."""
    status = server.ctl("status").stdout
    assert max(map(len, status.splitlines())) <= 80
    return server.ctl("consumer").stdout + status


def test_it_is_shown(rabbit: Broker, stream: str, site: Installation) -> None:
    site.start()
    status = shown(site, state="consuming", lag=0)
    send(rabbit, stream, *EVENTS)
    rabbit.publish([(10, b"nonsense")], stream=stream)
    shown(site, offset=5, lag=0)
    # Stopped by a stranger, it is behind; and when it goes on it has to wait for a dataset that is being taken.
    os.kill(status["pid"], signal.SIGSTOP)
    with files.locked(site.layout.commit_lock):
        send(rabbit, stream, *(created(f"late-{number}", number) for number in range(300)))
        published = time.time()
        os.kill(status["pid"], signal.SIGCONT)
        status = until(lambda: (now := shown(site)).get("lag_s") and now, "it tells how far behind it is")
        assert 256 <= status["lag"] <= 300
        assert 0 < status["lag_s"] <= time.time() - published + 5
        screen = screens(site)
        assert re.search(r"^lag +\d+ messages, the next is \d+s old$", screen, re.MULTILINE)
        assert re.search(r"^consumer  consuming, offset 5, lag \d+, [\d.]+/s, 1 quarantined$", screen, re.MULTILINE)
    status = shown(site, offset=305, lag=0)
    assert (status["service"], status["restarts"], status["applied"], status["quarantined"]) == ("running", 0, 304, 1)
    assert status["source"] == stream
    # A group is what has come when it is this one's turn.
    assert 64 <= status["largest_batch"] <= 256
    assert status["rate"] > 0
    assert status["last_error"] is None
    assert set(status) >= {"state", "since", "incarnation", "batch", "lag_s", "updated", "pid"}
    assert site.json("consumer").items() >= {name: status[name] for name in ("pid", "offset", "source")}.items()
    screen = screens(site)
    assert re.search(r"^rate +[\d.]+/s, batches of [\d.]+, at most \d+ \(last minute\)$", screen, re.MULTILINE)
    assert re.search(r"^quarantine +1 messages$", screen, re.MULTILINE)
    # Nothing that anybody may read holds the password.
    secret = rabbit.password.encode()
    assert site.stop() == 0
    assert site.layout.consumer_log.stat().st_size > 0
    assert [path for path in site.folder.rglob("*") if path.is_file() and secret in path.read_bytes()] == []
    read = [*EVENTS, *(created(f"late-{number}", number) for number in range(300))]
    assert found(site.layout) == expected(read)


def test_events_tell_and_a_person_decides(rabbit: Broker, stream: str, site: Installation) -> None:
    done = site.ctl("consumer", "resume", "--from", "first")
    assert (done.returncode, done.stdout) == (4, "")
    site.start()
    send(rabbit, stream, *EVENTS)
    old = shown(site, offset=4, lag=0)
    done = site.ctl("consumer", "resume", "--from", "first")
    assert (done.returncode, done.stderr) == (1, "azaionctl: the consumer waits for no decision: it is consuming\n")
    for wrong in ("last", "-1", "1.5", ""):
        done = site.ctl("consumer", "resume", f"--from={wrong}")
        assert done.returncode == 2
        assert "is not first, stored, next or an offset" in done.stderr
    rabbit.recreate(stream)
    send(rabbit, stream, deleted("a"))
    status = shown(site, state="blocked", undecided=True)
    reason = (
        "the stream has been made anew, or has lost messages: offset 4 is stored, and the stream holds messages 0 to 0"
    )
    assert status["last_error"] == reason
    screen = screens(site)
    assert f"last error  {reason}" in screen
    assert "It waits for your decision: azaionctl consumer resume --from ..." in screen
    assert "consumer  blocked, offset 4, lag" in screen
    until(lambda: reason in events(site, "consumer-blocked"), "an event tells it")
    done = site.ctl("consumer", "resume", "--from", "77")
    assert done.returncode == 1
    assert "the consumer is still blocked" in done.stderr
    assert "offset 77 is not in the stream: it holds messages 0 to 0" in done.stderr
    status = site.json("consumer", "resume", "--from", "first", "--yes")
    assert not status["undecided"]
    status = shown(site, state="consuming", offset=1, lag=0, last_error=None)
    assert status["incarnation"] > old["incarnation"]
    assert found(site.layout) == expected([*EVENTS, deleted("a")])
    until(lambda: len(events(site, "consumer-consuming")) >= 2, "it is told that it goes on")
    assert [text.partition(": ")[2] for text in events(site, "consumer-resume")] == [
        "from 77, was at 4",
        "from first, was at 4",
    ]


def test_a_broker_that_is_not_there_is_an_event(rabbit: Broker, stream: str) -> None:
    address = (HOST, 9)
    with installation(**broker_variables(rabbit, stream, address=address)) as site:
        site.start()
        status = shown(site, state="disconnected")
        assert "cannot be reached" in status["last_error"]
        assert "consumer  disconnected, offset 0, lag ?" in screens(site)
        until(lambda: events(site, "consumer-disconnected"), "an event tells it")
        assert site.stop() == 0


def test_killed_it_is_started_again_at_once(rabbit: Broker, stream: str, site: Installation) -> None:
    site.start()
    first = shown(site, state="consuming")["pid"]
    began = time.monotonic()
    os.kill(first, signal.SIGKILL)
    second = until(lambda: next((pid for pid in children(site) if pid != first), None), "another process")
    print(f"another process {1000 * (time.monotonic() - began):.0f} ms after SIGKILL")
    send(rabbit, stream, *EVENTS)
    assert shown(site, offset=4, lag=0)["pid"] == second
    assert shown(site)["restarts"] == 1
    os.kill(second, signal.SIGKILL)
    until(lambda: any("again in 1 s" in text for text in events(site, "service-waiting")), "it waits")
    assert [text.rpartition("; ")[2] for text in events(site, "service-waiting")] == ["again in 0 s", "again in 1 s"]
    assert shown(site, state="consuming", restarts=2)["pid"] not in {first, second}
    assert found(site.layout) == expected(EVENTS)


def children(site: Installation) -> list[int]:
    """The PIDs of the daemon's children that live."""
    assert site.daemon is not None
    pids = Path(f"/proc/{site.daemon.pid}/task/{site.daemon.pid}/children").read_text(encoding="ascii").split()
    return [pid for pid in map(int, pids) if processes.identify(pid) is not None]


async def test_a_child_that_ends_again_and_again_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "BACKOFF_S", 0.001)
    told: list[tuple[str, str]] = []
    spec = ServiceSpec(name="stumbler", argv=[sys.executable, "-c", "raise SystemExit(3)"], log=tmp_path / "its.log")
    service = Service(spec, lambda kind, text: told.append((kind, text)))
    running = asyncio.create_task(service.run())
    async with asyncio.timeout(30):
        while service.restarts < 7:  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.01)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    failing = [number for number, (kind, _) in enumerate(told) if kind == "service-failing"]
    assert len(failing) == 1
    assert told[failing[0]][1] == f"stumbler: has ended 5 times in a row, the last time with 3; see {spec.log}"
    assert [kind for kind, _ in told[: failing[0]]].count("service-running") == 5


async def test_one_that_was_refused_is_tried_again_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "REFUSED_S", 0.05)
    monkeypatch.setattr(services, "_PROVEN_S", 0.2)
    told: list[str] = []
    mended, tries = tmp_path / "mended", tmp_path / "tries"
    code = f"echo >> {tries}; [ -e {mended} ] || exit 78; exec sleep 60"
    spec = ServiceSpec(name="prim", argv=["/bin/sh", "-c", code], log=tmp_path / "its.log")
    service = Service(spec, lambda kind, _: told.append(kind))
    running = asyncio.create_task(service.run())
    async with asyncio.timeout(30):
        while not tries.exists() or tries.read_text().count("\n") < 4:  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.01)
        assert (told, service.state) == (["service-running", "service-refused"], ServiceState.REFUSED)
        mended.touch()
        while service.state is not ServiceState.RUNNING:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.01)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert told == ["service-running", "service-refused", "service-running", "service-stopping", "service-stopped"]


def test_a_killed_daemon_leaves_no_second_writer(rabbit: Broker, stream: str, site: Installation) -> None:
    """The old consumer ends by itself; while it commits, and holds the tree, the next one waits."""
    site.start(failpoints="store.files.settled=2:stop")
    send(rabbit, stream, *EVENTS[:2])
    first = shown(site, offset=2)["pid"]
    send(rabbit, stream, *EVENTS[2:])
    until(lambda: "\nState:\tT" in Path(f"/proc/{first}/status").read_text(encoding="ascii"), "it stands in a commit")
    before = site.layout.offset.read_bytes()
    site.kill()
    site.start()
    second = shown(site, state="waiting-for-lock")["pid"]
    assert second != first
    who = processes.identify(first)
    assert who is not None
    assert site.layout.offset.read_bytes() == before
    os.kill(first, signal.SIGCONT)
    until(lambda: not processes.alive(who), "the old consumer ends")
    assert shown(site, state="consuming", offset=4, lag=0)["pid"] == second
    assert found(site.layout) == expected(EVENTS)
    # And without any of that: at once.
    third = processes.identify(second)
    assert third is not None
    began = time.monotonic()
    site.kill()
    until(lambda: not processes.alive(third), "a consumer ends with its daemon")
    print(f"ended {1000 * (time.monotonic() - began):.0f} ms after its daemon")


def test_a_full_quarantine_blocks_until_something_is_dropped(rabbit: Broker, stream: str, site: Installation) -> None:
    site.start()
    shown(site, state="consuming")
    for number in range(QUARANTINE_LIMIT - 1):
        (site.layout.quarantine / f"{number}-1").mkdir()
    rabbit.publish([(10, b"nonsense")], stream=stream)
    shown(site, offset=1)
    send(rabbit, stream, *EVENTS)
    status = shown(site, state="blocked")
    assert "the quarantine is full: it holds 10000 messages" in status["last_error"]
    # It goes on by itself: there is nothing to decide.
    assert not status["undecided"]
    assert "waits for your decision" not in screens(site)
    assert site.ctl("consumer", "resume", "--from", "first").returncode == 1
    position = offset.read(site.layout.offset)
    assert position is not None
    assert position.offset == 1
    assert found(site.layout) == {}
    assert site.ctl("quarantine", "drop", "0", "--yes").returncode == 0
    shown(site, state="consuming", offset=end_of(rabbit, stream), lag=0, last_error=None)
    assert found(site.layout) == expected(EVENTS)
    assert any("quarantine is full" in text for text in events(site, "consumer-blocked"))
