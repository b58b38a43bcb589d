"""Messages in quarantine: what is known of them, trying them again, giving them up."""

import json
import multiprocessing
import os
import random
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from azaion import failpoints, files
from azaion.annotations import quarantine as quarantine_module
from azaion.annotations import retries, wire
from azaion.annotations.quarantine import Quarantine, QuarantineError
from azaion.annotations.retries import retry_marked
from azaion.annotations.store import AnnotationStore
from azaion.annotations.stream import Form, Message
from azaion.layout import Layout
from tests import annotation_trees
from tests.annotation_messages import (
    CREATED,
    VALIDATOR,
    Event,
    created,
    deleted,
    edited,
    expected,
    found,
    messages,
    quarantined,
    validated,
)

STREAM = 7


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return annotation_trees.tree(tmp_path)


@pytest.fixture
def quarantine(layout: Layout) -> Quarantine:
    return Quarantine(layout.quarantine)


def put(layout: Layout, *put: Message, incarnation: int = STREAM, reason: str = "why not") -> None:
    for message in put:
        Quarantine(layout.quarantine).put(message, incarnation, reason)


def bad(offset: int, body: bytes = b"nonsense", **more: Any) -> Message:
    return Message(offset=offset, status=10, body=body, **more)


def retry(layout: Layout, *names: str) -> dict[str, str | None]:
    """By a store of its own, as if the consumer had been started for it."""
    Quarantine(layout.quarantine).mark(names, "somebody")
    return dict(retry_marked(AnnotationStore(layout), layout))


# Looking.


def test_what_is_known_of_a_message(layout: Layout, quarantine: Quarantine) -> None:
    put(layout, bad(30), bad(4, b"xyz"), reason="it is bad")
    put(layout, bad(4, b"other"), incarnation=3)
    entries = quarantine.entries()
    assert [(entry.id, entry.incarnation, entry.offset) for entry in entries] == [
        ("4-3", 3, 4),
        ("4", STREAM, 4),
        ("30", STREAM, 30),
    ]
    entry = quarantine.get("4")
    assert entry == entries[1]
    assert (entry.status, entry.form, entry.count, entry.bytes, entry.reason) == (10, Form.BODY, 1, 3, "it is bad")
    assert (entry.attempts, entry.retried, entry.marked, entry.damage) == (0, None, False, None)
    assert entry.time is not None
    assert quarantine.read(entry) == Message(offset=4, status=10, body=b"xyz")
    assert quarantine.head("4", 2) == b"xy"
    assert (quarantine.count(), quarantine.size()) == (3, 16)


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "/etc", "../4", "4/", "04", "-4", "4-", "4-5-6", "4\n", "٤", "4 ", "4\0", "9" * 20, "9" * 5000],
)  # fmt: skip
def test_no_name_leads_out_of_the_quarantine(layout: Layout, quarantine: Quarantine, name: str) -> None:
    put(layout, bad(4))
    before = annotation_trees.content(layout.root)
    with pytest.raises(QuarantineError, match="there is no message"):
        quarantine.get(name)
    with pytest.raises(QuarantineError, match="there is no message"):
        quarantine.head(name, 10)
    assert quarantine.mark([name], "somebody") == []
    assert "there is no message" in quarantine.drop([name])[name]
    assert annotation_trees.content(layout.root) == before


def test_links_are_no_messages(layout: Layout, quarantine: Quarantine, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "message.bin").write_bytes(b"secret")
    (outside / "reason.json").write_text('{"reason": "secret", "offset": 5, "incarnation": 7, "bytes": 6}')
    (layout.quarantine / "5").symlink_to(outside)
    (layout.quarantine / "6").write_text("a file")
    put(layout, bad(7))
    (layout.quarantine / "8").mkdir()
    for name in ("message.bin", "reason.json"):
        (layout.quarantine / "8" / name).symlink_to(outside / name)
    (layout.quarantine / "8" / "retry").symlink_to(outside / "message.bin")
    assert [entry.id for entry in quarantine.entries()] == ["8", "7"]
    assert quarantine.count() == 2
    with pytest.raises(QuarantineError):
        quarantine.get("5")
    linked = quarantine.get("8")
    assert (linked.bytes, linked.marked) == (0, True)
    assert "secret" not in linked.reason
    with pytest.raises(QuarantineError, match="link"):
        quarantine.head("8", 10)
    assert quarantine.asked("8") == {}
    assert retry(layout, "5", "6", "8") == {"8": linked.damage}
    assert set(quarantine.drop(["5", "6", "8"])) == {"5", "6"}
    assert not (layout.quarantine / "8").exists()
    assert sorted(path.name for path in outside.iterdir()) == ["message.bin", "reason.json"]
    assert (outside / "message.bin").read_bytes() == b"secret"


DAMAGES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"{}",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"reason": 5, "offset": "x", "incarnation": [], "status": {}, "form": [1], "count": -1, "time": 5, "bytes": 8}',
    b'{"offset": 10, "incarnation": 7, "bytes": 8, "reason": "another\'s"}',
    b'{"offset": 9, "incarnation": 1e999, "bytes": 8, "reason": "infinite"}',
    b'{"offset": 9, "incarnation": ' + b"9" * 5000 + b', "bytes": 8}',
    b'{"offset": 9, "incarnation": 99999999999999999999, "bytes": 8}',
    b'{"offset": 9, "incarnation": 7, "bytes": 7, "attempts": "many"}',
    b'{"offset": 9, "incarnation": 7, "bytes": 8, "form": "letter"}',
    b'{"offset": 9, "incarnation": true, "bytes": 8}',
    None,
]


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_damaged_reason_is_listed_and_cannot_be_retried(
    layout: Layout, quarantine: Quarantine, reason: bytes | None
) -> None:
    put(layout, bad(9), bad(10))
    path = layout.quarantine / "9" / "reason.json"
    if reason is None:
        path.unlink()
    else:
        path.write_bytes(reason)
    entry = quarantine.entries()[0] if quarantine.entries()[0].id == "9" else quarantine.entries()[1]
    assert (entry.id, entry.offset, entry.bytes) == ("9", 9, 8)
    assert entry.damage
    assert entry.reason
    assert quarantine.count() == 2
    with pytest.raises(QuarantineError):
        quarantine.read(entry)
    assert retry(layout, "9") == {"9": entry.damage}
    assert not quarantine.get("9").marked
    if reason is not None and (not reason.startswith(b"{") or reason == b"{"):
        assert path.read_bytes() == reason
    assert quarantine.drop(["9"]) == {}
    assert [entry.id for entry in quarantine.entries()] == ["10"]


def test_torn_bytes_are_never_applied(layout: Layout, quarantine: Quarantine) -> None:
    body = created("a").body
    put(layout, bad(1, body), bad(2, body), bad(3, body))
    os.truncate(layout.quarantine / "1" / "message.bin", len(body) - 1)
    (layout.quarantine / "2" / "message.bin").unlink()
    (layout.quarantine / "3" / "message.bin").unlink()
    os.mkfifo(layout.quarantine / "3" / "message.bin")
    done = retry(layout, "1", "2", "3")
    assert f"it has {len(body) - 1} bytes, not {len(body)}" in str(done["1"])
    assert "is gone" in str(done["2"]) or "damaged" in str(done["2"])
    assert "is gone" in str(done["3"])
    assert found(layout) == {}
    assert quarantine.drop(["1", "2", "3"]) == {}
    assert quarantine.count() == 0


def test_an_entry_of_the_first_version(layout: Layout) -> None:
    folder = layout.quarantine / "3"
    folder.mkdir()
    body = created("a").body
    (folder / "message.bin").write_bytes(body)
    (folder / "reason.json").write_text(
        json.dumps({"reason": "r", "incarnation": STREAM, "offset": 3, "status": 10, "bytes": len(body), "time": "t"})
    )
    assert retry(layout, "3") == {"3": None}
    assert found(layout) == expected([created("a")])


def test_a_reason_that_is_no_text_can_be_written_again(layout: Layout, quarantine: Quarantine) -> None:
    put(layout, bad(1), reason="the file \udce4 is odd")
    retry(layout, "1")
    put(layout, bad(2), reason="the file \udce4 is odd")
    quarantine.failed("2", "still \udce4")
    assert [entry.reason for entry in quarantine.entries()] == [
        quarantine.get("1").reason,
        "still ?",
    ]


# How much there is.


def test_it_is_listed_anew_only_when_it_has_changed(
    layout: Layout, quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(layout, bad(1), bad(2))
    os.utime(layout.quarantine, ns=(0, 10**18))
    assert quarantine.count() == 2
    with monkeypatch.context() as patch:
        patch.setattr(Quarantine, "_names", None)
        assert (quarantine.count(), quarantine.size(), quarantine.marked()) == (2, 16, [])
        assert quarantine.full() is None
    # Another process asks and drops.
    Quarantine(layout.quarantine).mark(["2"], "somebody")
    assert quarantine.marked() == ["2"]
    Quarantine(layout.quarantine).drop(["1"])
    assert (quarantine.count(), quarantine.size()) == (1, 8)
    put(layout, bad(11), bad(3, b"larger still"))
    assert (quarantine.count(), quarantine.size()) == (3, 28)


def test_no_change_is_missed_however_soon_it_comes(layout: Layout, quarantine: Quarantine) -> None:
    for number in range(300):
        put(layout, bad(number))
        assert quarantine.count() == number + 1


def test_it_is_full_and_has_room_again(layout: Layout, quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch) -> None:
    put(layout, bad(1), bad(2))
    assert quarantine.full() is None
    monkeypatch.setattr(quarantine_module, "QUARANTINE_LIMIT", 2)
    assert "holds 2 messages with 16 bytes, and may hold 2" in str(quarantine.full())
    assert "azaionctl quarantine drop" in str(quarantine.full())
    quarantine.drop(["1"])
    assert quarantine.full() is None
    monkeypatch.setattr(quarantine_module, "QUARANTINE_BYTES", 8)
    assert "the quarantine is full" in str(quarantine.full())
    quarantine.drop(["2"])
    assert quarantine.full() is None


# Trying again.


def test_what_has_been_mended_is_applied_at_its_own_place(layout: Layout, quarantine: Quarantine) -> None:
    """The record of `a` was damaged; the stream has gone on meanwhile."""
    events = [created("a", 1), edited("a", 2, VALIDATOR, ".png"), created("b", 3), validated("b", "a")]
    stream = messages(events)
    store = AnnotationStore(layout)
    store.apply(stream[:1], STREAM)
    good = (layout.records / "a.json").read_bytes()
    (layout.records / "a.json").write_text("{", encoding="utf-8")
    store.apply(stream[1:], STREAM)
    assert set(quarantined(layout)) == {"1", "3"}
    first = retry(layout, "1", "3")
    assert set(first) == {"1", "3"}
    assert all("Restore it from a backup" in str(reason) for reason in first.values())
    entry = quarantine.get("1")
    assert (entry.attempts, entry.marked, entry.reason) == (1, False, first["1"])
    assert entry.retried is not None
    (layout.records / "a.json").write_bytes(good)
    assert retry(layout, "1", "3", "99") == {"1": None, "3": None}
    assert found(layout) == expected(events)
    assert quarantined(layout) == {}
    assert files.read_json(layout.records / "a.json")["offset"] == 3


def test_a_late_creation_does_not_bring_back_what_was_deleted(layout: Layout) -> None:
    withheld, later = created("a", 1), [deleted("a"), created("b", 2)]
    AnnotationStore(layout).apply(messages(later, 1), STREAM)
    put(layout, withheld.message(0))
    assert retry(layout, "0") == {"0": None}
    assert found(layout)["a"].folder == "data_deleted"
    assert found(layout) == expected([withheld, *later])
    # Of a stream made later it is a new creation.
    Quarantine(layout.quarantine).put(created("a", 5).message(0), STREAM + 1, "why not")
    assert retry(layout, "0") == {"0": None}
    assert found(layout)["a"].folder == "data-seed"


def test_what_cannot_be_applied_stays_with_the_new_reason(layout: Layout, quarantine: Quarantine) -> None:
    put(layout, bad(1), edited("a").message(2), bad(3, form=Form.FILE, problem="torn"), created("../x").message(4))
    done = retry(layout, "1", "2", "3", "4")
    assert "cannot be read" in str(done["1"])
    assert "without an image" in str(done["2"])
    assert "damaged file of the spool" in str(done["3"])
    assert "'../x' is a path" in str(done["4"])
    assert {name: entry["reason"] for name, entry in quarantined(layout).items()} == done
    assert retry(layout, "1") == {"1": done["1"]}
    assert quarantine.get("1").attempts == 2
    assert quarantine.get("1").time == quarantined(layout)["1"]["time"]
    assert [path.name for path in (layout.quarantine / "1").iterdir() if path.name.startswith("retry")] == []
    assert found(layout) == {}
    # What the edit said of the folder counts as soon as there is an image.
    AnnotationStore(layout).apply(messages([created("a", 1)], 0), STREAM)
    assert retry(layout, "2") == {"2": None}
    assert found(layout) == expected([created("a", 1), edited("a")])


def test_a_file_of_the_spool_that_is_too_large_is_not_read(
    layout: Layout, quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = layout.spool / "large"
    layout.spool.mkdir()
    with large.open("wb") as stream:
        stream.truncate(1 << 40)
    put(layout, Message(offset=1, form=Form.FILE, problem="large", path=large))
    entry = quarantine.get("1")
    assert (entry.bytes, entry.form) == (1 << 40, Form.FILE)
    assert quarantine.full() is not None
    monkeypatch.setattr(files, "read_small", lambda *_, **__: pytest.fail("it was read"))
    assert quarantine.read(entry).body == b""


def batch(*bodies: bytes) -> bytes:
    """An entry with many messages, not packed."""
    inner = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    return b"\x80" + len(bodies).to_bytes(2, "big") + len(inner).to_bytes(4, "big") * 2 + inner


def amqp(status: int, body: bytes) -> bytes:
    name = b"AnnotationStatus"
    content = b"\x02\xa1" + bytes([len(name)]) + name + b"\x54" + bytes([status])
    properties = b"\x00\x53\x74\xc1" + bytes([len(content)]) + content
    return properties + b"\x00\x53\x75\xb0" + len(body).to_bytes(4, "big") + body


def test_what_came_by_a_broker(layout: Layout, quarantine: Quarantine) -> None:
    """A newer version can read what an older one could not."""
    events = [created("a", 1), created("b", 2), validated("a")]
    whole = batch(*(amqp(event.status, event.body) for event in events[1:]))
    put(layout, bad(0, amqp(10, events[0].body), form=Form.AMQP), bad(1, whole, form=Form.BATCH, count=2))
    assert retry(layout, "0", "1") == {"0": None, "1": None}
    assert found(layout) == expected(events)
    put(layout, bad(3, b"junk", form=Form.AMQP), bad(4, b"junk", form=Form.BATCH), bad(5, batch(), form=Form.BATCH))
    half = batch(amqp(10, b"nonsense"), amqp(40, deleted("b").body), amqp(10, b"nonsense"))
    put(layout, bad(6, half, form=Form.BATCH, count=3))
    done = retry(layout, "3", "4", "5", "6")
    assert None not in done.values()
    assert str(done["6"]).startswith("2 of its 3 messages: the first is 6: the body cannot be read")
    assert quarantine.count() == 4
    # What of it can be applied is, once and for all.
    assert found(layout) == expected([*events, deleted("b")])
    assert retry(layout, "6")["6"] == done["6"]


def test_nobody_is_waited_for(layout: Layout, quarantine: Quarantine) -> None:
    put(layout, created("a").message(0))
    quarantine.mark(["0"], "somebody")
    with files.locked(layout.commit_lock):
        assert retry_marked(AnnotationStore(layout), layout) == []
    with files.locked(layout.quarantine / "0" / "message.bin"):
        assert retry_marked(AnnotationStore(layout), layout) == []
    assert retry_marked(AnnotationStore(layout), layout) == [("0", None)]


def test_a_round_ends_in_time(layout: Layout, quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch) -> None:
    put(layout, *(bad(number) for number in range(40)))
    # So many that they are made durable together.
    assert len(quarantine.mark([str(number) for number in range(40)], "somebody")) == 40
    monkeypatch.setattr(retries, "_ROUND_S", -1.0)
    store = AnnotationStore(layout)
    assert [retry_marked(store, layout)[0][0] for _ in range(40)] == [str(number) for number in range(40)]
    assert retry_marked(store, layout) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "no")])
def test_a_disk_that_refuses_leaves_the_request(
    layout: Layout, quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    put(layout, created("a").message(0), created("b").message(1))
    quarantine.mark(["0", "1"], "somebody")

    def refuse(step: str) -> None:
        if step == "store.file.renamed":
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "hit", refuse)
        assert retry_marked(AnnotationStore(layout), layout) == []
    assert quarantine.marked() == ["0", "1"]
    # Half of it may be on disk: who gives it up now would leave that there.
    assert "may be applied in part" in quarantine.drop(["0"])["0"]
    assert dict(retry_marked(AnnotationStore(layout), layout)) == {"0": None, "1": None}
    assert set(found(layout)) == {"a", "b"}


def test_the_stream_goes_on_over_a_message_that_is_applied_in_part(
    layout: Layout, quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its image has its name already, and no record: whatever comes now must not leave a second copy."""
    put(layout, created("a", 1).message(0))
    store = AnnotationStore(layout)
    store.survey()
    many = [validated(f"v{number}") for number in range(300)]
    store.apply(messages(many, 1), STREAM)
    quarantine.mark(["0"], "somebody")

    def refuse(step: str) -> None:
        if step == "store.files.settled":
            raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "hit", refuse)
        assert retry_marked(store, layout) == []
    assert quarantine.unfinished()
    store.apply(messages(many, 301), STREAM)
    late = created("a", 2, VALIDATOR, ".png")
    store.apply(messages([late], 601), STREAM)
    assert found(layout) == expected([late])
    assert retry_marked(store, layout) == [("0", None)]
    assert found(layout) == expected([created("a", 1), late])
    assert not quarantine.unfinished()


def test_a_defect_of_ours_does_not_end_the_consumer(
    layout: Layout, quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(layout, bad(1), created("a").message(2))
    take = AnnotationStore._take

    def fail(store: AnnotationStore, message: Message, *more: Any, **how: Any) -> None:
        if message.offset == 1:
            raise ZeroDivisionError("oh")
        take(store, message, *more, **how)

    monkeypatch.setattr(AnnotationStore, "_take", fail)
    done = retry(layout, "1", "2")
    assert done["2"] is None
    assert "a defect of ours" in str(done["1"])
    assert "ZeroDivisionError: oh" in quarantine.get("1").reason


def test_a_name_of_a_bulk_message_that_cannot_be_read_leaves_the_others_unwritten(layout: Layout) -> None:
    """An unreadable record is the reason, and no trouble of the disk."""
    AnnotationStore(layout).apply(messages([created("a", 1), created("b", 2)]), STREAM)
    (layout.records / "b.json").unlink()
    (layout.records / "b.json").mkdir()
    put(layout, validated("a", "b").message(5))
    assert "b.json" in str(retry(layout, "5")["5"])
    assert {lying.folder for lying in found(layout).values()} == {"data-seed"}


# Two at once.


def test_dropped_while_it_is_tried_again(
    layout: Layout, quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(layout, created("a").message(0), bad(1))
    quarantine.mark(["0", "1"], "somebody")
    refused: dict[str, dict[str, str]] = {}

    def drop(step: str) -> None:
        if step in {"quarantine.retry.claimed", "store.file.renamed", "quarantine.retry.applied"}:
            refused.setdefault(step, Quarantine(layout.quarantine).drop(["0"]))

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "hit", drop)
        done = dict(retry_marked(AnnotationStore(layout), layout))
    assert done["0"] is None
    assert all("being tried again" in problems["0"] for problems in refused.values())
    assert len(refused) == 3
    assert set(found(layout)) == {"a"}
    assert set(quarantine.drop(["0", "1"])) == {"0"}
    assert quarantine.count() == 0


def test_gone_by_hand_while_it_is_tried_again(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    put(layout, created("a").message(0), bad(1))
    Quarantine(layout.quarantine).mark(["0", "1"], "somebody")
    retried = AnnotationStore.retry

    def remove(store: AnnotationStore, message: Message, incarnation: int) -> str | None:
        files.remove_tree(layout.quarantine / str(message.offset))
        return retried(store, message, incarnation)

    monkeypatch.setattr(AnnotationStore, "retry", remove)
    done = dict(retry_marked(AnnotationStore(layout), layout))
    assert done["0"] is None
    assert set(found(layout)) == {"a"}
    assert list(layout.quarantine.iterdir()) == []


def test_asked_for_again_while_it_is_tried(
    layout: Layout, quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who mends something and asks in that moment is not given the answer to the question before."""
    put(layout, bad(1))
    quarantine.mark(["1"], "first")

    def ask(step: str) -> None:
        if step == "quarantine.retry.failed":
            Quarantine(layout.quarantine).mark(["1"], "second")

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "hit", ask)
        retry_marked(AnnotationStore(layout), layout)
    assert quarantine.get("1").marked
    assert quarantine.asked("1")["by"] == "second"
    assert [name for name, _ in retry_marked(AnnotationStore(layout), layout)] == ["1"]
    assert not quarantine.get("1").marked
    assert quarantine.get("1").attempts == 2


def _play(folder: Path, seed: int) -> None:
    """The daemon's part, at random."""
    dice = random.Random(seed)
    quarantine = Quarantine(folder)
    for _ in range(400):
        name = str(dice.randrange(12))
        match dice.randrange(5):
            case 0:
                quarantine.mark([name, "99"], "somebody")
            case 1:
                quarantine.drop([name])
            case 2:
                quarantine.entries()
            case 3:
                quarantine.count()
            case _:
                quarantine.marked()


def test_two_processes_at_once(layout: Layout, quarantine: Quarantine) -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_play, args=(layout.quarantine, seed)) for seed in (1, 2)]
    for other in others:
        other.start()
    store = AnnotationStore(layout)
    dice = random.Random(3)
    applied = set()
    while any(other.is_alive() for other in others):
        offset = dice.randrange(12)
        put(layout, created(f"n{offset}", offset).message(offset) if offset % 2 else bad(offset))
        quarantine.entries()
        applied |= {name for name, reason in retry_marked(store, layout) if reason is None}
        quarantine.full()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    # What one could not remove because another was writing into it goes when a consumer starts.
    store.clean()
    assert set(found(layout)) == {f"n{name}" for name in applied}
    while retry_marked(store, layout):
        pass
    assert all(entry.damage is None and not entry.marked for entry in quarantine.entries())
    quarantine.drop([entry.id for entry in quarantine.entries()])
    assert list(layout.quarantine.iterdir()) == []


def test_one_object_in_two_threads(layout: Layout) -> None:
    """The consumer counts in one while it retries in the other."""
    store = AnnotationStore(layout)
    put(layout, *(bad(number) for number in range(60)))
    over = threading.Event()
    failures: list[BaseException] = []

    def count() -> None:
        try:
            while not over.is_set():
                store.quarantine.count()
                store.quarantine.marked()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test is to fail
            failures.append(error)

    thread = threading.Thread(target=count)
    thread.start()
    Quarantine(layout.quarantine).mark([str(number) for number in range(60)], "somebody")
    done: dict[str, str | None] = {}
    while len(done) < 60:
        done |= dict(retry_marked(store, layout))
    over.set()
    thread.join()
    assert failures == []
    assert store.quarantine.marked() == []


# Deaths.


class _PowerCut(BaseException):
    """The process dies here: nothing of ours may run after it."""


EVENTS = st.lists(
    st.one_of(
        st.builds(created, st.sampled_from("ab"), st.integers(1, 3), st.sampled_from([10, 20])),
        st.builds(edited, st.sampled_from("ab"), st.none() | st.integers(4, 6), st.sampled_from([10, 20])),
        st.lists(st.sampled_from("ab"), min_size=1, max_size=2).map(lambda names: validated(*names)),
        st.lists(st.sampled_from("ab"), min_size=1, max_size=2).map(lambda names: deleted(*names)),
    ),
    min_size=1,
    max_size=8,
)


@hypothesis_settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(events=EVENTS, seed=st.integers(0, 1 << 30))
def test_deaths_between_any_two_steps(events: list[Event], seed: int) -> None:
    """Any events lie in quarantine, the others are applied; deaths at random; then all of it is as if nothing was."""
    dice = random.Random(seed)
    events = [
        Event(**{**vars(event), "picture": 10 + number, "day": 10 + number}) if event.status == CREATED else event
        for number, event in enumerate(events)
    ]
    stream = messages(events)
    withheld = [message for message in stream if dice.random() < 0.5]
    left = 0

    def die(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise _PowerCut

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        layout = annotation_trees.tree(Path(folder))
        put(layout, *withheld)
        AnnotationStore(layout).apply([message for message in stream if message not in withheld], STREAM)
        patch.setattr(failpoints, "hit", die)
        deaths = 0
        # An edit may need what comes out of quarantine after it.
        for _ in range(3):
            left = 0
            _ask(layout)
            while True:
                left = dice.randint(1, 15) if deaths < 6 else 0
                store = AnnotationStore(layout)
                store.clean()
                try:
                    while retry_marked(store, layout):
                        pass
                except _PowerCut:
                    deaths += 1
                else:
                    break
        left = 0
        AnnotationStore(layout).clean()
        _images_are_there(events, layout)


def _ask(layout: Layout) -> None:
    quarantine = Quarantine(layout.quarantine)
    quarantine.mark([entry.id for entry in quarantine.entries()], "somebody")


def _images_are_there(events: Sequence[Event], layout: Layout) -> None:
    wanted = expected(events)
    assert found(layout) == wanted
    left = {why["offset"] for why in quarantined(layout).values()}
    # Only an edit without an image, of what never has one, stays.
    assert all(events[offset].names[0] not in wanted for offset in left)


def test_the_reader_of_chunks_knows_what_it_is_given() -> None:
    """Whatever the form, there is an answer."""
    for form in Form:
        for body in (b"", b"x", b"\x80" * 11):
            list(wire.expand(bad(1, body, form=form)))
