import gzip
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Final

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rstream import AMQPMessage

from azaion.annotations import wire
from azaion.annotations.stream import Form, Message
from azaion.annotations.wire import Chunk, ChunkError

CODECS: Final = ("none", "gzip", "snappy", "snappy-raw", "lz4", "zstd")
FIRST: Final = 1000


def compress(codec: str, data: bytes) -> bytes:
    match codec:
        case "none":
            return data
        case "gzip":
            return gzip.compress(data)
        case "snappy-raw":
            return bytes(cramjam.snappy.compress_raw(data))
        case _:
            return bytes(getattr(cramjam, codec).compress(data))


def number(codec: str) -> int:
    return ("none", "gzip", "snappy", "lz4", "zstd").index(codec.removesuffix("-raw"))


def amqp(body: bytes, status: int = 10) -> bytes:
    return bytes(AMQPMessage(body=body, application_properties={"AnnotationStatus": status}))


def plain(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


def batch(
    codec: str, *messages: bytes, count: int | None = None, size: int | None = None, packed: bytes | None = None
) -> bytes:
    """A sub-batch, which may lie."""
    data = b"".join(map(plain, messages))
    content = compress(codec, data) if packed is None else packed
    claim = len(messages) if count is None else count
    kind = 0x80 | number(codec) << 4
    return struct.pack(">BHII", kind, claim, len(data) if size is None else size, len(content)) + content


def chunk(*entries: bytes, records: int, count: int | None = None, first: int = FIRST) -> Chunk:
    data = b"".join(entries)
    return Chunk(
        first=first,
        entries=len(entries) if count is None else count,
        records=records,
        taken=0.0,
        crc=zlib.crc32(data),
        data=memoryview(bytearray(data)),
    )


def told(messages: list[Message]) -> list[tuple[int, bytes]]:
    assert [message.problem for message in messages] == [None] * len(messages)
    assert {message.status for message in messages} <= {10}
    return [(message.offset, bytes(message.body)) for message in messages]


def bodies(first: int, count: int) -> list[tuple[int, bytes]]:
    return [(FIRST + at, b"body %d" % at) for at in range(first, first + count)]


def entry(codec: str | None, first: int, count: int) -> list[bytes]:
    messages = [amqp(body) for _, body in bodies(first, count)]
    return [plain(message) for message in messages] if codec is None else [batch(codec, *messages)]


@pytest.mark.parametrize("codec", [None, *CODECS])
def test_entries_of_each_kind_are_read(codec: str | None) -> None:
    made = chunk(*entry(codec, 0, 5), records=5)
    made.check()
    assert made.end == FIRST + 5
    assert told(list(made.messages())) == bodies(0, 5)


@given(
    st.lists(st.tuples(st.sampled_from([None, *CODECS]), st.integers(1, 5)), max_size=6),
    st.integers(-2, 32),
)
def test_any_mix_from_any_start(kinds: list[tuple[str | None, int]], start: int) -> None:
    entries: list[bytes] = []
    total = 0
    for codec, count in kinds:
        entries += entry(codec, total, count)
        total += count
    made = chunk(*entries, records=total)
    assert told(list(made.messages(FIRST + start))) == bodies(max(0, start), max(0, total - max(0, start)))


def test_nothing_is_unpacked_that_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []

    def unpack(_: memoryview, offset: int) -> list[Message]:
        unpacked.append(offset)
        return [Message(offset=offset + at) for at in range(3)]

    made = chunk(*(batch("gzip", *[amqp(b"x")] * 3) for _ in range(4)), records=12)
    monkeypatch.setattr(wire, "unpack", unpack)
    messages = made.messages(FIRST + 4)
    assert next(messages).offset == FIRST + 4
    assert unpacked == [FIRST + 3]
    assert [message.offset for message in messages] == list(range(FIRST + 5, FIRST + 12))


def test_a_wrong_checksum() -> None:
    made = chunk(*entry(None, 0, 2), records=2)
    with pytest.raises(ChunkError, match="messages 1000 to 1001 fails its checksum"):
        replace(made, crc=made.crc ^ 1).check()
    made.data[7] ^= 1
    with pytest.raises(ChunkError, match="checksum"):
        made.check()


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (chunk(plain(b"ab"), count=2, records=2), "cut off at byte 6"),
        (chunk(plain(b"ab")[:-1], records=1), "cut off"),
        (chunk(b"\x00\x00", records=1), "cut off"),
        (chunk(b"\x7f\xff\xff\xff", records=1), "cut off"),
        (chunk(batch("gzip", b"x")[:8], records=1), "cut off"),
        (chunk(batch("gzip", b"x")[:-1], records=1), "cut off"),
        (chunk(batch("none", b"x", b"y"), records=1), "cut off"),
        (chunk(plain(b"a"), plain(b"b"), records=1), "cut off"),
        (chunk(plain(b"a"), records=2), "holds 1 messages, not 2"),
        (chunk(records=7), "holds 0 messages, not 7"),
        (chunk(plain(b"a"), plain(b"b"), count=1, records=2), "holds 1 messages, not 2"),
    ],
)
def test_a_chunk_that_is_not_what_its_header_says(made: Chunk, problem: str) -> None:
    with pytest.raises(ChunkError, match=problem):
        list(made.messages())


def test_what_comes_before_the_damage_is_given() -> None:
    messages = chunk(*entry("gzip", 0, 3), *entry(None, 3, 1), b"\x7f\xff\xff\xff", records=9).messages()
    assert told([next(messages) for _ in range(4)]) == bodies(0, 4)
    with pytest.raises(ChunkError, match="cut off"):
        next(messages)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("lie", ["count less", "count more", "size less", "size more", "size huge", "cut", "noise"])
def test_a_batch_that_lies_becomes_one_message_with_its_problem(codec: str, lie: str) -> None:
    messages = [amqp(b"body %d" % at) for at in range(3)]
    size = sum(len(plain(message)) for message in messages)
    whole = compress(codec, b"".join(map(plain, messages)))
    made = {
        "count less": batch(codec, *messages, count=2),
        "count more": batch(codec, *messages, count=4),
        "size less": batch(codec, *messages, size=size - 1),
        "size more": batch(codec, *messages, size=size + 1),
        "size huge": batch(codec, *messages, size=0xFFFFFFFF),
        "cut": batch(codec, *messages, packed=whole[:-1]),
        "noise": batch(codec, *messages, packed=b"\xff\x00noise"),
    }[lie]
    count = {"count less": 2, "count more": 4}.get(lie, 3)
    found = list(chunk(plain(amqp(b"a")), made, plain(amqp(b"z")), records=count + 2).messages())
    if codec == "none" and lie.startswith("size"):
        # Nothing is unpacked, so nobody needs the size.
        assert len(found) == 5
        return
    before, bad, after = found
    assert (bytes(before.body), bytes(after.body), after.offset) == (b"a", b"z", FIRST + 1 + count)
    assert (bad.offset, bad.form, bad.count, bytes(bad.body)) == (FIRST + 1, Form.BATCH, count, made)
    assert bad.problem is not None
    assert len(bad.problem) < 600


def test_an_unknown_codec_and_a_batch_of_nothing() -> None:
    unknown = bytes([0x80 | 5 << 4]) + batch("gzip", amqp(b"x"))[1:]
    (bad,) = chunk(unknown, records=1).messages()
    assert bad.problem == "the batch is compressed by the unknown codec 5"
    empty = [batch(codec, packed=compress(codec, b"")) for codec in CODECS]
    assert list(chunk(*empty, batch("gzip", b"x", count=0), records=0).messages()) == []


def test_a_message_that_cannot_be_read_does_not_hide_the_others() -> None:
    noise = b"\x00nonsense"
    for entries in (
        [plain(amqp(b"a")), plain(noise), plain(amqp(b"z"))],
        [batch("zstd", amqp(b"a"), noise, amqp(b"z"))],
    ):
        before, bad, after = chunk(*entries, records=3).messages()
        assert (bytes(before.body), bytes(after.body)) == (b"a", b"z")
        assert (bad.offset, bad.form, bytes(bad.body), bad.count) == (FIRST + 1, Form.AMQP, noise, 1)
        assert bad.problem == "the AMQP message has no section at byte 0" or "AMQP" in (bad.problem or "")


def test_what_quarantine_keeps_is_read_anew() -> None:
    kept = Message(offset=7, body=amqp(b"body"), form=Form.AMQP, problem="was not understood once")
    assert list(wire.expand(kept)) == [Message(offset=7, status=10, body=b"body")]
    kept = Message(offset=7, body=batch("lz4", amqp(b"a"), amqp(b"b")), form=Form.BATCH, count=2, problem="the same")
    assert told(list(wire.expand(kept))) == [(7, b"a"), (8, b"b")]


@pytest.mark.parametrize("form", [Form.AMQP, Form.BATCH, Form.FILE])
@pytest.mark.parametrize("body", [b"", b"\x90", b"\x91\x00\x02" + b"\xff" * 8, batch("gzip", b"x", packed=b"no gzip")])
def test_what_still_cannot_be_read_keeps_its_problem(form: Form, body: bytes) -> None:
    kept = Message(offset=7, body=body, form=form, problem="it was bad", count=2)
    (found,) = wire.expand(kept)
    assert (found.offset, found.problem is not None, bytes(found.body)) == (7, True, body)


#: Reads the chunks that it is given, keeps what they hold, and tells how much memory it took beyond their size.
MEASURE: Final = """
import sys
from pathlib import Path
from azaion.annotations.wire import Chunk

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10

data = Path(sys.argv[1]).read_bytes()
chunk = Chunk(first=0, entries=int(sys.argv[2]), records=int(sys.argv[2]), taken=0, crc=0, data=memoryview(data))
before = peak()
messages = list(chunk.messages())
print(peak() - before, sum(message.problem is None for message in messages))
"""
MIB: Final = 1 << 20


def measured(folder: Path, *entries: bytes) -> tuple[float, int]:
    """The memory in MiB that a process takes to read these entries, and how many of them it can read."""
    file = folder / "chunk"
    file.write_bytes(b"".join(entries))
    arguments = [sys.executable, "-c", MEASURE, str(file), str(len(entries))]
    peak, good = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()
    return int(peak) / MIB, int(good)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "snappy-raw", "lz4", "zstd"])
def test_a_bomb_goes_off_within_bounds(codec: str, tmp_path: Path) -> None:
    size = 140 * MIB
    bomb = compress(codec, bytes(size))
    too_large = batch(codec, b"", packed=bomb, size=size)
    lying = batch(codec, b"", packed=bomb, size=1 * MIB)
    peak, good = measured(tmp_path, *[too_large, lying] * 3)
    assert good == 0
    # What was sent is copied once.
    assert peak < len(bomb) / MIB + 16


def test_a_small_body_holds_no_large_batch(tmp_path: Path) -> None:
    # Message annotations of 40 MiB, packed into 40 KB, and a body of a byte.
    large = b"\x00\x53\x72\xb0" + struct.pack(">I", 40 * MIB) + bytes(40 * MIB) + b"\x00\x53\x75\xa0\x01x"
    peak, good = measured(tmp_path, *[batch("gzip", large)] * 12)
    assert good == 12
    assert peak < 200
