"""Taking the data as it is between two group commits: links, which are quick, and no look inside."""

import os
import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from azaion import files, pictures
from azaion.dataset.errors import Reason
from azaion.layout import AnnotationFolder, Layout

_LABEL: Final = ".txt"
_RECORD: Final = ".json"

#: Control characters, and bytes that are not UTF-8.
_NO_TEXT: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Staged:
    """What was taken.

    Attributes:
        path: the folder that holds it.
        images: by the name of each annotation, what follows it in the names of its image files.
        labels: how many labels.
        orphans: names of labels that have no image.
        records: how many records.
        refused: files that are not even looked at, and why.
        ignored: how many other files lay there (the trainer's caches and the like).
        copied: how many images had to be copied, because the filesystem allowed no link.
    """

    path: Path
    images: dict[str, tuple[str, ...]] = field(default_factory=dict)
    labels: int = 0
    orphans: list[str] = field(default_factory=list)
    records: int = 0
    refused: dict[str, Reason] = field(default_factory=dict)
    ignored: int = 0
    copied: int = 0

    def files(self, name: str) -> list[str]:
        """The names of the image files of an annotation."""
        return [name + extension for extension in self.images[name]]

    def image(self, file: str) -> str:
        """Where an image lies."""
        return f"{self.path}/images/{file}"

    def label(self, name: str) -> str:
        """Where the label of an annotation lies."""
        return f"{self.path}/labels/{name}{_LABEL}"

    def record(self, name: str) -> str:
        """Where the record of an annotation lies."""
        return f"{self.path}/records/{name}{_RECORD}"


def stage(layout: Layout, path: Path) -> Staged:
    """Take all validated annotations, their labels and their records, while the consumer commits nothing."""
    for kind in ("images", "labels", "records"):
        files.make_folder(path / kind)
    refused: dict[str, Reason] = {}
    with files.locked(layout.commit_lock):
        images, ignored, copied = _take_images(layout.data, path / "images", refused)
        labels, orphans = _take_labels(layout.data, path / "labels", refused, images)
        records = _take_records(layout.records, path / "records", images.keys())
    return Staged(
        path=path,
        images=images,
        labels=labels,
        orphans=orphans,
        records=records,
        refused=refused,
        ignored=ignored,
        copied=copied,
    )


def _take_images(
    source: AnnotationFolder,
    target: Path,
    refused: dict[str, Reason],
) -> tuple[dict[str, tuple[str, ...]], int, int]:
    images: dict[str, tuple[str, ...]] = {}
    # Of a hundred thousand annotations nearly all share one of these.
    alone = {extension: (extension,) for extension in pictures.EXTENSIONS}
    ignored = copied = 0
    with os.scandir(source.images) as entries:
        for entry in entries:
            name, extension = os.path.splitext(entry.name)  # noqa: PTH122 a hundred thousand times
            if extension.lower() not in pictures.EXTENSIONS or name.startswith("."):
                # A dot begins the names of writes that did not end.
                ignored += not name.startswith(".")
            elif reason := _refusal(entry):
                refused[entry.name] = reason
            elif (linked := _take(entry.path, f"{target}/{entry.name}")) is not None:
                before = images.get(name)
                images[name] = alone.get(extension, (extension,)) if before is None else (*before, extension)
                copied += not linked
    return images, ignored, copied


def _take_labels(
    source: AnnotationFolder, target: Path, refused: dict[str, Reason], images: Container[str]
) -> tuple[int, list[str]]:
    labels, orphans = 0, []
    with os.scandir(source.labels) as entries:
        for entry in entries:
            name, extension = os.path.splitext(entry.name)  # noqa: PTH122 a hundred thousand times
            if extension != _LABEL or name.startswith("."):
                continue
            if reason := _refusal(entry):
                refused[entry.name] = reason
            elif _take(entry.path, f"{target}/{entry.name}") is not None:
                labels += 1
                if name not in images:
                    orphans.append(name)
    return labels, orphans


def _take_records(source: Path, target: Path, names: Iterable[str]) -> int:
    return sum(_take(f"{source}/{name}{_RECORD}", f"{target}/{name}{_RECORD}") is not None for name in names)


def _refusal(entry: "os.DirEntry[str]") -> Reason | None:
    if not entry.is_file(follow_symlinks=False):
        return Reason.NOT_A_FILE
    return Reason.NAME if _NO_TEXT.search(entry.name) else None


def _take(source: str, target: str) -> bool | None:
    """Whether it was linked rather than copied; None if it is gone."""
    try:
        return files.link_or_copy(source, target)
    except FileNotFoundError:
        return None
