"""Annotations on disk: applies groups of messages so that each group is durable before its offset is.

A group goes in three steps, each durable before the next: (1) new images and labels are written under temporary names;
(2) they get their names, what is kept goes where it belongs, and every other copy goes; (3) the records. A crash
between two steps is taken up by reading the same messages again: every step finds what was done of it already, wherever
that is, or does it again.
"""

import io
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from azaion import failpoints, files, pictures
from azaion.annotations import record as records
from azaion.annotations import rules
from azaion.annotations.errors import AnnotationError, BadMessageError
from azaion.annotations.message import Annotation, Bulk, decode
from azaion.annotations.quarantine import Quarantine
from azaion.annotations.record import LEFT_BEHIND, Folder, Place, Record
from azaion.annotations.rules import Change
from azaion.annotations.spool import Message
from azaion.layout import Layout

#: From so many files on, one sync of the filesystem is cheaper than an fsync of each.
_MANY_FILES: Final = 16
#: From so many annotations on, a group is committed in parts: each bulk message may name a hundred thousand.
_MANY_ENTRIES: Final = 10_000

_log = structlog.get_logger("azaion.annotations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of a group of messages."""

    applied: int
    quarantined: int


@dataclass(slots=True)
class _Entry:
    """An annotation while a group is worked out: as it lies on disk, and as it will."""

    before: Record | None
    now: Record | None
    image: bytes | memoryview | None = None
    label: str | None = None

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return self.now != self.before


class AnnotationStore:
    """The annotations below one root. One process at a time, which holds ``Layout.tree_lock``."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        folders = {Folder.SEED: layout.seed, Folder.DATA: layout.data, Folder.DELETED: layout.deleted}
        # As text: some fifty paths are made of them for each message.
        self._images = {folder: str(files_of.images) for folder, files_of in folders.items()}
        self._labels = {folder: str(files_of.labels) for folder, files_of in folders.items()}
        self.quarantine = Quarantine(layout.quarantine)

    def clean(self) -> None:
        """Remove what a dead predecessor was writing. Only for the holder of the lock."""
        others = (self._layout.records, self._layout.quarantine, self._layout.root)
        for folder in (*self._images.values(), *self._labels.values(), *map(str, others)):
            with os.scandir(folder) as entries:
                left = [entry for entry in entries if entry.name.startswith(files.TEMPORARY_PREFIX)]
            for entry in left:
                if entry.is_dir(follow_symlinks=False):
                    files.remove_tree(Path(entry.path))
                else:
                    Path(entry.path).unlink(missing_ok=True)

    def apply(self, messages: Sequence[Message], incarnation: int) -> Applied:
        """Apply a group of messages, durably.

        Raises:
            OSError: on a full disk and the like. Nothing is lost: the same group can be applied again.
        """
        entries: dict[str, _Entry] = {}
        quarantined = 0
        for message in messages:
            if len(entries) >= _MANY_ENTRIES:
                # Any part of a group may be committed by itself; what has come is not asked for again.
                self._commit([entry for entry in entries.values() if entry.changed])
                entries = {}
            try:
                self._take(message, Place(incarnation, message.offset), entries)
            except AnnotationError as error:
                # Also a damaged record of its name: that must not stop the stream either.
                quarantined += 1
                self.quarantine.put(message, incarnation, str(error))
                _log.warning("quarantined", offset=message.offset, reason=str(error))
        self._commit([entry for entry in entries.values() if entry.changed])
        return Applied(applied=len(messages) - quarantined, quarantined=quarantined)

    # Working a group out, in memory.

    def _take(self, message: Message, place: Place, entries: dict[str, _Entry]) -> None:
        if message.problem is not None:
            raise BadMessageError(message.problem)
        event = decode(message.status, message.body)
        if event.body_status is not None:
            _log.warning(
                "the property and the body differ in status; the property counts",
                offset=message.offset,
                status=event.status.name,
                body=str(event.body_status)[:60],
            )
        if isinstance(event, Bulk):
            # All are looked up before the first is changed: a damaged record refuses the event as a whole.
            for name, entry in [(name, self._entry(name, entries)) for name in event.names]:
                self._change(entry, rules.apply_bulk(event, name, place, entry.now))
            return
        _check_image(event)
        entry = self._entry(event.name, entries)
        change = rules.apply_annotation(event, place, entry.now)
        self._change(entry, change)
        if change.problem is not None:
            raise BadMessageError(change.problem)

    def _entry(self, name: str, entries: dict[str, _Entry]) -> _Entry:
        if (entry := entries.get(name)) is None:
            known = records.read(self._record_path(name)) or self._left_behind(name)
            entry = entries[name] = _Entry(before=known, now=known)
        return entry

    def _change(self, entry: _Entry, change: Change) -> None:
        entry.now = change.record
        entry.image = entry.image if change.image is None else change.image
        entry.label = entry.label if change.label is None else change.label

    def _left_behind(self, name: str) -> Record | None:
        """An annotation that the system before this one filed without a record."""
        for folder in (Folder.DELETED, Folder.DATA, Folder.SEED):
            for extension in sorted(pictures.EXTENSIONS):
                path = f"{self._images[folder]}/{name}{extension}"
                if _is_file(path):
                    image = Path(path)
                    return Record(
                        name=name,
                        folder=folder,
                        created_at=LEFT_BEHIND,
                        trusted=folder is Folder.DATA,
                        deleted_at=Place(LEFT_BEHIND.incarnation, 0) if folder is Folder.DELETED else None,
                        image_at=LEFT_BEHIND,
                        label_at=LEFT_BEHIND,
                        extension=extension,
                        image_sha256=files.sha256(image),
                        image_bytes=image.stat().st_size,
                    )
        return None

    # Committing it.

    def _commit(self, entries: Sequence[_Entry]) -> None:
        renames: list[tuple[Path, Path]] = []
        try:
            for entry in entries:
                renames += self._prepare(entry)
            _sync([temporary for temporary, _ in renames], self._layout.root)
            failpoints.hit("store.files.written")
            for temporary, target in renames:
                temporary.replace(target)
                failpoints.hit("store.file.renamed")
        except BaseException:
            for temporary, _ in renames:
                temporary.unlink(missing_ok=True)
            raise
        touched = {target.parent for _, target in renames}
        for entry in entries:
            touched |= self._settle(entry)
        files.fsync_folders(touched)
        failpoints.hit("store.files.settled")
        self._write_records([entry.now for entry in entries if entry.now is not None])
        failpoints.hit("store.records.written")

    def _prepare(self, entry: _Entry) -> list[tuple[Path, Path]]:
        """Write what is new of an annotation under temporary names."""
        record = entry.now
        if record is None:
            return []
        new: list[tuple[bytes | memoryview, Path]] = []
        # The label first: no image is ever without.
        if entry.label is not None:
            new.append((entry.label.encode(), Path(self._labels[record.folder], f"{record.name}.txt")))
        if entry.image is not None:
            new.append((entry.image, Path(self._images[record.folder], f"{record.name}{record.extension}")))
        return [(files.write_temporary(target, data, durable=False), target) for data, target in new]

    def _settle(self, entry: _Entry) -> set[Path]:
        """Bring what an annotation keeps to where it belongs, and leave no other copy; returns the folders touched."""
        before, record = entry.before, entry.now
        if record is None or record.image_at is None:
            return set()
        # Where it belongs, then where it was; after a crash, where a later event of the same group had put it.
        order = dict.fromkeys([record.folder, *([before.folder] if before is not None else []), *Folder])
        images, labels = [self._images[folder] for folder in order], [self._labels[folder] for folder in order]
        kinds = [
            (images, f"{record.name}{record.extension}", entry.image is not None),
            (labels, f"{record.name}.txt", entry.label is not None),
        ]
        touched: set[Path] = set()
        # Whatever dies when: where datasets are formed from, no image is without its label.
        for folders, name, new in reversed(kinds) if record.folder is Folder.DATA else kinds:
            _gather(folders, name, touched, new=new)
        if entry.image is not None:
            for extension in pictures.EXTENSIONS - {record.extension}:
                for folder in images:
                    _remove(f"{folder}/{record.name}{extension}", touched)
        return touched

    def _write_records(self, changed: Iterable[Record]) -> None:
        renames: list[tuple[Path, Path]] = []
        try:
            for record in changed:
                target = self._record_path(record.name)
                renames.append((files.write_temporary(target, records.encode(record), durable=False), target))
            _sync([temporary for temporary, _ in renames], self._layout.root)
            failpoints.hit("store.records.prepared")
            for temporary, target in renames:
                temporary.replace(target)
        except BaseException:
            for temporary, _ in renames:
                temporary.unlink(missing_ok=True)
            raise
        if renames:
            files.fsync_folder(self._layout.records)

    def _record_path(self, name: str) -> Path:
        return self._layout.records / f"{name}.json"


def _gather(folders: Sequence[str], name: str, touched: set[Path], *, new: bool) -> None:
    """Have a file in the first of ``folders`` alone: it is new there, or comes from the first of the others."""
    target, *others = (f"{folder}/{name}" for folder in folders)
    if not new and not _is_file(target):
        source = next(filter(_is_file, others), None)
        if source is None:
            _log.warning("a file is gone", path=target)
        else:
            Path(source).replace(target)
            failpoints.hit("store.file.moved")
            touched |= {Path(source).parent, Path(target).parent}
    for path in others:
        _remove(path, touched)


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _remove(path: str, touched: set[Path]) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - some twenty for each new image, nearly always of nothing
        touched.add(Path(path).parent)


def _sync(paths: Sequence[Path], root: Path) -> None:
    if len(paths) < _MANY_FILES:
        for path in paths:
            files.fsync_file(path)
    else:
        files.sync_filesystem(root)


def _check_image(event: Annotation) -> None:
    if not event.image:
        return
    try:
        pictures.look(io.BytesIO(event.image))
    except pictures.PictureError as error:
        raise BadMessageError(f"the image of {event.name!r} is none: {error}") from None
