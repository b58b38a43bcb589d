"""Forming a snapshot of the validated annotations: complete or absent, and the same side for an image every time.

The manifest says, beside name and key: when it was ``created``; of how many files (``source``); the ``classes``; in
``splits`` images, boxes, empty images and bytes of each side; in ``class_counts`` the boxes of each class on each side;
``corrupted`` with how many, by reason, and the first of them; ``doubles`` with how many images were left out since the
same is on another side, and the first of them; ``totals``; and the ``digest``: the SHA-256 of ``files.tsv``, which
lists SHA-256 and size of every other file.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from typing import Any, Final

from azaion import failpoints, files
from azaion.dataset import classes as user_classes
from azaion.dataset import images, labels, records
from azaion.dataset.corrupted import Refusal, set_aside
from azaion.dataset.doubles import doubles
from azaion.dataset.earlier import Earlier
from azaion.dataset.errors import CorruptedError, DatasetError, Reason
from azaion.dataset.listing import Listing, listing
from azaion.dataset.snapshot import FORMAT, Row, Snapshot, data_yaml, load, names
from azaion.dataset.split import Split, side
from azaion.dataset.staging import Staged, stage
from azaion.layout import Layout, SnapshotFolder

_log: Final = logging.getLogger(__name__)

#: A manifest names so many corrupted files; it counts all of them.
_LISTED: Final = 1000

#: How often progress is told.
_PROGRESS_STEP: Final = 500

_MAX_KEY_CHARACTERS: Final = 200


def form(
    layout: Layout,
    *,
    today: date,
    key: str,
    progress: Callable[[int, int], None] | None = None,
) -> Snapshot:
    """Form a snapshot of the validated annotations as they are between two group commits.

    The sides (train, valid, test: 70, 20, 10 in 100) are decided by the hash of each image's media, so they are not
    exact, and a small set may leave one empty by chance. No image is ever moved to fill a side: it would be on another
    one the next time, and what a model has learned from must not judge a later one. An empty test side is fine; an
    empty train or valid side is an error that says how many media there are and how many more are likely to help. Ten
    photographs (each a media of its own) leave valid empty once in ten times, thirty once in a thousand.

    No image is on two sides, if it came in under the names of two media: it stays where it is learnt from.

    Annotations that no dataset can take are copied to ``data-corrupted/`` with the reason; what lies in ``data/`` is
    never touched.

    Args:
        layout: where everything lies.
        today: the date in the snapshot's name.
        key: the same key never forms a second snapshot: the first is returned.
        progress: is told every now and then how many images of how many are done.

    Raises:
        DatasetError: the classes cannot be read, or train or valid would be empty; no snapshot is left.
        OSError: a full disk and the like; no snapshot is left.
    """
    if not 0 < len(key) <= _MAX_KEY_CHARACTERS or not key.isprintable():
        raise DatasetError(f"{key[:40]!r} cannot be the key of a dataset: write 1 to {_MAX_KEY_CHARACTERS} characters.")
    for folder in (layout.data.images, layout.data.labels):
        if not folder.is_dir():
            raise DatasetError(f"{folder} does not exist: no annotation has come in yet, or a disk is not mounted.")
    files.make_folder(layout.datasets)
    with files.locked(layout.datasets_lock):
        _sweep(layout)
        if (found := _with_key(layout, key)) is not None:
            # Who formed it may have died before its name was flushed.
            files.fsync_folder(layout.datasets)
            return found
        classes = user_classes.read(layout.classes)
        building = files.temporary_for(layout.datasets / "snapshot")
        building.mkdir()
        try:
            snapshot = SnapshotFolder(path=building)
            with listing(snapshot.listing) as listed:
                return _Forming(layout, snapshot, listed, classes, today, key).run(progress)
        finally:
            files.remove_tree(building)


def _sweep(layout: Layout) -> None:
    """Remove what dead formers left: no living one but us can hold the lock."""
    for path in layout.datasets.glob(f"{files.TEMPORARY_PREFIX}*"):
        _log.info("removing %s, which a dead process left", path)
        files.remove_tree(path)


def _with_key(layout: Layout, key: str) -> Snapshot | None:
    for name in reversed(names(layout)):
        try:
            snapshot = load(layout, name)
        except DatasetError as error:
            _log.warning("%s", error)
            continue
        if snapshot.manifest["key"] == key:
            return snapshot
    return None


@dataclass
class _Side:
    """What came to one side; an image that nobody knows the media of is a media of its own."""

    media: set[str] = field(default_factory=set)
    alone: int = 0
    images: int = 0
    bytes: int = 0
    background: int = 0
    boxes: Counter[int] = field(default_factory=Counter)

    @property
    def groups(self) -> int:
        """How many media."""
        return len(self.media) + self.alone


class _Forming:
    """One snapshot on its way."""

    def __init__(
        self,
        layout: Layout,
        folder: SnapshotFolder,
        listed: Listing,
        classes: dict[int, str],
        today: date,
        key: str,
    ) -> None:
        self._layout = layout
        self._folder = folder
        self._classes = classes
        self._today = today
        self._key = key
        self._listing = listed
        self._refusals: list[Refusal] = []
        self._sides = {split: _Side() for split in Split}
        self._doubles: list[str] = []
        self._gone: set[str] = set()
        self._repaired = 0
        self._earlier = Earlier(layout)

    def run(self, progress: Callable[[int, int], None] | None) -> Snapshot:
        staged = stage(self._layout, self._folder.staging)
        failpoints.hit("dataset.linked")
        for split in Split:
            files.make_folder(self._folder.annotations(split).images)
            files.make_folder(self._folder.annotations(split).labels)
        self._refusals += [Refusal(file, reason) for file, reason in sorted(staged.refused.items())]
        total = len(staged.images)
        for done, name in enumerate(sorted(staged.images)):
            if progress is not None and done % _PROGRESS_STEP == 0:
                progress(done, total)
            self._take(staged, name)
        orphans = set(staged.orphans) - {Path(file).stem for file in staged.refused}
        self._refusals += [Refusal(f"{name}.txt", Reason.NO_IMAGE, label=name) for name in sorted(orphans)]
        self._leave_out(doubles(lambda split: self._listing.rows(f"{split}/images")))
        self._refuse_empty()
        set_aside(self._layout, staged, self._refusals)
        files.remove_tree(self._folder.staging)
        snapshot = self._finish(staged)
        if progress is not None:
            progress(total, total)
        return snapshot

    def _take(self, staged: Staged, name: str) -> None:
        """Put the image and the label of an annotation on their side, or refuse them."""
        chosen, *doubles = staged.files(name)
        try:
            record = records.read(staged.record(name))
            if doubles:
                chosen, *doubles = _prefer([chosen, *doubles], record.extension)
                self._refusals += [Refusal(file, Reason.TWO_IMAGES, image=file) for file in doubles]
            text = _read_label(staged, name)
            boxes = labels.check(text, self._classes)
            path = staged.image(chosen)
            known, told = self._earlier.know(path, chosen), record.image
            if known is None:
                image = images.inspect(path, told)
            elif told is None or (told.sha256, told.size) == (known.sha256, known.size):
                image = known
            else:
                # One of them is wrong.
                image = images.inspect(path)
        except CorruptedError as error:
            label = name if os.path.lexists(staged.label(name)) else None
            self._refusals.append(Refusal(chosen, error.reason, error.detail, image=chosen, label=label))
            return
        split = side(media=record.media, sha256=image.sha256)
        self._put(split, staged.image(chosen), chosen, image)
        self._write(f"{split}/labels/{name}.txt", text)
        tally = self._sides[split]
        tally.images += 1
        if record.media:
            tally.media.add(record.media)
        else:
            tally.alone += 1
        tally.background += not boxes
        tally.boxes.update(boxes)

    def _put(self, split: Split, source: str, file: str, image: images.Image) -> None:
        path = f"{split}/images/{file}"
        if image.repaired is not None:
            self._write(path, image.repaired)
            self._repaired += 1
            size = len(image.repaired)
        else:
            os.rename(source, f"{self._folder.path}/{path}")  # noqa: PTH104 a hundred thousand times
            self._listing.add(path, image.sha256, image.size)
            size = image.size
        self._sides[split].bytes += size

    def _write(self, path: str, data: bytes) -> None:
        """Write a file of our own. Read-only: nothing has any business writing into a snapshot."""
        descriptor = os.open(f"{self._folder.path}/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        with os.fdopen(descriptor, "wb", buffering=0) as stream:
            view = memoryview(data)
            while view:
                view = view[stream.write(view) :]
        self._listing.add(path, hashlib.sha256(data).hexdigest(), len(data))

    def _leave_out(self, images: list[Row]) -> None:
        """Take back what was put on a side; the annotation itself stays where it is, as always."""
        for row in images:
            split, _, file = row.path.split("/")
            label = f"{split}/labels/{Path(file).stem}.txt"
            boxes = Counter(labels.check((self._folder.path / label).read_bytes(), self._classes))
            tally = self._sides[Split(split)]
            tally.images -= 1
            tally.bytes -= row.size
            tally.background -= not boxes
            tally.boxes -= boxes
            self._doubles.append(row.path)
            for path in (row.path, label):
                (self._folder.path / path).unlink()
                self._gone.add(path)

    def _refuse_empty(self) -> None:
        for split in (Split.TRAIN, Split.VALID):
            if self._sides[split].images:
                continue
            groups = {split: tally.groups for split, tally in self._sides.items()}
            reasons = Counter(str(refusal.reason) for refusal in self._refusals)
            reasons += Counter({"the same image is on another side": len(self._doubles)})
            corrupted = "".join(f"\n  {number} not taken: {reason}" for reason, number in reasons.most_common())
            if not sum(groups.values()):
                raise DatasetError(
                    f"No dataset can be formed: {self._layout.data.path} holds no annotation that can be trained on."
                    f"{corrupted}\nValidate annotations first, or mend these and {self._layout.classes}.",
                )
            raise DatasetError(
                f"No dataset can be formed: its {split} side would be empty. The name of the video or photograph that"
                f" an image comes from decides its side, for ever; of {sum(groups.values())} so far,"
                f" {', '.join(f'{number} went to {split}' for split, number in groups.items())}.{corrupted}\n"
                f"Annotate images of other videos or photographs; ten more fill it in nine cases of ten.",
            )

    def _finish(self, staged: Staged) -> Snapshot:
        """Write the manifest, make everything durable, and give the folder its name."""
        folder = self._folder
        sizes = {split: tally.images for split, tally in self._sides.items()}
        self._write(folder.data.name, data_yaml(user_classes.names(self._classes), sizes))
        digest = self._listing.write(folder.files, without=self._gone)
        files.remove_tree(folder.listing)
        path = self._free_path()
        manifest = self._manifest(staged, path.name, digest)
        text = json.dumps(manifest, ensure_ascii=False, allow_nan=False, indent=1).encode()
        files.replace(folder.manifest, text + b"\n", mode=0o444, durable=False)
        files.sync_filesystem(folder.path)
        failpoints.hit("dataset.manifest")
        files.rename(folder.path, path)
        failpoints.hit("dataset.renamed")
        return Snapshot(path=path, name=path.name, manifest=manifest)

    def _free_path(self) -> Path:
        """A name that is free. It stays so: we hold the lock of all who form."""
        base = f"azaion-{self._today.isoformat()}"
        numbered = (self._layout.datasets / (base if number == 1 else f"{base}-{number}") for number in count(1))
        return next(path for path in numbered if not os.path.lexists(path))

    def _manifest(self, staged: Staged, name: str, digest: str) -> dict[str, Any]:
        used = sorted(set().union(*(tally.boxes for tally in self._sides.values())))
        return {
            "format": FORMAT,
            "name": name,
            "key": self._key,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "source": {
                "images": sum(map(len, staged.images.values())),
                "labels": staged.labels,
                "records": staged.records,
                "ignored": staged.ignored,
            },
            "classes": user_classes.names(self._classes),
            "splits": {
                split: {
                    "images": tally.images,
                    "media": tally.groups,
                    "boxes": tally.boxes.total(),
                    "background": tally.background,
                    "bytes": tally.bytes,
                }
                for split, tally in self._sides.items()
            },
            "class_counts": {
                str(number): {split: tally.boxes[number] for split, tally in self._sides.items()} for number in used
            },
            "corrupted": {
                "count": len(self._refusals),
                "reasons": Counter(refusal.reason for refusal in self._refusals),
                "files": [refusal.facts() for refusal in self._refusals[:_LISTED]],
            },
            "doubles": {"count": len(self._doubles), "files": self._doubles[:_LISTED]},
            "totals": {
                "images": sum(tally.images for tally in self._sides.values()),
                "boxes": sum(tally.boxes.total() for tally in self._sides.values()),
                "bytes": sum(tally.bytes for tally in self._sides.values()),
                "files": self._listing.count,
                "repaired": self._repaired,
                "copied": staged.copied,
            },
            "digest": digest,
        }


def _prefer(found: list[str], extension: str | None) -> list[str]:
    """Images of one name, the one that the record speaks of first."""
    wanted = (extension or "").lower().lstrip(".")
    return sorted(found, key=lambda file: (Path(file).suffix.lower().lstrip(".") != wanted, file))


def _read_label(staged: Staged, name: str) -> bytes:
    try:
        return files.read_small(staged.label(name), limit=labels.MAX_BYTES)
    except FileNotFoundError:
        raise CorruptedError(Reason.NO_LABEL) from None
    except files.FileError:
        raise CorruptedError(Reason.LABEL, f"it is no file of at most {labels.MAX_BYTES} bytes") from None
