"""What an event does to an annotation: the table of rules, as pure functions.

=========  =====================================  ==============================================
event      by a validator                         by anyone else
=========  =====================================  ==============================================
created    image and label to ``data``            image and label to ``seed``
edited     label to ``data``, image moves there   label rewritten where it is (a new one: seed)
validated  moves from seed to data                the same
deleted    moves to ``deleted``                   the same
=========  =====================================  ==============================================

An event is applied only if its stream and offset are later than those of the record, so that replaying any part of the
stream ends in the same tree. One exception: content that arrives late (out of quarantine) for a name of which only a
bulk event has told is taken, and goes where that event says; a deleted name is never resurrected by it.
"""

from dataclasses import dataclass
from hashlib import sha256

import msgspec

from azaion.annotations.errors import BadMessageError
from azaion.annotations.message import Annotation, Bulk, Status
from azaion.annotations.record import Folder, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An event's place in its stream."""

    incarnation: str
    offset: int

    def follows(self, record: Record) -> bool:
        """Whether an event here is later than the last one of ``record``. Another stream was chosen by a person."""
        return record.incarnation != self.incarnation or self.offset > record.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is to be done to one annotation.

    Attributes:
        record: as it will be.
        image: the new image; None keeps the stored one.
        label: the new label; None keeps the stored one.
    """

    record: Record
    image: bytes | memoryview | None = None
    label: str | None = None


def apply_annotation(event: Annotation, place: Place, known: Record | None) -> Change | None:
    """What a creation or an edit does; None if nothing.

    Raises:
        BadMessageError: it is an edit without an image, and none is stored.
    """
    late = known is not None and not place.follows(known)
    if late and known is not None and known.has_content:
        return None
    stored = known is not None and known.has_content
    if not event.image and not stored:
        raise BadMessageError(f"{event.name!r} was edited without an image, and none is stored")
    digest = sha256(event.image).hexdigest() if event.image else None
    if stored and known is not None and event.status is Status.CREATED and _repeated(event, digest, known):
        return None
    base = known or Record(
        name=event.name,
        folder=Folder.SEED,
        incarnation=place.incarnation,
        offset=place.offset,
        status=event.status.name,
    )
    record = msgspec.structs.replace(
        base,
        folder=_folder(event, known, late=late),
        media=event.media or base.media,
        time=event.time,
        role=int(event.role),
        email=event.email,
        source=int(event.origin),
        created=event.created if event.status is Status.CREATED or base.created is None else base.created,
    )
    if not late:
        record = msgspec.structs.replace(
            record, incarnation=place.incarnation, offset=place.offset, status=event.status.name
        )
    if digest is not None:
        record = msgspec.structs.replace(
            record,
            extension=event.extension,
            image_sha256=digest,
            image_bytes=len(event.image),
            created_sha256=digest if event.status is Status.CREATED else base.created_sha256,
        )
    label = "".join(box.label for box in event.boxes)
    return Change(record=record, image=event.image if digest is not None else None, label=label)


def apply_bulk(event: Bulk, name: str, place: Place, known: Record | None) -> Change | None:
    """What a validation or a deletion does to one name; None if nothing."""
    if known is not None and not place.follows(known):
        return None
    target = Folder.DELETED if event.status is Status.DELETED else Folder.DATA
    if known is None:
        # Nothing of it is here yet, or it was left by the system before this one: the move finds out.
        record = Record(
            name=name, folder=target, incarnation=place.incarnation, offset=place.offset, status=event.status.name
        )
        return Change(record=record)
    return Change(
        record=msgspec.structs.replace(
            known,
            folder=Folder.DELETED if known.folder is Folder.DELETED else target,
            incarnation=place.incarnation,
            offset=place.offset,
            status=event.status.name,
        ),
    )


def _folder(event: Annotation, known: Record | None, *, late: bool) -> Folder:
    if known is not None and late:
        return known.folder
    by_role = Folder.DATA if event.role.validates else Folder.SEED
    if known is None or event.status is Status.CREATED:
        return by_role
    if known.folder is Folder.DELETED:
        return Folder.DELETED
    return Folder.DATA if event.role.validates else known.folder


def _repeated(event: Annotation, digest: str | None, known: Record) -> bool:
    """The platform's outbox may deliver a creation twice."""
    return digest == known.created_sha256 and event.created == known.created
