"""From a model to what consumers see, step by step.

A consumer is led by one small object, which is replaced last; it never sees a small part without its big one. Any
step may be the last one before a crash: the same call again finds what is done, and does the rest.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from azaion import failpoints, files
from azaion.layout import Layout, PublicationFolder, StagingFolder
from azaion.models import Model
from azaion.publishing import ledger
from azaion.publishing.errors import DamagedError, MissingError, PublishingError, RefusedError
from azaion.publishing.ledger import Publication
from azaion.publishing.manifest import Manifest
from azaion.publishing.package import Packer
from azaion.publishing.streams import Measure, measured, unseen
from azaion.publishing.target import CURRENT, Target, big_of, manifest_of, small_of
from azaion.settings import ModelFormat

logger = logging.getLogger(__name__)


class Report(Protocol):
    """Is told how far it is."""

    def phase(self, phase: str, *, batches: int = 0) -> None:
        """Something else begins, of so many bytes."""

    def step(self, done: int, total: int) -> None:
        """So many bytes of it are done."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be published.

    Attributes:
        model: the model.
        source: what consumers are to get.
        job: who publishes.
        keep: so many publications stay at the target.
        allowed: says why consumers shall not be led to it after all; empty if they shall.
    """

    model: Model
    source: Path
    job: int | None
    keep: int
    allowed: Callable[[], str] = lambda: ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What has come of it.

    Attributes:
        sent: bytes that had to be sent; 0 if all was there already.
        withheld: why consumers were not led to it; empty if they were.
        pruned: the publications that were removed from the target.
    """

    told: Manifest
    sent: int
    withheld: str = ""
    pruned: tuple[str, ...] = ()


class Procedure:
    """Publishes to one target.

    Args:
        layout: for what waits to be sent, and for the record.
        target: where to.
        packer: encrypts and signs.
        report: is told how far it is.
    """

    def __init__(self, layout: Layout, target: Target, packer: Packer, report: Report) -> None:
        self._layout = layout
        self._target = target
        self._packer = packer
        self._report = report
        self._sent = 0

    def run(self, order: Order) -> Outcome:
        """Publish. Only one process does so at a time; another one waits.

        Raises:
            UnreachableError: the target cannot be reached now.
            RefusedError: it does not let us.
            PublishingError: the keys cannot be used, or what was sent has not arrived.
            OSError: on a full disk and the like.
        """
        files.make_folder(self._layout.publishing)
        self._report.phase("waiting for its turn")
        with files.locked(self._layout.publishing_lock):
            self._sent = 0
            self._report.phase("looking")
            plain = measured(order.source)
            failpoints.hit("publish.begun")
            known = self._known(order, plain)
            held: PublicationFolder | StagingFolder
            if known is not None:
                held = self._layout.model(order.model.name).publication(known.name)
                told = self._packer.read(held.manifest.read_bytes())
            else:
                held = self._layout.staging(order.model.name)
                told = self._staged(order, plain, held)
                self._send(big_of(told.publication), held.big, told.big, held.upload)
                failpoints.hit("publish.big-verified")
            self._put(small_of(told.publication), held.small)
            failpoints.hit("publish.small-sent")
            if withheld := order.allowed():
                return Outcome(told=told, sent=self._sent, withheld=withheld)
            self._put(manifest_of(told.model), held.manifest)
            failpoints.hit("publish.manifest-sent")
            # That may have taken minutes, in which somebody may have gone back to another model.
            if withheld := order.allowed():
                return Outcome(told=told, sent=self._sent, withheld=withheld)
            self._put(CURRENT, held.manifest)
            failpoints.hit("publish.pointer-switched")
            if told.format == ModelFormat.LEGACY:
                self._by_name(told, held)
            self._record(order, told, known, held)
            failpoints.hit("publish.recorded")
            pruned = self._prune(order.keep, told)
            failpoints.hit("publish.pruned")
            self._clear()
            return Outcome(told=told, sent=self._sent, pruned=pruned)

    def _known(self, order: Order, plain: Measure) -> Publication | None:
        """The publication of the same content with the same keys that the target still has."""
        wanted = self._packer.seal_of()
        for each in reversed(ledger.read(self._layout.model(order.model.name))):
            same = each.place == self._target.place and each.file == order.source.name and each.removed is None
            if not same or each.sha256 != plain.sha256 or each.sealing != wanted:
                continue
            held = self._layout.model(order.model.name).publication(each.name)
            try:
                told = self._packer.read(held.manifest.read_bytes())
            except (OSError, PublishingError) as error:
                logger.warning("%s cannot be used again: %s", held.path, error)
                continue
            key = big_of(told.publication)
            if self._target.holds(key, size=told.big.size, sha256=told.big.sha256):
                return each
        return None

    def _staged(self, order: Order, plain: Measure, staging: StagingFolder) -> Manifest:
        """The encrypted model, made by an earlier attempt or now."""
        wanted = {
            "place": self._target.place,
            "file": order.source.name,
            "sha256": plain.sha256,
            "sealing": self._packer.seal_of(),
        }
        with suppress(OSError, files.FileError, PublishingError):
            if files.read_json(staging.order) == wanted:
                told = self._packer.read(staging.manifest.read_bytes())
                if _whole(staging.small, told.small) and _whole(staging.big, told.big):
                    return told
        self._discard(staging)
        self._report.phase("encrypting", batches=plain.size)
        building = StagingFolder(path=staging.path.with_name(f"{files.TEMPORARY_PREFIX}{order.model.name}"))
        files.remove_tree(building.path)
        files.make_folder(building.path)
        told = self._packer.pack(order.model, order.source, building, self._report.step)
        files.write_json(building.order, wanted)
        files.fsync_tree(building.path)
        files.rename(building.path, staging.path)
        failpoints.hit("publish.staged")
        return told

    def _send(self, key: str, path: Path, part: Measure, record: Path) -> None:
        """Send a big part, and see as a consumer sees it that it has arrived."""
        if not self._target.holds(key, size=part.size, sha256=part.sha256):
            self._report.phase("sending", batches=part.size)
            self._target.send(key, path, sha256=part.sha256, record=record, on_progress=self._report.step)
            self._sent += part.size
            failpoints.hit("publish.big-sent")
        self._report.phase("verifying", batches=part.size)
        self._target.verify(key, size=part.size, sha256=part.sha256, on_progress=self._report.step)

    def _put(self, name: str, path: Path) -> None:
        """Put something small, unless it is there already, and see that it has arrived."""
        data = path.read_bytes()
        if self._there(name) == data:
            return
        self._report.phase("sending")
        self._target.put(name, path)
        self._sent += len(data)
        if self._there(name) != data:
            raise DamagedError(f"{name} at {self._target.place} is not what was sent: publish it again")

    def _there(self, name: str) -> bytes | None:
        with suppress(MissingError, DamagedError):
            return self._target.get(name)
        return None

    def _by_name(self, told: Manifest, held: PublicationFolder | StagingFolder) -> None:
        """Serve consumers of the old system, which know nothing but the name of the file: first the big part."""
        key, staging = f"{told.file}.big", self._layout.staging(told.model)
        if not self._target.holds(key, size=told.big.size, sha256=told.big.sha256):
            if not _whole(staging.big, told.big):
                files.make_folder(staging.path)
                self._target.download(
                    big_of(told.publication),
                    staging.big,
                    size=told.big.size,
                    sha256=told.big.sha256,
                    on_progress=unseen,
                )
            self._send(key, staging.big, told.big, staging.upload_by_name)
        failpoints.hit("publish.big-by-name")
        self._put(told.file, held.small)
        failpoints.hit("publish.small-by-name")

    def _record(
        self, order: Order, told: Manifest, known: Publication | None, held: PublicationFolder | StagingFolder
    ) -> None:
        if known is not None:
            ledger.touch(self._layout, known, order.job)
            return
        self._add(told, held, self._packer.seal_of(), time.time(), order.job)

    def _add(
        self,
        told: Manifest,
        held: PublicationFolder | StagingFolder,
        sealing: dict[str, Any],
        when: float,
        job: int | None,
    ) -> None:
        publication = Publication(
            name=told.publication,
            model=told.model,
            file=told.file,
            sha256=told.plain.sha256,
            size=told.plain.size,
            sealing=sealing,
            target=self._target.name,
            place=self._target.place,
            time=when,
            job=job,
        )
        ledger.add(self._layout, publication, manifest=held.manifest.read_bytes(), small=held.small.read_bytes())

    def _prune(self, keep: int, told: Manifest) -> tuple[str, ...]:
        """Remove what is too old from the target; of what is small, nothing can be removed there."""
        pruned = []
        for each in ledger.outdated(ledger.at(self._layout, self._target.place), keep):
            if each.name == told.publication:
                continue
            try:
                self._target.remove(big_of(each.name))
            except RefusedError as error:
                logger.warning("an old publication stays: %s", error)
                break
            failpoints.hit("publish.removed")
            ledger.remove(self._layout, each)
            pruned.append(each.name)
        return tuple(pruned)

    def _clear(self) -> None:
        """What waits to be sent is of no use to anybody once something newer has been."""
        for path in self._layout.publishing.iterdir():
            if path.name.startswith(files.TEMPORARY_PREFIX):
                files.remove_tree(path)
            else:
                self._discard(StagingFolder(path=path))

    def _discard(self, staging: StagingFolder) -> None:
        """Remove what was to be sent, and what of it has arrived; where consumers are led to it, it is recorded."""
        if not staging.path.exists():
            return
        try:
            self._take_back(staging)
        except (RefusedError, DamagedError) as error:
            logger.warning("what was begun of %s stays at the target: %s", staging.path.name, error)
        # The order goes first: what has lost it is not taken for whole.
        staging.order.unlink(missing_ok=True)
        files.remove_tree(staging.path)

    def _take_back(self, staging: StagingFolder) -> None:
        try:
            order, manifest = files.read_json(staging.order), staging.manifest.read_bytes()
            sealing = order.get("sealing")
            if order.get("place") != self._target.place or not isinstance(sealing, dict):
                return
            told = self._packer.read(manifest)
        except (OSError, files.FileError, PublishingError):
            return
        for record in (staging.upload, staging.upload_by_name):
            self._target.abandon(record)
        model = self._layout.model(told.model)
        if told.publication in [each.name for each in ledger.read(model)]:
            return
        if model.path.is_dir() and manifest in (self._there(CURRENT), self._there(manifest_of(told.model))):
            # A crash came before it was recorded.
            self._add(told, staging, sealing, staging.manifest.stat().st_mtime, None)
        else:
            self._target.remove(big_of(told.publication))


def _whole(path: Path, part: Measure) -> bool:
    return path.is_file() and measured(path) == part
