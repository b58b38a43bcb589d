"""A bounded reader of AMQP 1.0 messages: the property that routes an annotation, and the body.

Every length is checked against the bytes that are there before anything is made of it, nothing is built of what is
skipped, and the body is a view, not a copy. Numbers and names are those of the AMQP 1.0 specification, parts 1.6
(types) and 3.2 (sections).
"""

import struct
from typing import Final

from azaion.annotations.errors import BadMessageError
from azaion.annotations.message import STATUS_PROPERTY

#: Producers send half a dozen.
_MAX_SECTIONS: Final = 64
_MAX_PROPERTIES: Final = 1024
#: A type that describes a type that describes ...: nobody sends more than one.
_MAX_DEPTH: Final = 4

_DESCRIBED: Final = 0x00
_SMALL_ULONG, _ULONG = 0x53, 0x80
_SYMBOLS: Final = frozenset({0xA3, 0xB3})
_PROPERTIES, _DATA, _VALUE = 0x74, 0x75, 0x77
_SECTIONS: Final = {
    b"amqp:application-properties:map": _PROPERTIES,
    b"amqp:data:binary": _DATA,
    b"amqp:amqp-value:*": _VALUE,
}
#: The upper half of a constructor tells the size of what follows.
_FIXED: Final = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
_SIZED_8: Final = frozenset({0xA, 0xC, 0xE})
_SIZED_32: Final = frozenset({0xB, 0xD, 0xF})
_BINARY: Final = frozenset({0xA0, 0xB0})
#: Binary, text and symbols: producers differ in how they send a name.
_TEXT: Final = frozenset({0xA0, 0xA1, 0xA3, 0xB0, 0xB1, 0xB3})
_NULL: Final = 0x40
_MAP_8, _MAP_32 = 0xC1, 0xD1
_INTEGERS: Final = {
    0x50: ">B", 0x51: ">b", 0x60: ">H", 0x61: ">h", 0x70: ">I", 0x71: ">i", 0x80: ">Q", 0x81: ">q",
    0x52: ">B", 0x53: ">B", 0x54: ">b", 0x55: ">b",
}  # fmt: skip
_ZEROES: Final = frozenset({0x43, 0x44})
_MAX_TEXT: Final = 256
_KEY: Final = STATUS_PROPERTY.encode()


def read(data: bytes | memoryview) -> tuple[int | str | None, memoryview]:
    """The application property ``AnnotationStatus`` and the body of a message.

    The body is that of its data section, or of its sections one after the other, or a binary ``amqp-value``.

    Raises:
        BadMessageError: it is no AMQP 1.0 message, is cut off, or has no binary body.
    """
    view = memoryview(data)
    status: int | str | None = None
    bodies: list[memoryview] = []
    at = 0
    try:
        for _ in range(_MAX_SECTIONS + 1):
            if at == len(view):
                break
            section, start = _descriptor(view, at)
            at = _end(view, start)
            if section == _PROPERTIES:
                status = _status(view[start:at])
            elif section in {_DATA, _VALUE}:
                bodies.append(_binary(view[start:at]))
        else:
            raise BadMessageError(f"the AMQP message has more than {_MAX_SECTIONS} sections")
    except (IndexError, struct.error):
        raise BadMessageError("the AMQP message is cut off") from None
    if not bodies:
        raise BadMessageError("the AMQP message has no body")
    return status, bodies[0] if len(bodies) == 1 else memoryview(b"".join(bodies))


def _descriptor(view: memoryview, at: int) -> tuple[int | None, int]:
    """The code of the section that begins at ``at`` (None for one that we do not know), and where its value begins."""
    if view[at] != _DESCRIBED:
        raise BadMessageError(f"the AMQP message has no section at byte {at}")
    end = _end(view, at + 1)
    constructor = view[at + 1]
    if constructor in {_SMALL_ULONG, _ULONG}:
        return int.from_bytes(view[at + 2 : end]), end
    if constructor in _SYMBOLS:
        return _SECTIONS.get(bytes(_content(view[at + 1 : end])[:_MAX_TEXT])), end
    raise BadMessageError(f"the AMQP message has no section at byte {at}")


def _end(view: memoryview, at: int, depth: int = 0) -> int:
    """Where the value that begins at ``at`` ends."""
    constructor = view[at]
    if constructor == _DESCRIBED:
        if depth == _MAX_DEPTH:
            raise BadMessageError("the AMQP message describes types without end")
        return _end(view, _end(view, at + 1, depth + 1), depth + 1)
    kind = constructor >> 4
    if kind in _FIXED:
        end = at + 1 + _FIXED[kind]
    elif kind in _SIZED_8:
        end = at + 2 + view[at + 1]
    elif kind in _SIZED_32:
        end = at + 5 + struct.unpack_from(">I", view, at + 1)[0]
    else:
        raise BadMessageError(f"the AMQP message has the unknown type {constructor:#04x} at byte {at}")
    if end > len(view):
        raise IndexError
    return end


def _status(view: memoryview) -> int | str | None:
    constructor = view[0]
    if constructor == _NULL:
        return None
    if constructor == _MAP_8:
        count, at = view[2], 3
    elif constructor == _MAP_32:
        count, at = struct.unpack_from(">I", view, 5)[0], 9
    else:
        raise BadMessageError(f"the AMQP application properties are no map but {constructor:#04x}")
    if count > 2 * _MAX_PROPERTIES:
        raise BadMessageError(f"the AMQP message has more than {_MAX_PROPERTIES} application properties")
    for _ in range(count // 2):
        value = _end(view, at)
        end = _end(view, value)
        if view[at] in _TEXT and _content(view[at:value]) == _KEY:
            return _scalar(view[value:end])
        at = end
    return None


def _scalar(view: memoryview) -> int | str | None:
    constructor = view[0]
    if constructor in _INTEGERS:
        number: int = struct.unpack_from(_INTEGERS[constructor], view, 1)[0]
        return number
    if constructor in _ZEROES:
        return 0
    if constructor == _NULL:
        return None
    if constructor in _TEXT:
        return bytes(_content(view)[:_MAX_TEXT]).decode(errors="replace")
    raise BadMessageError(f"the AMQP property {STATUS_PROPERTY} is neither text nor a number but {constructor:#04x}")


def _binary(view: memoryview) -> memoryview:
    if view[0] not in _BINARY:
        raise BadMessageError(f"the body of the AMQP message is not binary but {view[0]:#04x}")
    return _content(view)


def _content(view: memoryview) -> memoryview:
    """The bytes of a binary, text or symbol."""
    return view[2:] if view[0] >> 4 in _SIZED_8 else view[5:]
