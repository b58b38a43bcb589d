"""What an event does to an annotation: the table of rules, as pure functions.

=========  =====================================  ==============================================
event      by a validator                         by anyone else
=========  =====================================  ==============================================
created    image and label to ``data``            image and label to ``seed``
edited     label to ``data``, image moves there   label rewritten where it is (a new one: seed)
validated  moves from seed to data                the same
deleted    moves to ``deleted``                   the same
=========  =====================================  ==============================================

What is deleted stays so, whatever edit or validation follows, until it is created again.

The folder is not moved step by step but derived from the places of the events that count, and so are image and label:
the latest wins. Events may therefore come again, or late (out of quarantine), and the end is the same.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from msgspec.structs import replace

from azaion.annotations.message import Annotation, Bulk, Status
from azaion.annotations.record import Folder, Place, Record

_NEVER: Final = Place(-2, -2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is to be done to one annotation.

    Attributes:
        record: as it will be.
        image: the new image; None keeps the stored one.
        label: the new label; None keeps the stored one.
        problem: why the event cannot be applied as a whole.
    """

    record: Record
    image: bytes | memoryview | None = None
    label: str | None = None
    problem: str | None = None


def apply_annotation(event: Annotation, place: Place, known: Record | None) -> Change:
    """What a creation or an edit does."""
    record = known or Record(name=event.name)
    digest = sha256(event.image).hexdigest() if event.image else None
    if event.status is Status.CREATED:
        if record.created_sha256 == digest and record.created == event.created:
            # The platform's outbox may deliver twice: the earlier one counts, and nothing else of the later.
            return _settled(replace(record, created_at=min(place, record.created_at or place)))
        if place > (record.created_at or _NEVER):
            record = replace(
                record,
                created_at=place,
                created=event.created,
                created_sha256=digest,
                trusted=event.role.validates,
            )
    elif event.role.validates:
        record = replace(record, promoted_at=max(place, record.promoted_at or _NEVER))
    record = _noted(record, event.status, place)
    if digest is None and record.image_at is None:
        # What it says of the folder counts all the same: read again after its image has come, it must end the same.
        return _settled(record, problem=f"{event.name!r} was edited without an image, and none is stored")
    image, label = None, None
    if digest is not None and place > (record.image_at or _NEVER):
        image = event.image
        record = replace(
            record, image_at=place, extension=event.extension, image_sha256=digest, image_bytes=len(event.image)
        )
    if place > (record.label_at or _NEVER):
        label = "".join(box.label for box in event.boxes)
        record = replace(
            record,
            label_at=place,
            media=event.media or record.media,
            time=event.time,
            role=int(event.role),
            email=event.email,
            source=int(event.origin),
        )
    return _settled(record, image=image, label=label)


def apply_bulk(event: Bulk, name: str, place: Place, known: Record | None) -> Change:
    """What a validation or a deletion does to one name; one that is not known yet is remembered."""
    record = known or Record(name=name)
    if event.status is Status.DELETED:
        record = replace(record, deleted_at=max(place, record.deleted_at or _NEVER))
    else:
        record = replace(record, promoted_at=max(place, record.promoted_at or _NEVER))
    return _settled(_noted(record, event.status, place))


def folder_of(record: Record) -> Folder:
    """Where an annotation belongs."""
    birth = record.created_at or _NEVER
    if (record.deleted_at or _NEVER) > birth:
        return Folder.DELETED
    if (record.promoted_at or _NEVER) > birth or record.trusted:
        return Folder.DATA
    return Folder.SEED


def _noted(record: Record, status: Status, place: Place) -> Record:
    if place <= (record.incarnation, record.offset):
        return record
    return replace(record, incarnation=place.incarnation, offset=place.offset, status=status.name)


def _settled(
    record: Record, *, image: bytes | memoryview | None = None, label: str | None = None, problem: str | None = None
) -> Change:
    return Change(record=replace(record, folder=folder_of(record)), image=image, label=label, problem=problem)
