"""The wire format: MessagePack arrays, positional, as the platform sends them.

===========  ===================================================================================================
annotation   0 createdDate (timestamp ext), 1 name, 2 originalMediaName, 3 time (ticks of 100 ns into the video),
             4 imageExtension, 5 detections (JSON text), 6 image (bin), 7 createdRole, 8 createdEmail, 9 source,
             10 status
bulk         0 annotation names (list), 1 status, 2 createdEmail, 3 createdDate
===========  ===================================================================================================

Which of the two a body is, the AMQP application property ``AnnotationStatus`` says.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Final, TypeVar

import msgspec

from azaion.annotations.errors import BadMessageError
from azaion.pictures import EXTENSIONS

#: The AMQP application property that says what a message is.
STATUS_PROPERTY: Final = "AnnotationStatus"
#: A message with a larger body is not an annotation.
MAX_MESSAGE_BYTES: Final = 64 << 20
#: With the longest extension it is still a file name on every filesystem of Linux (255 bytes).
MAX_NAME_BYTES: Final = 200
#: Label files have no larger class.
MAX_CLASS: Final = 999_999
#: Each name of a bulk message may become a file.
MAX_NAMES: Final = 100_000
#: What is only remembered may not be a burden.
MAX_TEXT: Final = 1024
#: Thousands of boxes. Read, a list of empty detections takes a hundred times the room of its text.
MAX_DETECTIONS_BYTES: Final = 1 << 20


class Status(IntEnum):
    """What happened to an annotation."""

    CREATED = 10
    EDITED = 20
    VALIDATED = 30
    DELETED = 40


class Role(IntEnum):
    """Who did it."""

    OPERATOR = 10
    VALIDATOR = 20
    COMPANION_PC = 30
    ADMIN = 40
    API_ADMIN = 1000

    @property
    def validates(self) -> bool:
        """Whether what this role says is taken for true."""
        return self in {Role.VALIDATOR, Role.ADMIN, Role.API_ADMIN}


class Origin(IntEnum):
    """What drew the boxes."""

    AI = 0
    MANUAL = 1


@dataclass(frozen=True, slots=True)
class Box:
    """A detection: class, centre and size in parts of the image's width and height."""

    kind: int
    x: float
    y: float
    width: float
    height: float

    @property
    def label(self) -> str:
        """Its line of YOLO text; the numbers read back as they are."""
        return f"{self.kind} {self.x!r} {self.y!r} {self.width!r} {self.height!r}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """An annotation that was created or edited.

    Attributes:
        status: ``CREATED`` or ``EDITED``.
        name: safe as the stem of a file.
        media: name of the video or photograph; empty if nobody said.
        time: ticks of 100 ns into the video.
        extension: of the image, lower case, with its dot.
        image: the image file; empty in an edit that keeps the stored one.
        body_status: what the body says of the status, where the property says otherwise.
    """

    status: Status
    name: str
    media: str
    time: int
    extension: str
    boxes: tuple[Box, ...]
    image: bytes | memoryview
    role: Role
    email: str
    origin: Origin
    created: datetime
    body_status: int | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """Annotations that were validated or deleted, by name."""

    status: Status
    names: tuple[str, ...]
    email: str
    created: datetime
    body_status: int | str | None = None


class _AnnotationBody(msgspec.Struct, array_like=True):
    created: datetime
    name: str
    media: str | None
    time: int
    extension: str
    detections: str
    image: memoryview | None
    role: int | str
    email: str | None
    source: int | str
    status: int | str


class _BulkBody(msgspec.Struct, array_like=True):
    names: list[str]
    status: int | str
    email: str | None
    created: datetime


_annotations: Final = msgspec.msgpack.Decoder(_AnnotationBody)
_bulks: Final = msgspec.msgpack.Decoder(_BulkBody)
_detections: Final = msgspec.json.Decoder(list[dict[str, int | float | str | bool | None]])
_encoder: Final = msgspec.msgpack.Encoder()

_Number = TypeVar("_Number", bound=IntEnum)
_Body = TypeVar("_Body", _AnnotationBody, _BulkBody)

#: The platform's own spelling of a detection's keys is not documented, so each of these is taken, in any case.
_KEYS: Final[Mapping[str, str]] = {
    "cls": "kind",
    "classnum": "kind",
    "classnumber": "kind",
    "x": "x",
    "centerx": "x",
    "y": "y",
    "centery": "y",
    "w": "width",
    "width": "width",
    "h": "height",
    "height": "height",
    "confidence": "confidence",
}


def decode(status: int | str | None, body: bytes | memoryview) -> Annotation | Bulk:
    """Read a message.

    Args:
        status: the property ``AnnotationStatus``: a name or a number, as text or as an integer.
        body: the message's body.

    Raises:
        BadMessageError: it is not such a message, or says something that cannot be.
    """
    try:
        what = _enumerated(Status, status, STATUS_PROPERTY)
        if what in {Status.CREATED, Status.EDITED}:
            return _annotation(what, _read(_annotations, body))
        return _bulk(what, _read(_bulks, body))
    except (ArithmeticError, ValueError, RecursionError) as error:
        # Numbers and dates that Python can read but not reckon with.
        raise BadMessageError(f"it holds a value beyond all bounds: {type(error).__name__}") from None


def encode(annotation: Annotation) -> bytes:
    """The body of an annotation's message, as the platform would send it."""
    detections = [
        {"cls": box.kind, "x": box.x, "y": box.y, "w": box.width, "h": box.height} for box in annotation.boxes
    ]
    return _encoder.encode(
        (
            annotation.created,
            annotation.name,
            annotation.media,
            annotation.time,
            annotation.extension,
            msgspec.json.encode(detections).decode(),
            annotation.image,
            int(annotation.role),
            annotation.email,
            int(annotation.origin),
            int(annotation.status),
        ),
    )


def encode_bulk(bulk: Bulk) -> bytes:
    """The body of a bulk message."""
    return _encoder.encode((bulk.names, int(bulk.status), bulk.email, bulk.created))


def check_name(name: str) -> str:
    """A name that is safe as the stem of a file.

    Raises:
        BadMessageError: it is empty, too long, hidden, a path, or holds what no name should.
    """
    if not name or len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise BadMessageError(f"a name must have 1 to {MAX_NAME_BYTES} bytes")
    if name.startswith(".") or "/" in name or "\\" in name:
        raise BadMessageError(f"the name {name!r} is a path or hidden")
    if not name.isprintable() or name != name.strip() or unicodedata.normalize("NFC", name) != name:
        raise BadMessageError(f"the name {name!r} holds characters that no name should, or is not in NFC")
    return name


def _read(decoder: "msgspec.msgpack.Decoder[_Body]", body: bytes | memoryview) -> _Body:
    if len(body) > MAX_MESSAGE_BYTES:
        raise BadMessageError(f"the body has {len(body)} bytes, more than {MAX_MESSAGE_BYTES}")
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError, ValueError) as error:
        raise BadMessageError(f"the body cannot be read: {error}"[:500]) from None


def _annotation(status: Status, body: _AnnotationBody) -> Annotation:
    image = body.image if body.image is not None else b""
    if not image and status is Status.CREATED:
        raise BadMessageError("an annotation was created without an image")
    return Annotation(
        status=status,
        name=check_name(body.name),
        media=_text(body.media, "originalMediaName"),
        time=body.time,
        extension=_extension(body.extension),
        boxes=_boxes(body.detections),
        image=image,
        role=_enumerated(Role, body.role, "createdRole"),
        email=_text(body.email, "createdEmail"),
        origin=_enumerated(Origin, body.source, "source"),
        created=_utc(body.created),
        body_status=_difference(status, body.status),
    )


def _bulk(status: Status, body: _BulkBody) -> Bulk:
    if len(body.names) > MAX_NAMES:
        raise BadMessageError(f"it names {len(body.names)} annotations, more than {MAX_NAMES}")
    return Bulk(
        status=status,
        names=tuple(check_name(name) for name in body.names),
        email=_text(body.email, "createdEmail"),
        created=_utc(body.created),
        body_status=_difference(status, body.status),
    )


def _text(value: str | None, field: str) -> str:
    if value is not None and len(value) > MAX_TEXT:
        raise BadMessageError(f"{field} has {len(value)} characters, more than {MAX_TEXT}")
    return value or ""


def _enumerated(kind: type[_Number], value: int | str | None, field: str) -> _Number:
    """A number or a name, as text or as an integer; names in any case, with or without underscores."""
    for member in kind:
        if value == member.value or (
            isinstance(value, str)
            and value.strip().replace("_", "").lower() in {str(member.value), member.name.replace("_", "").lower()}
        ):
            return member
    names = ", ".join(f"{member.name} {member.value}" for member in kind)
    raise BadMessageError(f"{field} is {str(value)[:60]!r}, not one of {names}")


def _difference(status: Status, told: int | str) -> int | str | None:
    try:
        return None if _enumerated(Status, told, "status") is status else told
    except BadMessageError:
        return told


def _extension(text: str) -> str:
    extension = "." + text.lower().removeprefix(".")
    if extension not in EXTENSIONS:
        raise BadMessageError(f"the extension {text[:60]!r} is not one of {', '.join(sorted(EXTENSIONS))}")
    return extension


def _boxes(text: str) -> tuple[Box, ...]:
    if len(text) > MAX_DETECTIONS_BYTES:
        raise BadMessageError(f"the detections have {len(text)} characters, more than {MAX_DETECTIONS_BYTES}")
    try:
        found = _detections.decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BadMessageError(f"the detections cannot be read: {error}"[:500]) from None
    return tuple(_box(number, detection) for number, detection in enumerate(found))


def _box(number: int, detection: Mapping[str, Any]) -> Box:
    values: dict[str, float] = {}
    for key, value in detection.items():
        name = _KEYS.get(key.lower())
        if name is None or name in values:
            raise BadMessageError(f"detection {number} has the unknown or repeated key {key[:60]!r}")
        if name == "confidence":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadMessageError(f"detection {number}: {key[:60]} is not a number")
        values[name] = value
    try:
        kind, x, y, width, height = (values[name] for name in ("kind", "x", "y", "width", "height"))
    except KeyError as error:
        raise BadMessageError(f"detection {number} has no {error.args[0]}") from None
    if not 0 <= kind <= MAX_CLASS or kind != int(kind):
        raise BadMessageError(f"detection {number}: {kind} is not a class")
    if not (0 <= x <= 1 and 0 <= y <= 1 and 0 < width <= 1 and 0 < height <= 1):
        raise BadMessageError(f"detection {number} lies outside of the image")
    return Box(int(kind), float(x), float(y), float(width), float(height))


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
