"""What this machine has to give: memory, room on its disks, and what a training would begin with."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from azaion import pictures
from azaion.layout import Layout, SnapshotFolder
from azaion.settings import Config
from supervisor.gpus import Reading

_MEMINFO: Final = Path("/proc/meminfo")


class Purpose(StrEnum):
    """What a disk is needed for. Several may be one disk."""

    STATE = "state"
    DATASETS = "datasets"
    MODELS = "models"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The machine's memory in bytes.

    Attributes:
        available: what can be had without swapping, by the kernel's own estimate.
    """

    total: int
    available: int


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The filesystem that holds a folder.

    Attributes:
        path: the folder.
        device: the same number means the same filesystem.
        free: bytes that an ordinary user may still write.
        problem: why it is out of reach; empty if it is not.
    """

    path: Path
    device: int = -1
    free: int = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a training would begin with.

    Attributes:
        model: the name of its base model.
        weights: bytes of the base model; None if it is not there, 0 for an architecture.
        dataset: the name of its dataset; None if it is to form one.
        images: whether there is at least one to learn from.
        copied: bytes of images that forming the dataset would copy, as they cannot be linked.
    """

    model: str
    weights: int | None
    dataset: str | None
    images: bool
    copied: int = 0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What there is at one moment.

    Attributes:
        memory: None where the kernel does not tell.
        gpus: None as long as nobody has asked.
    """

    memory: Memory | None
    disks: Mapping[Purpose, Disk]
    gpus: Reading | None = None


def facts(layout: Layout, reading: Reading | None) -> Facts:
    """What there is now, with what NVML has told."""
    return Facts(memory=memory(), disks=disks(layout), gpus=reading)


def first_inputs(config: Config) -> Inputs:
    """What a training would begin with to which nothing is said; counts what would be copied."""
    made = inputs(config.layout, config.training.model, None)
    return replace(made, copied=images_bytes(config.layout)) if links_nothing(config.layout) else made


def memory(path: Path = _MEMINFO) -> Memory | None:
    """The machine's memory; None where the kernel does not tell."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        told = {name: int(value.split()[0]) << 10 for name, _, value in (line.partition(":") for line in lines)}
        return Memory(total=told["MemTotal"], available=told["MemAvailable"])
    except (OSError, ValueError, KeyError, IndexError):
        return None


def disks(layout: Layout) -> dict[Purpose, Disk]:
    """The disks that starts depend on."""
    return {
        # As long as a folder has not been made, it would be made on the disk of the one above.
        Purpose.STATE: _disk(layout.jobs, layout.state, *layout.state.parents),
        Purpose.DATASETS: _disk(layout.datasets, layout.root),
        Purpose.MODELS: _disk(layout.models, layout.root),
    }


def inputs(layout: Layout, model: str, dataset: str | None) -> Inputs:
    """What a training with this base model and dataset would begin with; ``copied`` is not counted."""
    learnt = layout.data if dataset is None else SnapshotFolder(path=layout.datasets / dataset).annotations("train")
    return Inputs(
        model=model,
        weights=_weights(layout, model),
        dataset=dataset,
        images=_holds_image(learnt.images),
    )


def links_nothing(layout: Layout) -> bool:
    """Whether a dataset is formed on another filesystem than that of the images, so that they must be copied."""
    try:
        return layout.data.images.stat().st_dev != layout.datasets.stat().st_dev
    except OSError:
        return False


def images_bytes(layout: Layout) -> int:
    """The size of all validated images. Takes seconds where there are hundreds of thousands."""
    try:
        with os.scandir(layout.data.images) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    except OSError:
        return 0


def _disk(*paths: Path) -> Disk:
    try:
        path = next((path for path in paths if path.is_dir()), paths[0])
        told = os.statvfs(path)
        return Disk(path=path, device=path.stat().st_dev, free=told.f_bavail * told.f_frsize)
    except OSError as error:
        return Disk(path=paths[0], problem=error.strerror or str(error))


def _weights(layout: Layout, model: str) -> int | None:
    given = Path(model)
    if given.suffix != ".pt":
        # An architecture takes no room, and is the worker's to find.
        return 0
    for place in [given] if given.is_absolute() else [layout.models / given, layout.root / given]:
        try:
            if place.is_file():
                return place.stat().st_size
        except OSError:
            continue
    return None


def _holds_image(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(
                not entry.name.startswith(".") and Path(entry.name).suffix.lower() in pictures.EXTENSIONS
                for entry in entries
            )
    except OSError:
        return False
