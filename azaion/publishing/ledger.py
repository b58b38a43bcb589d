"""Where models were published: a record beside each model, made when consumers can see it."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from azaion import files, models
from azaion.layout import Layout, ModelFolder, PublicationFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A model at a target.

    Attributes:
        name: of the publication; its objects are called so.
        model: the model.
        file: what consumers get, by its own name.
        sha256: of that file, in hex.
        size: of it, in bytes.
        sealing: ``format``, and the ids of the ``keys`` that decrypt it and of the ``signers`` of its manifest; one
            that was made with others is another one.
        target: as AZAION_PUBLISH_TARGET calls it.
        place: where that is.
        time: when consumers were led to it the last time, wall-clock seconds.
        job: the job that did it; None by hand.
        removed: since when it is not kept at the target any more.
    """

    name: str
    model: str
    file: str
    sha256: str
    size: int
    sealing: dict[str, Any]
    target: str
    place: str
    time: float
    job: int | None = None
    removed: float | None = None


def read(folder: ModelFolder) -> list[Publication]:
    """The publications of a model, the oldest first. What cannot be read is left out, and logged."""
    if not folder.publications.is_dir():
        return []
    found = []
    for path in folder.publications.iterdir():
        if path.name.startswith("."):
            continue
        record = PublicationFolder(path=path).record
        try:
            found.append(msgspec.convert(files.read_json(record), Publication))
        except (OSError, files.FileError, msgspec.ValidationError) as error:
            logger.warning("%s cannot be read: %s", record, error)
    return sorted(found, key=lambda each: each.time)


def at(layout: Layout, place: str) -> list[Publication]:
    """Every publication at a place, the oldest first."""
    every = [each for name in models.names(layout) for each in read(layout.model(name))]
    return sorted((each for each in every if each.place == place), key=lambda each: each.time)


def add(layout: Layout, publication: Publication, *, manifest: bytes, small: bytes) -> None:
    """Write down that consumers can see it, with what is small enough to be sent again; durably, all or nothing."""
    folder = layout.model(publication.model).publication(publication.name)
    building = PublicationFolder(path=folder.path.with_name(f"{files.TEMPORARY_PREFIX}{publication.name}"))
    files.remove_tree(building.path)
    files.make_folder(building.path)
    files.replace(building.manifest, manifest)
    files.replace(building.small, small)
    files.write_json(building.record, asdict(publication))
    files.remove_tree(folder.path)
    files.rename(building.path, folder.path)


def touch(layout: Layout, publication: Publication, job: int | None) -> None:
    """Write down that consumers are led to it again."""
    _write(layout, replace(publication, time=time.time(), job=job))


def remove(layout: Layout, publication: Publication) -> None:
    """Write down that it is not kept at its target any more."""
    _write(layout, replace(publication, removed=time.time()))


def outdated(publications: Sequence[Publication], keep: int) -> list[Publication]:
    """Which of the publications at one place are to go: all but the ``keep`` newest."""
    there = [each for each in sorted(publications, key=lambda each: each.time) if each.removed is None]
    return there[: max(0, len(there) - keep)]


def _write(layout: Layout, publication: Publication) -> None:
    files.write_json(layout.model(publication.model).publication(publication.name).record, asdict(publication))
