"""Annotations on disk: applies groups of messages so that each group is durable before its offset is.

A group goes in three steps, each durable before the next: (1) new images, labels and records are written under
temporary names; (2) images and labels get their names, what is kept goes where it belongs, and every other copy goes;
(3) the records get their names. A crash between two steps is taken up by reading the same messages again: every step
finds what was done of it already, wherever that is, or does it again.

What a disk takes to flush is long, so the next group is made ready meanwhile: worked out, and written under temporary
names, as long as it is about other annotations than the one that is being committed.
"""

import io
import os
import stat
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
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
from azaion.annotations.stream import GROUP_COUNT, Form, Message
from azaion.layout import Layout

#: From so many files on, one sync of the filesystem is cheaper than an fsync of each.
_MANY_FILES: Final = 16
#: After a start, and after a failure, so many messages may have been applied in part: as many as a group may have.
_CAREFUL: Final = GROUP_COUNT
#: With more files without a record than this, each name is looked for in all folders.
_MANY_UNRECORDED: Final = 50_000
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
    """An annotation while a group is worked out: as it lies on disk, and as it will.

    ``careful``: whether its files may lie elsewhere than its record says.
    """

    before: Record | None
    now: Record | None
    careful: bool
    image: bytes | memoryview | None = None
    label: str | None = None

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return self.now != self.before


class _AheadError(Exception):
    """A message is about an annotation that a group before it is just changing."""


@dataclass(slots=True)
class Group:
    """Messages that are committed together, after those of ``before``, and what has been made ready of them.

    ``retries`` is how many retries there had been when it was begun: whatever comes out of quarantine meanwhile may be
    about the same annotations. ``written`` are temporary files with the names they are to have: images and labels,
    then records.
    """

    messages: Sequence[Message]
    incarnation: int
    retries: int
    before: "Group | None" = None
    taken: int = 0
    quarantined: int = 0
    entries: dict[str, _Entry] = field(default_factory=dict)
    written: tuple[list[tuple[str, str]], list[tuple[str, str]]] | None = None
    over: bool = False

    @property
    def whole(self) -> bool:
        """Whether all its messages have been worked out."""
        return self.taken == len(self.messages)


class AnnotationStore:
    """The annotations below one root. One process at a time, which holds ``Layout.tree_lock``.

    One group may be prepared in one thread while the one before it is committed in another.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        folders = {Folder.SEED: layout.seed, Folder.DATA: layout.data, Folder.DELETED: layout.deleted}
        # As text: some fifty paths are made of them for each message.
        self._images = {folder: str(files_of.images) for folder, files_of in folders.items()}
        self._labels = {folder: str(files_of.labels) for folder, files_of in folders.items()}
        self.quarantine = Quarantine(layout.quarantine)
        self._careful = _CAREFUL
        #: What a predecessor that was killed, or a commit that failed, has renamed may not be on the disk.
        self._unflushed = True
        self._unrecorded: frozenset[str] | None = None
        self._retries = 0
        self._latest: Group | None = None

    def survey(self, stop: Callable[[], bool] = bool) -> None:
        """Find the files that have no record, so that later no other name has to be looked for in every folder.

        It takes as long as looking at every file takes, and may run in a thread of its own beside all else. It ends
        early, and to no avail, when ``stop`` says so.
        """
        found: set[str] = set()
        for folder in self._images.values():
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name.rpartition(".")[0]
                    if not os.path.lexists(f"{self._layout.records}/{name}.json"):
                        found.add(name)
                    if len(found) > _MANY_UNRECORDED or stop():
                        return
        self._unrecorded = frozenset(found)

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
        """Prepare and commit a group; see there."""
        group = self.group(messages, incarnation)
        self.prepare(group)
        return self.commit(group)

    def group(self, messages: Sequence[Message], incarnation: int) -> Group:
        """The group that comes after all others; it must be committed or discarded."""
        group = self._latest = Group(messages, incarnation, self._retries, before=self._latest)
        return group

    def prepare(self, group: Group) -> None:
        """Make a group ready to be committed, as far as that can be done while the one before it is committed.

        What is bad is put into quarantine already. Call it again when the one before is committed.
        """
        before, careful = group.before, self._must_be_careful()
        if group.whole:
            return
        if before is None or before.over:
            group.before = None
            self._make_ready(group, careful=careful)
        elif before.whole and not careful:
            self._make_ready(group, busy=before.entries)

    def _make_ready(self, group: Group, *, careful: bool = False, busy: Container[str] = ()) -> None:
        try:
            self._work_out(group, careful=careful, busy=busy)
            if group.whole:
                self._write(group)
            failpoints.hit("store.ahead.prepared")
        except _AheadError:
            pass
        except OSError:
            # It will fail once more when it is committed, if the disk still refuses.
            self._undo(group)

    def commit(self, group: Group) -> Applied:
        """Apply a group of messages, durably; after the one that was prepared before it.

        Raises:
            OSError: on a full disk and the like. Nothing is lost: the same group can be committed again.
        """
        try:
            if group.retries != self._retries:
                self._undo(group)
            if not group.whole:
                self._work_out(group, careful=self._must_be_careful())
            self._flush(group)
        except BaseException:
            self._careful = _CAREFUL
            self._undo(group)
            raise
        group.over, group.before = True, None
        self._careful = max(0, self._careful - len(group.messages))
        return Applied(applied=len(group.messages) - group.quarantined, quarantined=group.quarantined)

    def discard(self, group: Group) -> None:
        """Remove what has been written of a group that will not be committed; its messages will come again."""
        self._undo(group)
        group.over, group.before = True, None

    def _must_be_careful(self) -> bool:
        # Also a retry out of quarantine may have left files where no record says that they are.
        return self._careful > 0 or self.quarantine.unfinished()

    def _undo(self, group: Group) -> None:
        """Have nothing of a group made ready."""
        if group.written is not None:
            for temporary, _ in (*group.written[0], *group.written[1]):
                with suppress(FileNotFoundError):
                    os.unlink(temporary)  # noqa: PTH108 - as below
        group.retries, group.taken, group.quarantined, group.entries, group.written = self._retries, 0, 0, {}, None

    def _work_out(self, group: Group, *, careful: bool = False, busy: Container[str] | None = None) -> None:
        """Work out what is left of a group; where others are ``busy``, up to the first message that they are in.

        Raises:
            _AheadError: there is such a message, or the group must be committed in parts, in its turn.
        """
        for message in group.messages[group.taken :]:
            if len(group.entries) >= _MANY_ENTRIES:
                if busy is not None:
                    raise _AheadError
                # Any part of a group may be committed by itself; what has come is not asked for again.
                self._flush(group)
            try:
                place = Place(group.incarnation, message.offset)
                self._take(message, place, group.entries, careful=careful, busy=() if busy is None else busy)
            except AnnotationError as error:
                # Also a damaged record of its name: that must not stop the stream either.
                group.quarantined += 1
                self.quarantine.put(message, group.incarnation, str(error))
                _log.warning("quarantined", offset=message.offset, reason=str(error))
            group.taken += 1

    def retry(self, message: Message, incarnation: int) -> str | None:
        """Apply a message out of quarantine at the place that it has in its stream, durably.

        Nothing is put into quarantine by it. Of several messages in one, those that can be applied are. It may be
        applied again, or late: what came after it in the stream counts all the same.

        Returns:
            Why it still cannot be applied; None if it was.

        Raises:
            OSError: on a full disk and the like. It may be applied in part, so it must be retried until it is whole.
        """
        if message.form is Form.FILE:
            return "a damaged file of the spool cannot be retried: send its annotation again, and drop this"
        group = Group((), incarnation, self._retries)
        problems: list[tuple[int, str]] = []
        number = 0
        try:
            for part in _parts(message):
                if len(group.entries) >= _MANY_ENTRIES:
                    self._flush(group)
                number += 1
                try:
                    if part.form is not Form.BODY and part.problem is None:
                        raise BadMessageError("its bytes still cannot be read")
                    self._take(part, Place(incarnation, part.offset), group.entries, careful=True, busy=())
                except (AnnotationError, OSError) as error:
                    # Nothing of it has been written yet.
                    problems.append((part.offset, str(error)))
            self._flush(group)
        finally:
            self._undo(group)
            self._retries += 1
        if not number:
            return "it holds no message"
        if not problems:
            return None
        offset, first = problems[0]
        return first if number == 1 else f"{len(problems)} of its {number} messages: the first is {offset}: {first}"

    # Working a group out, in memory.

    def _take(
        self,
        message: Message,
        place: Place,
        entries: dict[str, _Entry],
        *,
        careful: bool,
        busy: Container[str],
    ) -> None:
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
            found = [(name, self._entry(name, entries, careful=careful, busy=busy)) for name in event.names]
            for name, entry in found:
                self._change(entry, rules.apply_bulk(event, name, place, entry.now))
            return
        _check_image(event)
        entry = self._entry(event.name, entries, careful=careful, busy=busy)
        change = rules.apply_annotation(event, place, entry.now)
        self._change(entry, change)
        if change.problem is not None:
            raise BadMessageError(change.problem)

    def _entry(self, name: str, entries: dict[str, _Entry], *, careful: bool, busy: Container[str]) -> _Entry:
        if name in busy:
            raise _AheadError
        if (entry := entries.get(name)) is None:
            known = records.read(self._record_path(name))
            if known is None and (careful or self._may_be_left(name)):
                known, careful = self._left_behind(name), True
            entry = entries[name] = _Entry(before=known, now=known, careful=careful)
        return entry

    def _change(self, entry: _Entry, change: Change) -> None:
        entry.now = change.record
        entry.image = entry.image if change.image is None else change.image
        entry.label = entry.label if change.label is None else change.label

    def _may_be_left(self, name: str) -> bool:
        """Whether there may be files of a name that has no record."""
        if self._unrecorded is None or name in self._unrecorded:
            return True
        # Its record may have been removed since they were listed, or its files put there; no image is without a label.
        return any(map(os.path.lexists, (f"{folder}/{name}.txt" for folder in self._labels.values())))

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

    def _write(self, group: Group) -> None:
        """Write what is new in a group under temporary names; nothing of it is durable yet."""
        content: list[tuple[str, str]] = []
        record: list[tuple[str, str]] = []
        group.written = content, record
        for entry in group.entries.values():
            if entry.changed:
                self._prepare(entry, content, record)

    def _flush(self, group: Group) -> None:
        """Bring to the disk what has been worked out of a group, which then holds nothing any more."""
        if group.written is None:
            self._write(group)
        assert group.written is not None  # noqa: S101 - of the type
        content, record = group.written
        if self._unflushed:
            # Whoever finds a file where it belongs does not flush its folder any more.
            files.sync_filesystem(self._layout.root)
        self._unflushed = True
        _sync([temporary for temporary, _ in (*content, *record)], self._layout.root)
        failpoints.hit("store.files.written")
        for temporary, target in content:
            os.replace(temporary, target)  # noqa: PTH105 - some hundred thousand of them, each a path less to make
            failpoints.hit("store.file.renamed")
        touched = {target.rpartition("/")[0] for _, target in content}
        for entry in group.entries.values():
            if entry.changed:
                self._settle(entry, touched)
        files.fsync_folders(map(Path, touched))
        failpoints.hit("store.files.settled")
        for temporary, target in record:
            os.replace(temporary, target)  # noqa: PTH105 - the same
            failpoints.hit("store.record.renamed")
        if record:
            files.fsync_folder(self._layout.records)
        group.entries, group.written = {}, None
        self._unflushed = False
        failpoints.hit("store.records.written")

    def _prepare(self, entry: _Entry, content: list[tuple[str, str]], record: list[tuple[str, str]]) -> None:
        """Write what is new of an annotation under temporary names, and note them with the names to be."""
        now = entry.now
        if now is None:
            return
        # The label first: no image is ever without.
        if entry.label is not None:
            content.append(_written(f"{self._labels[now.folder]}/{now.name}.txt", entry.label.encode()))
        if entry.image is not None:
            content.append(_written(f"{self._images[now.folder]}/{now.name}{now.extension}", entry.image))
        record.append(_written(str(self._record_path(now.name)), records.encode(now)))

    def _settle(self, entry: _Entry, touched: set[str]) -> None:
        """Bring what an annotation keeps to where it belongs, and leave no other copy; notes the folders touched."""
        before, record = entry.before, entry.now
        if record is None or record.image_at is None:
            return
        if not entry.careful and (before is None or before.image_at is None or self._move(before, entry, touched)):
            # Where there was nothing, all is new.
            return
        # Where it belongs, then where it was; after a crash, where a later event of the same group had put it.
        order = dict.fromkeys([record.folder, *([before.folder] if before is not None else []), *Folder])
        images, labels = [self._images[folder] for folder in order], [self._labels[folder] for folder in order]
        kinds = [
            (images, f"{record.name}{record.extension}", entry.image is not None),
            (labels, f"{record.name}.txt", entry.label is not None),
        ]
        # Whatever dies when: where datasets are formed from, no image is without its label.
        for folders, name, new in reversed(kinds) if record.folder is Folder.DATA else kinds:
            _gather(folders, name, touched, new=new)
        if entry.image is not None:
            for extension in pictures.EXTENSIONS - {record.extension}:
                for folder in images:
                    _remove(f"{folder}/{record.name}{extension}", touched)

    def _move(self, before: Record, entry: _Entry, touched: set[str]) -> bool:
        """Settle an annotation whose files lie where its record says; false if one does not."""
        record = entry.now
        assert record is not None  # noqa: S101 - of the type: the caller has looked
        name = record.name
        kinds = [
            (self._images, f"{name}{before.extension}", f"{name}{record.extension}", entry.image is not None),
            (self._labels, f"{name}.txt", f"{name}.txt", entry.label is not None),
        ]
        for folders, was, becomes, new in reversed(kinds) if record.folder is Folder.DATA else kinds:
            source, target = f"{folders[before.folder]}/{was}", f"{folders[record.folder]}/{becomes}"
            if source == target:
                continue
            if new:
                _remove(source, touched)
                continue
            try:
                os.replace(source, target)  # noqa: PTH105 - as above
            except FileNotFoundError:
                return False
            failpoints.hit("store.file.moved")
            touched |= {folders[before.folder], folders[record.folder]}
        return True

    def _record_path(self, name: str) -> Path:
        return self._layout.records / f"{name}.json"


def _written(target: str, data: bytes | memoryview) -> tuple[str, str]:
    """Write what is to become ``target``; returns the temporary file and ``target``."""
    return files.write_into(target.rpartition("/")[0], data, durable=False), target


def _gather(folders: Sequence[str], name: str, touched: set[str], *, new: bool) -> None:
    """Have a file in the first of ``folders`` alone: it is new there, or comes from the first of the others."""
    target, *others = (f"{folder}/{name}" for folder in folders)
    if not new and not _is_file(target):
        source = next(filter(_is_file, others), None)
        if source is None:
            _log.warning("a file is gone", path=target)
        else:
            os.replace(source, target)  # noqa: PTH105 - as above
            failpoints.hit("store.file.moved")
            touched |= {source.rpartition("/")[0], target.rpartition("/")[0]}
    for path in others:
        _remove(path, touched)


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _remove(path: str, touched: set[str]) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - some twenty for each new image, nearly always of nothing
        touched.add(path.rpartition("/")[0])


def _parts(message: Message) -> Iterable[Message]:
    """The messages that one of a stream stands for."""
    if message.form is Form.BODY:
        return (message,)
    from azaion.annotations import wire  # noqa: PLC0415 - only for what came by RabbitMQ

    return wire.expand(message)


def _sync(paths: Sequence[str], root: Path) -> None:
    if len(paths) < _MANY_FILES:
        for path in paths:
            files.fsync_file(Path(path))
    else:
        files.sync_filesystem(root)


def _check_image(event: Annotation) -> None:
    if not event.image:
        return
    try:
        pictures.look(io.BytesIO(event.image))
    except pictures.PictureError as error:
        raise BadMessageError(f"the image of {event.name!r} is none: {error}") from None
