"""Annotation messages for tests, made without the product's own encoder, and what must become of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from azaion import files
from azaion.annotations.stream import Message
from azaion.layout import Layout
from tests.annotation_trees import picture

CREATED, EDITED, VALIDATED, DELETED = 10, 20, 30, 40
OPERATOR, VALIDATOR = 10, 20

BIRTH = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)

_FORMATS = {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP"}


@dataclass(frozen=True)
class Event:
    """One event of the stream, and its message.

    Attributes:
        status: of the event: 10, 20, 30 or 40.
        names: one, or for a bulk event any number.
        picture: which image; None for an edit without one.
        kind: the class of its only box, by which labels are told apart.
        day: days from ``BIRTH`` to its creation.
    """

    status: int
    names: tuple[str, ...]
    role: int = OPERATOR
    picture: int | None = None
    extension: str = ".jpg"
    kind: int = 0
    day: int = 0

    @property
    def image(self) -> bytes:
        return picture(self.picture, _FORMATS[self.extension]) if self.picture is not None else b""

    @property
    def label(self) -> str:
        return f"{self.kind} 0.5 0.5 0.25 0.25\n"

    @property
    def body(self) -> bytes:
        created = BIRTH + timedelta(days=self.day)
        if self.status in {VALIDATED, DELETED}:
            return msgspec.msgpack.encode([list(self.names), self.status, "v@example.com", created])
        return msgspec.msgpack.encode(fields(self, created))

    def message(self, offset: int) -> Message:
        return Message(offset=offset, status=self.status, body=self.body)


def fields(event: Event, created: datetime = BIRTH) -> list[Any]:
    """The fields of an annotation's body, in the platform's order."""
    boxes = [{"cls": event.kind, "x": 0.5, "y": 0.5, "w": 0.25, "h": 0.25}]
    (name,) = event.names
    return [
        created,
        name,
        f"{name.partition('-')[0]}.mp4",
        0,
        event.extension,
        msgspec.json.encode(boxes).decode(),
        event.image,
        event.role,
        "o@example.com",
        1,
        event.status,
    ]


def created(name: str, number: int = 1, role: int = OPERATOR, extension: str = ".jpg", *, kind: int = 0) -> Event:
    """A creation; another ``number`` has another image and another date."""
    return Event(CREATED, (name,), role, number, extension, kind=kind, day=number)


def edited(
    name: str, number: int | None = None, role: int = OPERATOR, extension: str = ".jpg", *, kind: int = 1
) -> Event:
    return Event(EDITED, (name,), role, number, extension, kind=kind)


def validated(*names: str) -> Event:
    return Event(VALIDATED, names, VALIDATOR)


def deleted(*names: str) -> Event:
    return Event(DELETED, names, VALIDATOR)


def messages(events: Iterable[Event], start: int = 0) -> list[Message]:
    return [event.message(offset) for offset, event in enumerate(events, start)]


class Lying(NamedTuple):
    """An annotation as it lies on disk."""

    folder: str
    extension: str
    image: bytes
    label: str


@dataclass
class _State:
    folder: str | None = None
    content: tuple[str, bytes, str] | None = None
    birth: tuple[bytes, int] | None = field(default=None)


def expected(events: Iterable[Event]) -> dict[str, Lying]:
    """The tree after these events, read off the table of the design, one event after the other."""
    states: dict[str, _State] = {}
    for event in events:
        for name in event.names:
            it = states.setdefault(name, _State())
            by_role = "data" if event.role == VALIDATOR else None
            if event.status == CREATED and it.birth != (event.image, event.day):
                it.folder, it.birth = by_role or "data-seed", (event.image, event.day)
                it.content = (event.extension, event.image, event.label)
            elif event.status == EDITED:
                it.folder = it.folder if it.folder == "data_deleted" else by_role or it.folder
                if event.image:
                    it.content = (event.extension, event.image, event.label)
                elif it.content is not None:
                    it.content = (*it.content[:2], event.label)
            elif event.status in {VALIDATED, DELETED}:
                gone = event.status == DELETED or it.folder == "data_deleted"
                it.folder = "data_deleted" if gone else "data"
    return {name: Lying(it.folder or "data-seed", *it.content) for name, it in states.items() if it.content}


def found(layout: Layout) -> dict[str, Lying]:
    """The tree as it lies; fails on litter, on a copy too many and on a half of an annotation."""
    tree: dict[str, Lying] = {}
    labels: dict[tuple[str, str], str] = {}
    for folder in (layout.seed, layout.data, layout.deleted):
        for path in folder.labels.iterdir():
            assert not path.name.startswith(files.TEMPORARY_PREFIX), path
            labels[folder.path.name, path.stem] = path.read_text(encoding="utf-8")
    for folder in (layout.seed, layout.data, layout.deleted):
        for path in folder.images.iterdir():
            assert not path.name.startswith(files.TEMPORARY_PREFIX), path
            assert path.stem not in tree, f"{path} has a twin in {tree[path.stem].folder}"
            label = labels.pop((folder.path.name, path.stem), None)
            assert label is not None, f"{path} has no label"
            tree[path.stem] = Lying(folder.path.name, path.suffix, path.read_bytes(), label)
    assert not labels, f"labels without an image: {labels}"
    for path in (*layout.records.iterdir(), *layout.quarantine.iterdir(), *layout.root.iterdir()):
        assert not path.name.startswith(files.TEMPORARY_PREFIX), path
    return tree


def quarantined(layout: Layout) -> dict[str, Any]:
    """The reasons in quarantine, by folder."""
    return {path.name: files.read_json(Path(path, "reason.json")) for path in layout.quarantine.iterdir()}
