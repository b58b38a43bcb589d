import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from azaion.annotations import spool as spool_module
from azaion.annotations.errors import AnnotationError, BadMessageError, BlockedError
from azaion.annotations.offset import Position
from azaion.annotations.sources import SpoolSource
from azaion.annotations.spool import Spool
from azaion.annotations.stream import Batch, Lag, Message

GROUP = {"count": 1000, "size": 1 << 30}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Spool:
    return Spool(folder)


def fill(spool: Spool, count: int, start: int = 0) -> None:
    spool.append((10, b"body %d" % number) for number in range(start, start + count))


def empty(folder: Path) -> None:
    for path in folder.glob("*"):
        path.unlink()


def file(folder: Path, offset: int) -> Path:
    return folder / f"{offset:020}.msg"


def test_offsets_begin_at_zero_and_go_on(spool: Spool, folder: Path) -> None:
    assert (spool.end(), spool.incarnation) == (0, None)
    fill(spool, 3)
    stream = spool.incarnation
    fill(spool, 2, 3)
    assert spool.end() == 5
    assert spool.incarnation == stream
    assert spool.read(3, **GROUP) == [
        Message(offset=3, status=10, body=b"body 3"),
        Message(offset=4, status=10, body=b"body 4"),
    ]
    assert spool.read(5, **GROUP) == []
    # Another process sees the same.
    assert (Spool(folder).end(), Spool(folder).incarnation) == (5, stream)


def test_a_group_ends_with_its_count_or_its_size(spool: Spool) -> None:
    fill(spool, 9)
    assert len(spool.read(0, count=4, size=1 << 20)) == 4
    assert len(spool.read(0, count=100, size=7)) == 2
    assert len(spool.read(0, count=100, size=1)) == 1


@pytest.mark.parametrize("status", ["Created", 10, ""])
def test_the_property_is_kept(spool: Spool, status: int | str) -> None:
    spool.append([(status, b"")])
    assert spool.read(0, **GROUP) == [Message(offset=0, status=status)]


WRITER = """
import sys
from collections.abc import Callable
from pathlib import Path
from azaion.annotations.spool import Spool
spool = Spool(Path(sys.argv[1]))
for number in range(30):
    assert spool.append([(10, f"{sys.argv[2]} {number} {part}".encode()) for part in range(3)]) == 3
"""


def test_several_writers_give_each_number_once(spool: Spool, folder: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, folder, str(number)]) for number in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    bodies = [bytes(message.body).decode() for message in spool.read(0, **GROUP)]
    assert len(bodies) == spool.end() == 4 * 30 * 3
    assert len(set(bodies)) == len(bodies)
    for writer in range(4):
        own = [tuple(map(int, body.split())) for body in bodies if body.startswith(f"{writer} ")]
        assert own == sorted(own)
    # What is added together stands together.
    groups = [bodies[number : number + 3] for number in range(0, len(bodies), 3)]
    assert all(len({body.rsplit(" ", 1)[0] for body in group}) == 1 for group in groups)


def test_a_dead_writers_temporary_file_is_cleaned_and_takes_no_number(spool: Spool, folder: Path) -> None:
    fill(spool, 1)
    (folder / ".tmp-dead").write_bytes(b"half")
    fill(Spool(folder), 1, 1)
    assert spool.end() == 2
    assert not list(folder.glob(".tmp-*"))


def test_a_writer_that_dies_leaves_whole_messages_and_the_next_goes_on(spool: Spool, folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from azaion.annotations.spool import Spool;"
        " Spool(Path(sys.argv[1])).append((10, b'body %d' % number) for number in range(5))"
    )
    environment = os.environ | {"AZAION_FAILPOINTS": "spool.appended=2:kill"}
    died = subprocess.run([sys.executable, "-c", script, folder], env=environment, check=False)
    assert died.returncode == -9
    fill(spool, 1, 2)
    assert [message.body for message in spool.read(0, **GROUP)] == [b"body 0", b"body 1", b"body 2"]


def test_a_body_that_is_too_large_is_not_added(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MAX_MESSAGE_BYTES", 10)
    with pytest.raises(BadMessageError, match="11 bytes"):
        spool.append([(10, b"good"), (10, bytes(11)), (10, b"never")])
    assert [message.body for message in spool.read(0, **GROUP)] == [b"good"]


def test_a_full_disk_leaves_no_half_message(spool: Spool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(spool, 1)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            fill(spool, 1)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", file(folder, 0).name, "incarnation"]
    fill(spool, 1)
    assert spool.end() == 2


def link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def large(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(5 << 30)


BAD: dict[str, Callable[[Path], object]] = {
    "link": link,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "fifo": os.mkfifo,
    "folder": os.mkdir,
    "five sparse gigabytes": large,
    "empty": Path.touch,
    "truncated": lambda path: path.write_bytes(msgspec.msgpack.encode((1, 10, bytes(100)))[:50]),
    "four gigabytes promised": lambda path: path.write_bytes(b"\x93\x01\x0a\xc6\xff\xff\xff\xff"),
    "more after it": lambda path: path.write_bytes(msgspec.msgpack.encode((1, 10, b"")) + b"x"),
    "another version": lambda path: path.write_bytes(msgspec.msgpack.encode((2, 10, b"body"))),
    "truth as a status": lambda path: path.write_bytes(msgspec.msgpack.encode((1, True, b"body"))),
    "text as a body": lambda path: path.write_bytes(msgspec.msgpack.encode((1, 10, 5))),
    "deep": lambda path: path.write_bytes(b"\x94\x01\x0a\xc4\x00" + b"\x91" * 100_000),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_a_message_with_a_problem(spool: Spool, folder: Path, what: str) -> None:
    fill(spool, 1)
    BAD[what](file(folder, 1))
    fill(spool, 1, 2)
    before, bad, behind = spool.read(0, **GROUP)
    assert (before.problem, behind.problem, behind.body) == (None, None, b"body 2")
    assert bad.offset == 1
    assert bad.problem
    assert len(bad.body) < 1 << 20


@pytest.mark.parametrize("text", [b"", b"\n", b"abc", b"-5", b"1.5", b"9" * 5000, b"\xff", b"1\n2"])
def test_a_torn_incarnation_is_told_and_left(spool: Spool, folder: Path, text: bytes) -> None:
    fill(spool, 1)
    (folder / "incarnation").write_bytes(text)
    with pytest.raises(AnnotationError, match="restore it from a backup"):
        _ = spool.incarnation
    with pytest.raises(AnnotationError, match="restore it from a backup"):
        fill(spool, 1)
    assert (folder / "incarnation").read_bytes() == text
    assert spool.end() == 1


def test_an_emptied_spool_is_another_stream(spool: Spool, folder: Path) -> None:
    fill(spool, 3)
    assert spool.end() == 3
    stream = spool.incarnation
    empty(folder)
    assert spool.end() == 0
    fill(spool, 1)
    assert spool.end() == 1
    assert stream is not None
    assert spool.incarnation is not None
    assert spool.incarnation > stream


def test_the_folder_is_not_listed_for_each_message(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(spool, 3)
    assert spool.end() == 3

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(os, "scandir", never)
    fill(spool, 3, 3)
    assert spool.end() == 6


async def first(spool: Spool, position: Position | None) -> Batch:
    batches = SpoolSource(spool, "s").batches(position)
    try:
        return await anext(batches)
    finally:
        await batches.aclose()


async def test_the_source_goes_on_where_it_was(spool: Spool) -> None:
    fill(spool, 4)
    stream = spool.incarnation
    assert stream is not None
    for position, offset in ((None, 0), (Position(stream, 3), 3)):
        batch = await first(spool, position)
        assert (batch.messages[0].offset, batch.messages[-1].offset) == (offset, 3)
        assert batch.position == Position(stream, 4, stream="s")
    assert await SpoolSource(spool, "s").lag(Position(stream, 1)) == Lag(messages=3)


async def test_a_position_that_cannot_be(spool: Spool, folder: Path) -> None:
    with pytest.raises(BlockedError, match="offset 2 of stream 55 is stored, but the spool is empty"):
        await first(spool, Position(55, 2))
    fill(spool, 4)
    stream = spool.incarnation
    assert stream is not None
    with pytest.raises(BlockedError, match=f"another stream .{stream}. than the one that was read .55. up to offset 2"):
        await first(spool, Position(55, 2))
    with pytest.raises(BlockedError, match="offset 9 is stored, but the spool ends at 4"):
        await first(spool, Position(stream, 9))
    file(folder, 1).unlink()
    with pytest.raises(BlockedError, match="message 1 of the spool is missing, but there are later ones up to 3"):
        await first(spool, Position(stream, 1))


async def test_a_gap_that_opens_while_it_is_read(spool: Spool, folder: Path) -> None:
    fill(spool, 4)
    file(folder, 2).unlink()
    batches = SpoolSource(spool, "s").batches(None)
    assert len((await anext(batches)).messages) == 2
    with pytest.raises(BlockedError, match="message 2 of the spool is missing"):
        await anext(batches)


async def test_two_messages_that_come_while_it_looks_are_no_gap(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(spool, 1)
    batches = SpoolSource(spool, "s").batches(None)
    await anext(batches)
    has = Spool.has
    looks = []

    def slow(self: Spool, offset: int) -> bool:
        found = has(self, offset)
        looks.append(offset)
        if looks == [1]:
            # Between this look and the next one.
            fill(Spool(self._folder), 2, 1)
        return found

    monkeypatch.setattr(Spool, "has", slow)
    assert [message.offset for message in (await anext(batches)).messages] == [1, 2]


async def test_a_stream_that_is_made_anew_while_it_is_read(spool: Spool, folder: Path) -> None:
    fill(spool, 2)
    batches = SpoolSource(spool, "s").batches(None)
    await anext(batches)
    empty(folder)
    fill(Spool(folder), 4)
    with pytest.raises(BlockedError, match="another stream"):
        await anext(batches)
