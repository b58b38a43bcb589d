"""A snapshot that exists: finding it, checking it, and giving the trainer a view of it."""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from azaion import files
from azaion.dataset.errors import DatasetError
from azaion.dataset.split import Split
from azaion.layout import Layout, SnapshotFolder

NAME: Final = re.compile(r"azaion-[0-9]{4}-[0-9]{2}-[0-9]{2}(-[0-9]+)?")

#: Raised when a reader of an older version would misread a snapshot.
FORMAT: Final = 1

#: How often progress is told.
_PROGRESS_STEP: Final = 100

#: What it may have, each with parts of its own.
_PARTS: Final = ("totals", "corrupted", "class_counts")

#: What every manifest has.
_KEYS: Final[dict[str, type]] = {"name": str, "key": str, "classes": list, "splits": dict, "digest": str, "format": int}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A complete snapshot.

    Attributes:
        path: its folder.
        name: the folder's name, ``azaion-YYYY-MM-DD[-N]``.
        manifest: what it was made of; see ``azaion/dataset/forming.py``.
    """

    path: Path
    name: str
    manifest: dict[str, Any]

    @property
    def folder(self) -> SnapshotFolder:
        """Its files."""
        return SnapshotFolder(path=self.path)


@dataclass(frozen=True, slots=True)
class Row:
    """One file of a snapshot, as its list has it; ``path`` is below the snapshot."""

    path: str
    sha256: str
    size: int

    def line(self) -> bytes:
        """As it stands in the list."""
        return f"{self.sha256}\t{self.size}\t{self.path}\n".encode()

    @classmethod
    def read(cls, line: bytes) -> "Row":
        """The row that a line of the list tells.

        Raises:
            ValueError: it is no line of a list.
        """
        sha256, size, path = line.decode().rstrip("\n").split("\t")
        return cls(path, sha256, int(size))


def data_yaml(classes: list[str], splits: Mapping[Split, int], *, path: Path | None = None) -> bytes:
    """What the trainer reads first. It never has a key ``download``, which the trainer would execute.

    Without ``path`` the folders are found beside the file, wherever it is moved: the trainer takes a relative ``path``
    from a folder of its own.
    """
    # The trainer calls it val.
    keys = {Split.TRAIN: "train", Split.VALID: "val", Split.TEST: "test"}
    document: dict[str, Any] = {} if path is None else {"path": str(path)}
    document |= {keys[split]: f"{split}/images" for split in Split if splits[split]}
    document |= {"nc": len(classes), "names": dict(enumerate(classes))}
    return yaml.dump(document, Dumper=yaml.CSafeDumper, allow_unicode=True, sort_keys=False, width=1 << 20).encode()


def names(layout: Layout) -> list[str]:
    """The names of all snapshots, oldest first."""
    if not layout.datasets.is_dir():
        return []
    found = [path.name for path in layout.datasets.iterdir() if NAME.fullmatch(path.name) and not path.is_symlink()]
    return sorted(found, key=lambda name: [int(part) for part in name.split("-")[1:]])


def load(layout: Layout, name: str) -> Snapshot:
    """Find a snapshot by its name.

    Raises:
        DatasetError: there is none of this name, or its manifest is damaged.
    """
    path = layout.datasets / name
    if not NAME.fullmatch(name) or path.is_symlink() or not path.is_dir():
        known = ", ".join(names(layout)[-5:]) or "none yet"
        raise DatasetError(f"There is no dataset {name[:80]!r} in {layout.datasets}; the latest are: {known}.")
    manifest_path = SnapshotFolder(path=path).manifest
    try:
        manifest = files.read_json(manifest_path)
    except (OSError, files.FileError) as error:
        raise DatasetError(f"The dataset {name} is damaged: {error}. Form a new one.") from None
    wrong = [key for key, kind in _KEYS.items() if not isinstance(manifest.get(key), kind)]
    parts = [manifest.get(key, {}) for key in _PARTS]
    wrong += [key for key, part in zip(_PARTS, parts, strict=True) if not isinstance(part, dict)]
    if wrong or manifest["name"] != name or not all(isinstance(side, dict) for side in manifest["splits"].values()):
        raise DatasetError(f"The dataset {name} is damaged: {manifest_path} is not its manifest. Form a new one.")
    if manifest["format"] > FORMAT:
        raise DatasetError(f"The dataset {name} was formed by a newer version of this program. Form a new one.")
    return Snapshot(path=path, name=name, manifest=manifest)


def verify(snapshot: Snapshot, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Read every file of a snapshot and tell what is not as it was formed, one line each; empty if all is well.

    ``progress`` is told every now and then how many files of how many are read.
    """
    try:
        known = {row.path: row for row in rows(snapshot)}
    except DatasetError as error:
        return [str(error)]
    own = (snapshot.folder.manifest, snapshot.folder.files)
    present = {str(path.relative_to(snapshot.path)): path for path in _walk(snapshot.path) if path not in own}
    problems = [f"{path}: extra" for path in present.keys() - known.keys()]
    for done, (path, row) in enumerate(known.items(), 1):
        if progress is not None and (done % _PROGRESS_STEP == 0 or done == len(known)):
            progress(done, len(known))
        if path not in present:
            problems.append(f"{path}: missing")
        elif reason := _difference(present[path], row):
            problems.append(f"{path}: {reason}")
    if snapshot.folder.manifest.is_symlink() or load_manifest(snapshot) != snapshot.manifest:
        problems.append("manifest.json: changed")
    return sorted(problems)


def load_manifest(snapshot: Snapshot) -> dict[str, Any] | None:
    """The manifest as it lies on the disk now, None if it cannot be read."""
    try:
        return files.read_json(snapshot.folder.manifest)
    except (OSError, files.FileError):
        return None


def view(snapshot: Snapshot, target: Path, wanted: Collection[Split] = tuple(Split)) -> Path:
    """Make ``target`` anew as a view of the snapshot that a trainer may write into, and return its ``data.yaml``.

    Images are linked (symbolically where the filesystem allows no hard link), labels copied. Whatever the trainer puts
    beside them, and whatever label it rewrites, stays in the view. Only the ``wanted`` sides are in it.

    Raises:
        DatasetError: the snapshot is damaged.
    """
    snapshot_path, target = snapshot.path.absolute(), target.absolute()
    if target.is_relative_to(snapshot_path) or snapshot_path.is_relative_to(target):
        raise DatasetError(f"A view of {snapshot_path} cannot be made at {target}: one lies within the other.")
    files.remove_tree(target)
    folder = SnapshotFolder(path=target)
    for split in Split:
        files.make_folder(folder.annotations(split).images)
        files.make_folder(folder.annotations(split).labels)
    splits = dict.fromkeys(Split, 0)
    try:
        for row in rows(snapshot):
            first, _, rest = row.path.partition("/")
            if first not in wanted:
                continue
            if rest.startswith("images/"):
                _link(f"{snapshot_path}/{row.path}", f"{target}/{row.path}")
                splits[Split(first)] += 1
            elif rest.startswith("labels/"):
                _copy(f"{snapshot_path}/{row.path}", f"{target}/{row.path}")
    except FileNotFoundError as error:
        raise DatasetError(f"The dataset {snapshot.name} lacks {error.filename}. Form a new one.") from None
    folder.data.write_bytes(data_yaml(snapshot.manifest["classes"], splits, path=target))
    return folder.data


def rows(snapshot: Snapshot) -> Iterator[Row]:
    """The list of files; nothing of it is used unless all of it is as it was formed."""
    path = snapshot.folder.files
    damaged = f"The dataset {snapshot.name} is damaged: {path} is not as it was formed. Form a new one."
    try:
        with files.opened(path) as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != snapshot.manifest["digest"]:
                raise DatasetError(damaged)
            stream.seek(0)
            yield from map(Row.read, stream)
    except (OSError, files.FileError):
        raise DatasetError(damaged) from None


def _walk(path: Path) -> Iterator[Path]:
    for folder, folders, names_here in os.walk(path):
        for name in (*names_here, *(name for name in folders if Path(folder, name).is_symlink())):
            yield Path(folder, name)


def _difference(path: Path, row: Row) -> str | None:
    try:
        with files.opened(path) as stream:
            if os.fstat(stream.fileno()).st_size != row.size:
                return "changed size"
            return None if hashlib.file_digest(stream, "sha256").hexdigest() == row.sha256 else "changed"
    except files.FileError:
        return "not a regular file"
    except OSError as error:
        return f"unreadable ({error.strerror})"


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in files.NO_LINK:
            raise
        Path(target).symlink_to(source)


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as stream, open(target, "xb") as copy:  # noqa: PTH123 a hundred thousand times
        copy.write(stream.read())
