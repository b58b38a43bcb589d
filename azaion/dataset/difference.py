"""What has changed from one snapshot to another."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from azaion.dataset.snapshot import Snapshot, rows
from azaion.dataset.split import Split


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What has changed, by the names of annotations, in order.

    Attributes:
        added: only the second has them.
        removed: only the first has them.
        replaced: the image is another one.
        relabelled: the label is another one, and the image is the same.
        moved: they are on another side now, which happens only if somebody has changed what media they come from.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    replaced: tuple[str, ...]
    relabelled: tuple[str, ...]
    moved: tuple[str, ...]


def difference(first: Snapshot, second: Snapshot) -> Difference:
    """Compare two snapshots by their lists of files; nothing else is read.

    Raises:
        DatasetError: a list is damaged.
    """
    before, after = _annotations(first), _annotations(second)
    both = sorted(before.keys() & after.keys())
    replaced = [name for name in both if before[name].image != after[name].image]
    others = set(replaced)
    return Difference(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        replaced=tuple(replaced),
        relabelled=tuple(name for name in both if name not in others and before[name].label != after[name].label),
        moved=tuple(name for name in both if before[name].split is not after[name].split),
    )


@dataclass(slots=True)
class _Annotation:
    split: Split
    image: str = ""
    label: str = ""


def _annotations(snapshot: Snapshot) -> dict[str, _Annotation]:
    found: dict[str, _Annotation] = {}
    for row in rows(snapshot):
        side, _, rest = row.path.partition("/")
        kind, _, file = rest.partition("/")
        if side not in tuple(Split) or kind not in {"images", "labels"}:
            continue
        annotation = found.setdefault(PurePosixPath(file).stem, _Annotation(Split(side)))
        if kind == "images":
            annotation.image = row.sha256
        else:
            annotation.label = row.sha256
    return found
