"""The consumer as a process: what it takes, what it tells, how it ends."""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from azaion import files
from azaion.annotations import offset
from azaion.annotations.consumer import Consumer
from azaion.annotations.offset import Position
from azaion.annotations.sources import SpoolSource
from azaion.annotations.store import AnnotationStore
from tests.annotation_messages import (
    VALIDATOR,
    created,
    deleted,
    edited,
    expected,
    found,
    messages,
    quarantined,
    validated,
)
from tests.annotation_trees import picture
from tests.consumers import Consuming, consuming
from tests.installations import Installation
from tests.waiting import until

EVENTS = [
    *(created(f"clip-{number}", number) for number in range(20)),
    validated("clip-1", "clip-2"),
    edited("clip-3", None, VALIDATOR),
    edited("clip-4", 40, extension=".png"),
    deleted("clip-5", "clip-2"),
]


@pytest.fixture
def root() -> Iterator[Consuming]:
    with consuming() as made:
        yield made


def test_it_consumes_and_tells(root: Consuming) -> None:
    process = root.start()
    root.told(state="consuming", offset=0)
    began = time.time()
    root.send(EVENTS)
    status = root.told(offset=len(EVENTS), lag=0)
    assert found(root.layout) == expected(EVENTS)
    assert status["state"] == "consuming"
    assert status["pid"] == process.pid
    assert status["incarnation"] == root.spool.incarnation
    assert (status["applied"], status["quarantined"], status["last_error"]) == (len(EVENTS), 0, None)
    assert status["source"] == str(root.layout.spool)
    assert status["rate"] > 0
    assert status["updated"] >= began
    root.send([created("late", 99)])
    root.told(offset=len(EVENTS) + 1)
    assert "late" in found(root.layout)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_what_is_in_hand_committed(root: Consuming, number: signal.Signals) -> None:
    root.send(EVENTS)
    # In the middle of the commit of the first group.
    process = root.start("store.files.written=1:delay")
    root.told(state="consuming")
    until(lambda: list(root.layout.seed.images.glob(".tmp-*")), "the first group is being written")
    process.send_signal(number)
    began = time.monotonic()
    assert process.wait(10) == 0, root.log
    assert time.monotonic() - began < 3
    assert root.offset == len(EVENTS)
    assert found(root.layout) == expected(EVENTS)
    assert root.status["state"] == "stopped"


def test_it_ends_with_its_parent(root: Consuming) -> None:
    process = root.start()
    root.told(state="consuming")
    assert process.stdin is not None
    process.stdin.write(b"x")
    process.stdin.flush()
    root.send(EVENTS)
    root.consumed(process)
    process.stdin.close()
    assert process.wait(5) == 0, root.log
    assert root.status["state"] == "stopped"


def test_a_second_one_waits_and_takes_over(root: Consuming) -> None:
    first = root.start()
    root.told(state="consuming", pid=first.pid)
    second = root.start()
    root.told(state="waiting-for-lock", pid=second.pid)
    third = root.start()
    root.told(state="waiting-for-lock", pid=third.pid)
    # One that never had the tree has nothing to tell of its end.
    root.stop(third)
    assert root.status["state"] == "waiting-for-lock"
    root.send(EVENTS[:5])
    root.told(pid=first.pid, offset=5)
    first.kill()
    root.told(pid=second.pid, state="consuming", offset=5)
    root.send(EVENTS[5:])
    root.told(pid=second.pid, offset=len(EVENTS))
    assert found(root.layout) == expected(EVENTS)


def test_a_bad_message_is_put_aside_and_the_stream_goes_on(root: Consuming) -> None:
    process = root.start()
    root.send(EVENTS[:3])
    root.spool.append([(10, b"nonsense"), ("Gone", b""), (10, created("../../x").body)])
    (root.layout.spool / f"{6:020}.msg").symlink_to("/etc/passwd")
    root.send(EVENTS[3:])
    status = root.told(offset=len(EVENTS) + 4)
    assert (status["applied"], status["quarantined"]) == (len(EVENTS), 4)
    assert found(root.layout) == expected(EVENTS)
    reasons = quarantined(root.layout)
    assert set(reasons) == {"3", "4", "5", "6"}
    assert (root.layout.quarantine / "3" / "message.bin").read_bytes() == b"nonsense"
    assert "link" in reasons["6"]["reason"]
    # Counted by the next one too.
    root.stop(process)
    root.start()
    assert root.told(state="consuming")["quarantined"] == 4


def blocked(root: Consuming) -> str:
    before = root.layout.offset.read_bytes()
    process = root.start()
    status = root.told(state="blocked", pid=process.pid)
    assert "blocked" in root.log
    assert process.poll() is None
    root.stop(process)
    assert root.layout.offset.read_bytes() == before
    assert found(root.layout) == {}
    return str(status["last_error"])


def test_it_blocks_where_going_on_would_lose_messages(root: Consuming) -> None:
    offset.write(root.layout.offset, Position(5, 3))
    assert "offset 3 of stream 5 is stored, but the spool is empty" in blocked(root)
    root.send(EVENTS)
    stream = root.spool.incarnation
    assert stream is not None
    reason = blocked(root)
    assert str(stream) in reason
    assert "than the one that was read (5) up to offset 3" in reason
    offset.write(root.layout.offset, Position(stream, 99))
    assert f"offset 99 is stored, but the spool ends at {len(EVENTS)}" in blocked(root)
    (root.layout.spool / f"{7:020}.msg").unlink()
    offset.write(root.layout.offset, Position(stream, 7))
    assert f"message 7 of the spool is missing, but there are later ones up to {len(EVENTS) - 1}" in blocked(root)
    root.layout.offset.write_text("torn: {", encoding="utf-8")
    assert "Restore it from a backup, or decide where to go on" in blocked(root)
    offset.write(root.layout.offset, Position(stream, 0))
    (root.layout.spool / "incarnation").write_text("", encoding="utf-8")
    assert "damaged" in blocked(root)


def test_a_restored_offset_is_gone_on_from_at_once(root: Consuming) -> None:
    root.send(EVENTS[:6])
    process = root.start()
    root.consumed(process)
    root.stop(process)
    backup = root.layout.offset.read_bytes()
    root.layout.offset.write_text("torn: {", encoding="utf-8")
    root.send(EVENTS[6:])
    process = root.start()
    root.told(state="blocked", pid=process.pid, undecided=True)
    root.layout.offset.write_bytes(backup)
    root.consumed(process)
    root.told(state="consuming", undecided=False)
    assert found(root.layout) == expected(EVENTS)


def test_an_older_spool_that_is_gone_back_to_counts_as_a_later_one(root: Consuming) -> None:
    root.send(EVENTS[:6])
    process = root.start()
    root.consumed(process)
    root.stop(process)
    stream = root.spool.incarnation
    assert stream is not None
    # Meanwhile another stream was read, and what it told is on record.
    later = stream + 10**9
    AnnotationStore(root.layout).apply(messages([edited("clip-3", None, VALIDATOR)]), later)
    offset.write(root.layout.offset, Position(later, 1, stream="another"))
    process = root.start()
    root.told(state="blocked", pid=process.pid)
    root.layout.consumer_request.write_text(json.dumps({"from": "next", "position": [later, 1]}), encoding="utf-8")
    root.told(state="consuming", pid=process.pid)
    root.send([deleted("clip-3")])
    root.consumed(process)
    assert found(root.layout)["clip-3"].folder == "data_deleted"
    assert root.spool.incarnation == later + 1


async def test_nobody_else_goes_on_while_a_cancelled_commit_works(
    root: Consuming, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.send(EVENTS)
    at_work, go_on = threading.Event(), threading.Event()
    take = AnnotationStore._take

    def slow(*arguments: Any, **options: Any) -> None:
        at_work.set()
        go_on.wait(20)
        take(*arguments, **options)

    monkeypatch.setattr(AnnotationStore, "_take", slow)
    consuming = asyncio.create_task(Consumer(root.layout, SpoolSource(root.spool, "spool"), asyncio.Event()).run())
    await asyncio.to_thread(at_work.wait, 20)
    consuming.cancel()
    done, _ = await asyncio.wait([consuming], timeout=0.2)
    go_on.set()
    with suppress(asyncio.CancelledError):
        await consuming
    assert not done
    await asyncio.get_running_loop().shutdown_default_executor()
    assert found(root.layout) == expected(EVENTS[: root.offset])


def test_a_quarantine_that_cannot_be_read_stops_no_consumer_at_its_commit(root: Consuming) -> None:
    process = root.start()
    root.told(state="consuming", pid=process.pid)
    away = root.server.folder / "away"
    root.layout.quarantine.rename(away)
    os.utime(root.layout.root)
    root.send(EVENTS)
    # It may end, and is then started again; what it has noted is there.
    until(lambda: process.poll() is not None or "cannot" in root.log, "it has noticed")
    away.rename(root.layout.quarantine)
    if process.poll() is not None:
        process = root.start()
    root.consumed(process)
    assert found(root.layout) == expected(EVENTS)


def test_without_an_offset_the_stream_is_read_again_and_changes_nothing(root: Consuming) -> None:
    root.send(EVENTS)
    process = root.start()
    root.consumed(process)
    root.stop(process)
    before = {path: path.stat().st_ino for path in root.layout.seed.images.iterdir()}
    root.layout.offset.unlink()
    root.consumed(root.start())
    assert found(root.layout) == expected(EVENTS)
    assert {path: path.stat().st_ino for path in root.layout.seed.images.iterdir()} == before


def test_nothing_is_committed_while_a_dataset_is_taken(root: Consuming) -> None:
    process = root.start()
    root.told(state="consuming")
    with files.locked(root.layout.commit_lock):
        root.send(EVENTS)
        time.sleep(0.5)
        assert not list(root.layout.root.rglob("*.jpg"))
        assert root.offset == 0
        assert root.status["state"] == "consuming"
    root.consumed(process)
    with files.locked(root.layout.commit_lock):
        root.send([created("more", 77)])
        time.sleep(0.3)
        # Nobody who ends it has to wait for the dataset.
        root.stop(process)
    assert found(root.layout) == expected(EVENTS)
    root.consumed(root.start())
    assert "more" in found(root.layout)


@pytest.mark.parametrize("text", ["", "{", "no: configuration", None])
def test_a_configuration_that_is_none_ends_it_with_78(root: Consuming, text: str | None) -> None:
    if text is None:
        root.layout.config.unlink()
    else:
        root.layout.config.write_text(text, encoding="utf-8")
    assert root.start().wait(10) == 78
    assert "cannot start" in root.log


def test_a_password_that_is_nowhere_ends_it_with_78(root: Consuming) -> None:
    root.configure(
        AZAION_SOURCE="rabbitmq",
        RABBITMQ_HOST="127.0.0.1",
        RABBITMQ_PORT="5552",
        RABBITMQ_USER="u",
        RABBITMQ_PASSWORD="p",  # noqa: S106
        RABBITMQ_QUEUE_NAME="q",
    )
    assert root.start().wait(10) == 78
    assert "The secret RABBITMQ_PASSWORD was not found" in root.log


def test_an_absent_root_ends_it_with_71(root: Consuming) -> None:
    """It may be a disk that comes back."""
    root.layout.root.rename(root.server.folder / "elsewhere")
    assert root.start().wait(10) == 71
    (root.server.folder / "elsewhere").rename(root.layout.root)


def test_through_the_daemon(server: Installation) -> None:
    """A folder of a user's, `annotations import`, and `status` shows where the stream is."""
    folder = server.folder / "mine"
    folder.mkdir()
    for number in range(5):
        (folder / f"film-{number}.jpg").write_bytes(picture(number))
        (folder / f"film-{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n", encoding="utf-8")
    (folder / "bad.jpg").write_bytes(b"none")
    server.start()
    done = server.ctl("annotations", "import", str(folder), "--media-from", "^(.*)-")
    assert done.returncode == 1
    assert "5 annotations sent" in done.stdout
    assert "bad.jpg" in done.stderr
    status = until(lambda: (now := server.json("status")["consumer"]).get("offset") == 5 and now, "offset 5")
    assert (status["service"], status["state"], status["lag"]) == ("running", "consuming", 0)
    assert "offset 5, lag 0" in server.ctl("status").stdout
    tree = found(server.layout)
    assert {name: (lying.folder, lying.image) for name, lying in tree.items()} == {
        f"film-{number}": ("data", picture(number)) for number in range(5)
    }
    assert {files.read_json(path)["media"] for path in server.layout.records.iterdir()} == {"film"}
    # Killed by a stranger, it is started again; with the daemon it ends.
    os.kill(status["pid"], signal.SIGKILL)

    def another() -> bool:
        now = files.read_json(server.layout.consumer_status)
        return bool(now["pid"] != status["pid"] and now["state"] == "consuming")

    until(another, "another consumer")
    assert server.json("status")["consumer"]["restarts"] == 1
    assert server.stop() == 0
    assert files.read_json(server.layout.consumer_status)["state"] == "stopped"
