import json
import random
import struct
import subprocess
import sys
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from azaion.annotations.errors import BadMessageError
from azaion.annotations.message import (
    MAX_MESSAGE_BYTES,
    MAX_NAMES,
    Annotation,
    Box,
    Bulk,
    Origin,
    Role,
    Status,
    decode,
    encode,
    encode_bulk,
)
from tests.annotation_messages import BIRTH, CREATED, DELETED, EDITED, VALIDATED, created, edited, fields, validated

GOOD = created("clip-1", kind=3)
BODY, BULK = GOOD.body, validated("a", "b").body


def body(**changes: Any) -> bytes:
    """A good body with some of its fields changed: ``f5="[]"``."""
    made = fields(GOOD)
    for name, value in changes.items():
        made[int(name[1:])] = value
    return msgspec.msgpack.encode(made)


def boxes(*detections: object) -> bytes:
    return body(f5=json.dumps(detections))


def box(**changes: Any) -> dict[str, Any]:
    return {"cls": 0, "x": 0.5, "y": 0.5, "w": 0.5, "h": 0.5, **changes}


def good(status: int | str | None, data: bytes) -> Annotation:
    found = decode(status, data)
    assert isinstance(found, Annotation)
    return found


def reason(status: int | str | None, data: bytes) -> str:
    with pytest.raises(BadMessageError) as raised:
        decode(status, data)
    assert len(str(raised.value)) < 1000
    return str(raised.value)


def test_every_field_of_an_annotation() -> None:
    found = good(CREATED, body(f0=BIRTH, f1="клип 1", f2="v.mp4", f3=12_345, f4="PNG", f7=1000, f8="x@y", f9=0))
    assert found == Annotation(
        status=Status.CREATED,
        name="клип 1",
        media="v.mp4",
        time=12_345,
        extension=".png",
        boxes=(Box(3, 0.5, 0.5, 0.25, 0.25),),
        image=GOOD.image,
        role=Role.API_ADMIN,
        email="x@y",
        origin=Origin.AI,
        created=BIRTH,
    )


def test_a_bulk_message() -> None:
    found = decode(DELETED, BULK)
    # The property wins; the body said VALIDATED.
    assert found == Bulk(
        status=Status.DELETED, names=("a", "b"), email="v@example.com", created=BIRTH, body_status=VALIDATED
    )
    assert decode(VALIDATED, msgspec.msgpack.encode([[], 30, None, BIRTH])) == Bulk(
        status=Status.VALIDATED, names=(), email="", created=BIRTH
    )


def test_what_is_encoded_reads_back() -> None:
    annotation = good(CREATED, BODY)
    assert decode("Created", encode(annotation)) == annotation
    bulk = Bulk(status=Status.VALIDATED, names=("a", "ü"), email="e", created=BIRTH)
    assert decode("30", encode_bulk(bulk)) == bulk


@pytest.mark.parametrize("status", [10, "10", "Created", "created", "CREATED", " Created "])
def test_every_spelling_of_a_status(status: int | str) -> None:
    assert good(status, BODY).status is Status.CREATED


@pytest.mark.parametrize("status", [None, 0, 11, "", "Creation", "10.0", "x" * 10_000, -10, 1 << 62])
def test_no_other_status(status: int | str | None) -> None:
    assert reason(status, BODY).startswith("AnnotationStatus is ")


@pytest.mark.parametrize(("told", "differs"), [(10, None), ("Created", None), (20, 20), ("Gone", "Gone"), (-1, -1)])
def test_a_status_in_the_body_that_differs_is_told(told: int | str, differs: int | str | None) -> None:
    assert good(CREATED, body(f10=told)).body_status == differs


@pytest.mark.parametrize("role", [30, "30", "CompanionPC", "companion_pc", "COMPANIONPC"])
def test_every_spelling_of_a_role(role: int | str) -> None:
    assert good(CREATED, body(f7=role)).role is Role.COMPANION_PC


def test_who_validates() -> None:
    assert [role.validates for role in Role] == [False, True, False, True, True]


@pytest.mark.parametrize("source", [1, "1", "Manual", "manual"])
def test_every_spelling_of_a_source(source: int | str) -> None:
    assert good(CREATED, body(f9=source)).origin is Origin.MANUAL


@pytest.mark.parametrize("extension", ["jpg", ".jpg", "JPG", ".JPG"])
def test_every_spelling_of_an_extension(extension: str) -> None:
    assert good(CREATED, body(f4=extension)).extension == ".jpg"


@pytest.mark.parametrize("extension", ["", ".", "gif", "..jpg", "jpg/../../x", "jpg ", "exe", "tar.jpg"])
def test_no_other_extension(extension: str) -> None:
    assert "is not one of" in reason(CREATED, body(f4=extension))


@pytest.mark.parametrize("kind", ["cls", "classNum", "classNumber", "CLS", "ClassNumber"])
@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("centerX", "centerY"), ("CENTERX", "Y")])
@pytest.mark.parametrize(("width", "height"), [("w", "h"), ("width", "height"), ("W", "Height")])
def test_every_spelling_of_a_detection(kind: str, x: str, y: str, width: str, height: str) -> None:
    found = good(CREATED, boxes({kind: 7, x: 0.1, y: 0.2, width: 0.3, height: 0.4, "Confidence": 0.9}))
    assert found.boxes == (Box(7, 0.1, 0.2, 0.3, 0.4),)


@pytest.mark.parametrize("number", [0.1, 1e-5, 0.30000000000000004, 1, 1e-310])
def test_numbers_of_a_label_read_back_as_they_are(number: float) -> None:
    (made,) = good(CREATED, boxes(box(w=number))).boxes
    assert float(made.label.split()[3]) == number
    assert made.label.endswith("\n")
    assert "," not in made.label


BAD_BOXES: dict[str, object] = {
    "no object": [1],
    "no class": {"x": 0.5, "y": 0.5, "w": 0.5, "h": 0.5},
    "unknown key": box(angle=1),
    "repeated key": box(centerX=0.5),
    "class as text": box(cls="0"),
    "class as truth": box(cls=True),
    "half a class": box(cls=0.5),
    "negative class": box(cls=-1),
    "huge class": box(cls=10**6),
    "endless class": box(cls=10**400),
    "beyond text": box(cls=10**5000),
    "truth": box(x=True),
    "text": box(y="0.5"),
    "nothing": box(w=None),
    "left of it": box(x=-0.001),
    "right of it": box(x=1.001),
    "below": box(y=2),
    "endless": box(x=10**400),
    "no width": box(w=0),
    "negative height": box(h=-0.1),
    "too high": box(h=1.1),
    "nested": box(x=[0.5]),
}


@pytest.mark.parametrize("what", BAD_BOXES)
def test_a_bad_detection(what: str) -> None:
    sys.set_int_max_str_digits(0)
    try:
        data = boxes(box(), BAD_BOXES[what])
    finally:
        sys.set_int_max_str_digits(4300)
    reason(CREATED, data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{}",
        "[",
        "[null]",
        '[{"cls":NaN,"x":0.5,"y":0.5,"w":0.5,"h":0.5}]',
        '[{"cls":0,"x":Infinity,"y":0.5,"w":0.5,"h":0.5}]',
        '[{"cls":0,"x":1e999,"y":0.5,"w":0.5,"h":0.5}]',
        '[{"cls":0,"x":0.5,"y":0.5,"w":0.5,"h":0.5}] trailing',
        '[{"\\ud800":1}]',
        '[{"\\ud800\\u0041":1}]',
        "[" * 100_000,
        '[{"x":' * 50_000,
        "[" + "{}," * 1_000_000 + "{}]",
    ],
    ids=range(14),
)
def test_detections_that_are_none(text: str) -> None:
    assert "detection" in reason(CREATED, body(f5=text))


def test_no_detection_at_all_is_good() -> None:
    assert good(CREATED, body(f5="[]")).boxes == ()


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "../../x",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "a\0",
        "a\nb",
        "a\x7f",
        " a",
        "a ",
        "a\u202eb",
        "a\u00a0b",
        "e\u0301",
        "ü" * 101,
    ],
)
def test_a_bad_name(name: str) -> None:
    assert "name" in reason(CREATED, body(f1=name))
    assert "name" in reason(VALIDATED, msgspec.msgpack.encode([["good", name], 30, "", BIRTH]))


@pytest.mark.parametrize(
    "name", ["a", "clip-1", "день 5 (копія)", "a.b", "x" * 200, "ü" * 100, "日本", "-rf", "a;b|c$(d)"]
)
def test_a_good_name(name: str) -> None:
    assert good(CREATED, body(f1=name)).name == name


WRONG: list[Any] = [None, True, 1, -1, 1.5, "text", b"bytes", [], {}, [1], BIRTH, float("nan"), float("inf")]


@pytest.mark.parametrize("field", range(11))
def test_wrong_types_of_every_field(field: int) -> None:
    """Some are good in some fields; none is anything but good or told."""
    accepted = 0
    for wrong in WRONG:
        try:
            good(CREATED, body(**{f"f{field}": wrong}))
            accepted += 1
        except BadMessageError:
            pass
    assert accepted <= 5


def test_a_creation_needs_an_image_and_an_edit_does_not() -> None:
    for image in (b"", None):
        assert "without an image" in reason(CREATED, body(f6=image))
        assert not good(EDITED, body(f6=image)).image
    assert good(EDITED, edited("a").body).boxes[0].kind == 1


@pytest.mark.parametrize("count", range(11))
def test_too_few_fields(count: int) -> None:
    reason(CREATED, msgspec.msgpack.encode(fields(GOOD)[:count]))


def test_more_fields_than_we_know_are_fine() -> None:
    assert good(CREATED, msgspec.msgpack.encode([*fields(GOOD), "new", 12])).name == "clip-1"


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "yesterday", "2025-13-01T00:00:00Z"]
)
def test_dates_beyond_every_calendar(moment: str) -> None:
    reason(CREATED, body(f0=moment))
    reason(DELETED, msgspec.msgpack.encode([["a"], 40, "", moment]))


def test_dates_are_kept_in_utc() -> None:
    assert good(CREATED, body(f0="2025-06-01T14:00:00+02:00")).created == datetime(2025, 6, 1, 12, tzinfo=UTC)


def test_texts_that_are_a_burden() -> None:
    assert "more than" in reason(CREATED, body(f2="m" * 2000))
    assert "more than" in reason(CREATED, body(f8="e" * 2000))
    assert "more than" in reason(CREATED, bytes(MAX_MESSAGE_BYTES + 1))
    names = [f"n{number}" for number in range(MAX_NAMES + 1)]
    assert "more than" in reason(DELETED, msgspec.msgpack.encode([names, 40, "", BIRTH]))


#: Every head of MessagePack that has a length, with the greatest.
HEADS = [
    bytes([head]) + b"\xff" * size
    for head, size in (
        *((head, 4) for head in (0xC6, 0xC9, 0xDB, 0xDD, 0xDF)),
        *((head, 2) for head in (0xC5, 0xC8, 0xDA, 0xDC, 0xDE)),
        *((head, 1) for head in (0xC4, 0xC7, 0xD9)),
    )
]


def bombs() -> list[bytes]:
    """A bad head in the place of every field, and of the whole."""
    found = list(HEADS)
    for whole in (fields(GOOD), [["a"], 30, "", BIRTH]):
        parts = [msgspec.msgpack.encode(part) for part in whole]
        start = bytes([0x90 | len(parts)])
        for number in range(len(parts)):
            found += [start + b"".join(parts[:number]) + head for head in HEADS]
            found += [start + b"".join(parts[:number]) + head + b"".join(parts[number:]) for head in HEADS]
        found += [bytes([0x90 | len(parts) + 1]) + b"".join(parts) + head for head in HEADS]
    found.append(b"\x94\x91" + HEADS[2])
    return found


def test_lengths_of_four_gigabytes_cost_nothing() -> None:
    data = bombs()
    assert len(data) > 400
    tracemalloc.start()
    try:
        for one in data:
            for status in (CREATED, VALIDATED):
                reason(status, one)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_hostile_bodies_within_the_limit_stay_small() -> None:
    """A whole process, so that what the C code takes is counted too: no body needs more than a few times its size."""
    script = """
import resource, msgspec
from azaion.annotations.errors import BadMessageError
from azaion.annotations.message import MAX_MESSAGE_BYTES, decode
from tests.annotation_messages import BIRTH, created, fields
whole = fields(created("a"))
whole[5] = "[" + "{}," * (20 << 20) + "{}]"
data = [msgspec.msgpack.encode(whole), b"\\x91" * (60 << 20)]
data.append(b"\\x94\\xdd\\xff\\xff\\xff\\xff" + b"\\xa1a" * (30 << 20))
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for status, body in zip((10, 10, 30), data):
    try:
        decode(status, body)
    except BadMessageError:
        continue
    raise SystemExit("it was taken")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 400 << 10


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.sampled_from(["../../x", "Created", "jpg", "[]", '[{"cls":1}]', "\u202e", "0001-01-01T00:00:00+14:00"]),
    st.builds(lambda: BIRTH),
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
DETECTION = st.dictionaries(
    st.sampled_from(["cls", "classNum", "x", "centerX", "y", "w", "width", "h", "confidence", "CLS", "z"]),
    st.floats(0, 1) | st.integers() | LEAVES.filter(lambda leaf: not isinstance(leaf, bytes | datetime)),
    max_size=7,
)


def _try(status: int | str | None, data: bytes) -> None:
    try:
        found = decode(status, data)
    except BadMessageError as error:
        str(error).encode()
        return
    if isinstance(found, Annotation):
        assert "/" not in found.name
        assert all(0 <= part <= 1 for made in found.boxes for part in (made.x, made.y, made.width, made.height))
        assert decode(found.status, encode(found)) == decode(int(found.status), encode(found))


MANY = hypothesis_settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(
    status=st.sampled_from([10, 20, 30, 40]) | LEAVES.filter(lambda leaf: leaf is None or isinstance(leaf, int | str)),
    changes=st.dictionaries(st.integers(0, 10), VALUES, max_size=3),
    detections=st.lists(DETECTION, max_size=3),
    shorten=st.integers(-2, 12),
)
def test_fields_of_any_value(
    status: int | str | None, changes: dict[int, object], detections: list[dict[str, object]], shorten: int
) -> None:
    whole = [*fields(GOOD), "extra"]
    whole[5] = json.dumps(detections)
    for number, value in changes.items():
        whole[number] = value
    _try(status, msgspec.msgpack.encode(whole[:shorten] if shorten > 0 else whole))
    _try(status, msgspec.msgpack.encode([list(changes.values()), 30, "", BIRTH]))


@MANY
@given(seed=st.integers(0, 1 << 62), bulk=st.booleans())
def test_bytes_changed_at_random(seed: int, bulk: int) -> None:
    dice = random.Random(seed)
    data = bytearray(BULK if bulk else BODY)
    for _ in range(dice.randint(1, 6)):
        place = dice.randrange(len(data)) if dice.random() < 0.5 else min(dice.randrange(80), len(data) - 1)
        match dice.randrange(4):
            case 0:
                data[place] = dice.randrange(256)
            case 1:
                data[place:place] = dice.choice(HEADS)
            case 2:
                del data[place : place + dice.randint(1, 9)]
            case _:
                data[place : place + 8] = struct.pack(">d", dice.choice([float("nan"), float("inf"), -1.0]))
        if not data:
            break
    for status in (10, 20, 30, 40):
        _try(status, bytes(data))
