import struct
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rstream import AMQPMessage

from azaion.annotations import amqp
from azaion.annotations.errors import BadMessageError

BODY = b"\x9b body"
KEY = b"AnnotationStatus"


def section(code: int, value: bytes) -> bytes:
    return bytes([0, 0x53, code]) + value


def str8(text: bytes, constructor: int = 0xA1) -> bytes:
    return bytes([constructor, len(text)]) + text


def str32(text: bytes, constructor: int = 0xB1) -> bytes:
    return bytes([constructor]) + struct.pack(">I", len(text)) + text


def map8(*values: bytes, count: int | None = None) -> bytes:
    content = bytes([len(values) if count is None else count]) + b"".join(values)
    return bytes([0xC1, len(content)]) + content


def map32(*values: bytes, count: int | None = None) -> bytes:
    content = struct.pack(">I", len(values) if count is None else count) + b"".join(values)
    return bytes([0xD1]) + struct.pack(">I", len(content)) + content


def properties(*values: bytes) -> bytes:
    return section(0x74, map8(*values))


def data(body: bytes = BODY) -> bytes:
    return section(0x75, str8(body, 0xA0))


def read(message: bytes) -> tuple[int | str | None, bytes]:
    status, body = amqp.read(message)
    return status, bytes(body)


WHOLE = (
    section(0x70, bytes.fromhex("c0 06 04 41 50 04 40 40"))  # header: durable, priority
    + section(0x71, map8(str8(b"x-a", 0xA3), b"\x41"))
    + section(0x72, map32(str8(b"x-b", 0xA3), str8(b"c")))
    + section(0x73, bytes.fromhex("c0 06 02") + str8(b"id") + b"\x40")
    + properties(str8(b"other"), b"\x56\x01", str8(KEY), b"\x54\x0a", str8(b"more"), b"\x45")
    + data()
    + section(0x78, map8(str8(b"crc", 0xA3), b"\x70\x00\x00\x00\x01"))
)


@pytest.mark.parametrize("status", [10, 0, -1, 255, 1000, 1 << 40, "Created", "", "30", "Ünicode"])
@pytest.mark.parametrize("size", [1, 255, 256, 70_000])
def test_what_rstream_sends_is_read(status: int | str, size: int) -> None:
    message = AMQPMessage(body=b"x" * size, application_properties={"other": "o" * 300, "AnnotationStatus": status})
    assert read(bytes(message)) == (status, b"x" * size)


def test_sections_around_the_body_do_not_matter() -> None:
    assert read(WHOLE) == (10, BODY)
    assert read(data()) == (None, BODY)


@pytest.mark.parametrize(
    ("code", "name"), [(0x75, b"amqp:data:binary"), (0x77, b"amqp:amqp-value:*"), (0x79, b"amqp:another:one")]
)
def test_a_section_is_named_in_five_ways(code: int, name: bytes) -> None:
    value = str8(BODY, 0xA0)
    small, large = bytes([0x53, code]), bytes([0x80]) + struct.pack(">Q", code)
    for descriptor in (small, large, str8(name, 0xA3), str32(name, 0xB3)):
        if code == 0x79:
            assert read(b"\x00" + descriptor + value + data(b"the body")) == (None, b"the body")
        else:
            assert read(b"\x00" + descriptor + value) == (None, BODY)


def test_a_section_that_only_begins_like_one_of_ours_is_another() -> None:
    beyond = b"\x00\x80" + struct.pack(">Q", (7 << 32) + 0x75) + str8(b"domain", 0xA0)
    longer = b"\x00" + str8(b"amqp:data:binary2", 0xA3) + str8(b"name", 0xA0)
    assert read(beyond + longer + data()) == (None, BODY)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (b"\x50\x0a", 10),
        (b"\x51\xf6", -10),
        (b"\x60\x03\xe8", 1000),
        (b"\x61\xff\xf6", -10),
        (b"\x70\x00\x00\x00\x0a", 10),
        (b"\x71\xff\xff\xff\xf6", -10),
        (b"\x80" + b"\xff" * 8, (1 << 64) - 1),
        (b"\x81" + b"\xff" * 8, -1),
        (b"\x52\xff", 255),
        (b"\x53\xff", 255),
        (b"\x54\xff", -1),
        (b"\x55\xff", -1),
        (b"\x43", 0),
        (b"\x44", 0),
        (b"\x40", None),
        (str8(b"Edited"), "Edited"),
        (str8(b"Edited", 0xA3), "Edited"),
        (str8(b"Edited", 0xA0), "Edited"),
        (str32(b"Edited"), "Edited"),
        (str32(b"Edited", 0xB3), "Edited"),
        (str32(b"Edited", 0xB0), "Edited"),
        (str8(b"\xff\xfe"), "\ufffd\ufffd"),
        (str32(b"a" * 5000), "a" * 256),
    ],
)
@pytest.mark.parametrize("table", [map8, map32])
@pytest.mark.parametrize("key", [str8(KEY), str32(KEY), str8(KEY, 0xA3), str32(KEY, 0xB3), str8(KEY, 0xA0)])
def test_the_status_comes_in_every_type(
    table: Callable[..., bytes], key: bytes, value: bytes, status: int | str | None
) -> None:
    table = map32 if len(value) > 200 else table
    assert read(section(0x74, table(str8(b"before"), b"\x41", key, value)) + data()) == (status, BODY)


@pytest.mark.parametrize("value", [b"\x41", b"\x56\x01", b"\x72\x00\x00\x00\x00", b"\x45", map8(), b"\x00\x53\x01\x40"])
def test_a_status_of_another_type_is_refused(value: bytes) -> None:
    with pytest.raises(BadMessageError, match="neither text nor a number"):
        read(properties(str8(KEY), value) + data())


def test_properties_without_a_status() -> None:
    without = [
        b"\x40",
        map8(),
        map8(str8(b"a"), b"\x41"),
        map8(b"\x53\x01", b"\x41"),
        map8(b"\x00\x53\x01\x43", b"\x41"),
    ]
    for table in without:
        assert read(section(0x74, table) + data()) == (None, BODY)


def test_a_body_comes_in_one_piece_or_several_or_as_a_value() -> None:
    large = bytes(range(256)) * 400
    assert read(section(0x75, str32(large, 0xB0))) == (None, large)
    assert read(data(b"a") + data(b"") + section(0x75, str32(b"b", 0xB0)) + data(b"c")) == (None, b"abc")
    assert read(section(0x77, str8(BODY, 0xA0))) == (None, BODY)
    assert read(section(0x77, str32(BODY, 0xB0))) == (None, BODY)
    assert read(data(b"")) == (None, b"")


def test_a_body_is_no_copy() -> None:
    whole = bytearray(WHOLE)
    assert amqp.read(memoryview(whole))[1].obj is whole


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (b"", "no body"),
        (properties(), "no body"),
        (section(0x76, b"\x45"), "no body"),
        (b"\x9b\x01\x02", "no section at byte 0"),
        (data() + b"\x01", "no section at byte"),
        (b"\x00\x41\x40", "no section"),
        (section(0x75, str8(b"text")), "not binary"),
        (section(0x77, b"\x40"), "not binary"),
        (section(0x75, b"\x00\x53\x75\xa0\x00"), "not binary"),
        (section(0x74, b"\x45") + data(), "no map"),
        (section(0x79, b"\x30"), "unknown type"),
        (section(0x79, b"\x00\x53\x01" * 9 + b"\x40"), "without end"),
        (b"\x00" * 10_000, "without end"),
        (section(0x74, map32(count=5000)) + data(), "more than 1024"),
        (section(0x74, map32(count=0xFFFFFFFF)) + data(), "more than 1024"),
        (section(0x74, map8(str8(b"a"), b"\x41", count=200)) + data(), "cut off"),
        (section(0x74, b"\xc1\x00") + data(), "cut off"),
        (section(0x75, b"\xb0\xff\xff\xff\xff"), "cut off"),
        (section(0x74, b"\xd1\xff\xff\xff\xff\xff\xff\xff\xff"), "cut off"),
        (section(0x74, map8(b"\xb1\xff\xff\xff\xff", b"\x41")) + data(), "cut off"),
        (data() * 65, "more than 64 sections"),
    ],
)
def test_what_is_no_message_is_told(message: bytes, problem: str) -> None:
    with pytest.raises(BadMessageError, match=problem):
        amqp.read(message)


def test_as_many_sections_as_are_allowed() -> None:
    assert read(data(b"x") * 64) == (None, b"x" * 64)


def test_a_message_cut_off_anywhere_is_refused_or_lacks_only_its_last_section() -> None:
    footer = WHOLE.rindex(b"\x00\x53\x78")
    for end in range(len(WHOLE)):
        if end == footer:
            assert read(WHOLE[:end]) == (10, BODY)
        else:
            with pytest.raises(BadMessageError):
                amqp.read(WHOLE[:end])


def test_a_length_that_lies_anywhere_is_survived() -> None:
    for at in range(len(WHOLE)):
        for value in range(256):
            hostile = WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :]
            try:
                amqp.read(hostile)
            except BadMessageError:
                continue


@given(st.binary(max_size=400), st.integers(0, len(WHOLE)))
@example(b"\xe0\xff", 0)
def test_bytes_of_any_kind_are_read_or_refused(noise: bytes, at: int) -> None:
    for message in (noise, WHOLE[:at] + noise, WHOLE[:at] + noise + WHOLE[at:]):
        try:
            status, body = amqp.read(message)
        except BadMessageError:
            continue
        assert status is None or isinstance(status, int) or len(status) <= 256
        assert len(body) <= len(message)


def test_claims_of_gigabytes_allocate_nothing() -> None:
    huge = b"\xff\xff\xff\xff"
    claims = [
        section(0x75, b"\xb0" + huge),
        section(0x74, b"\xd1" + huge + huge),
        section(0x74, map32(b"\xf0" + huge + huge, b"\x40")),
        section(0x73, b"\xd0" + huge + huge),
        b"\x00\xb3" + huge,
    ]
    tracemalloc.start()
    try:
        for claim in claims * 200:
            with pytest.raises(BadMessageError):
                amqp.read(claim)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
