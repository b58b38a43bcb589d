"""Checkpoints that can be trusted: durable, two generations, each known by its size and SHA-256.

How a save goes, each step durable before the next: (1) the new file under a temporary name; (2) the manifest, which now
knows the new file beside the old ones; (3) ``last.pt`` becomes ``last.previous.pt`` too, by a link; (4) the new file is
renamed to ``last.pt``; (5) the best and periodic checkpoints, by links; (6) the manifest, which says now that a
checkpoint was completed. Whatever dies between two of them, every file in place is one that the manifest knows.
"""

import contextlib
import errno
import logging
import math
import os
import shutil
import stat
import zipfile
import zlib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from azaion import failpoints, files
from azaion.layout import RunFolder
from workers.training.errors import CheckpointError

#: Periodic checkpoints that are kept.
KEEP_PERIODIC: Final = 3

#: Generations that the manifest remembers: the new one, the last, the previous, and one that a crash left between.
_REMEMBERED: Final = 4

_CORRUPT_SUFFIX: Final = ".corrupt"

logger = logging.getLogger(__name__)


class Generation(msgspec.Struct, kw_only=True, frozen=True):
    """One checkpoint as it was when it was saved.

    Attributes:
        epoch: epochs done, from 1.
        epochs: epochs that the run was to have.
        size: bytes.
        sha256: of the whole file.
        fitness: how good it is (mAP50-95), None where it could not be said.
        finished: whether training ended with it, at its last epoch or because it got no better.
    """

    epoch: int
    epochs: int
    size: int
    sha256: str
    fitness: float | None = None
    finished: bool = False

    def ends(self, epochs: int) -> bool:
        """Whether a run of ``epochs`` has nothing left to train after this checkpoint."""
        stopped_early = self.finished and self.epoch < self.epochs
        return stopped_early or self.epoch >= epochs


class _Manifest(msgspec.Struct, kw_only=True, frozen=True):
    protocol: int = 1
    completed: bool = False
    generations: tuple[Generation, ...] = ()
    best: Generation | None = None

    def known(self) -> tuple[Generation, ...]:
        """Every generation that a file may be."""
        return (*self.generations, *((self.best,) if self.best else ()))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint: its bytes are those that we once saved."""

    path: Path
    generation: Generation


class CheckpointStore:
    """The checkpoints of one run. One process at a time, which the attempt's lock sees to."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._manifest = _Manifest()
        #: Epochs in the newest checkpoint that is known to be whole.
        self.epoch: int | None = None

    def open(self) -> Checkpoint | None:
        """Find the checkpoint to go on from, and set damaged ones aside.

        Returns:
            The newest checkpoint that is whole, or None if none was ever completed.

        Raises:
            CheckpointError: one was completed, and none is whole.
        """
        files.remove_temporaries(self._run.weights)
        self._manifest = self._read_manifest()
        damaged = []
        for path in (self._run.last, self._run.previous):
            if not os.path.lexists(path):
                continue
            found = self._verify(path)
            if isinstance(found, Generation):
                self.epoch = found.epoch
                return Checkpoint(path=path, generation=found)
            damaged.append(f"{path.name} {found}")
            logger.warning("%s %s: set aside", path, found)
            _set_aside(path)
        if damaged or self._manifest.completed:
            what = "; ".join(damaged) or "the files are gone"
            raise CheckpointError(
                f"no checkpoint in {self._run.weights} is whole: {what}. "
                "They are kept as *.corrupt; restore one from a backup under its name, or file a new job",
            )
        return None

    def best(self, otherwise: Checkpoint) -> Checkpoint:
        """The checkpoint of the best epoch; ``otherwise`` takes its place if it is missing or damaged."""
        if os.path.lexists(self._run.best):
            found = self._verify(self._run.best)
            if isinstance(found, Generation):
                return Checkpoint(path=self._run.best, generation=found)
            logger.warning("%s %s: set aside", self._run.best, found)
            _set_aside(self._run.best)
        _link(otherwise.path, self._run.best)
        files.fsync_folder(self._run.weights)
        self._write_manifest(best=otherwise.generation)
        return Checkpoint(path=self._run.best, generation=otherwise.generation)

    def save(
        self,
        data: bytes,
        *,
        epoch: int,
        epochs: int,
        fitness: float | None,
        best: bool,
        finished: bool,
        period: int,
    ) -> None:
        """Save a checkpoint durably, and keep the one before it.

        Args:
            data: what torch serialised.
            epoch: epochs done, from 1.
            epochs: epochs that the run is to have.
            fitness: how good it is.
            best: whether it is the best so far.
            finished: whether training ends with it.
            period: also keep the checkpoint of every so many epochs (the newest few); none where it is below 1.

        Raises:
            OSError: on a full disk and the like. The checkpoints of before are untouched.
        """
        run = self._run
        new = Generation(
            epoch=epoch,
            epochs=epochs,
            size=len(data),
            sha256=sha256(data).hexdigest(),
            fitness=fitness if fitness is not None and math.isfinite(fitness) else None,
            finished=finished,
        )
        failpoints.hit("checkpoint.begun")
        temporary = files.write_temporary(run.last, data)
        try:
            failpoints.hit("checkpoint.written")
            self._write_manifest(generations=(new, *self._manifest.generations)[:_REMEMBERED])
            if os.path.lexists(run.last):
                _link(run.last, run.previous)
            failpoints.hit("checkpoint.rotated")
            temporary.replace(run.last)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        files.fsync_folder(run.weights)
        self.epoch = epoch
        failpoints.hit("checkpoint.saved")
        if best:
            _link(run.last, run.best)
        if period > 0 and epoch % period == 0:
            _link(run.last, run.periodic(epoch))
            self._prune()
        files.fsync_folder(run.weights)
        if best or not self._manifest.completed:
            self._write_manifest(completed=True, best=new if best else self._manifest.best)
        failpoints.hit("checkpoint.done")

    def _verify(self, path: Path) -> Generation | str:
        """The generation that ``path`` is, or what is wrong with it."""
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                return "is no regular file"
            sizes = [generation for generation in self._manifest.known() if generation.size == status.st_size]
            if not sizes:
                return f"has {status.st_size} bytes, which no checkpoint of this run had"
            digest = files.sha256(path)
            found = next((generation for generation in sizes if generation.sha256 == digest), None)
            if found is None:
                return "does not have the SHA-256 that it was saved with"
            with zipfile.ZipFile(path) as archive:
                if torn := archive.testzip():
                    return f"is torn in {torn}"
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            return f"cannot be read ({error})"
        return (
            found
            if 0 < found.epoch <= found.epochs
            else f"is of epoch {found.epoch} of {found.epochs}, as its manifest has it"
        )

    def _read_manifest(self) -> _Manifest:
        try:
            return msgspec.convert(files.read_json(self._run.manifest), _Manifest)
        except FileNotFoundError:
            # Made before the first checkpoint gets its name: without it, a checkpoint is not ours.
            return _Manifest()
        except (OSError, files.FileError, msgspec.ValidationError) as error:
            raise CheckpointError(
                f"{self._run.manifest} cannot be read, so no checkpoint can be trusted: {error}. "
                "Restore it from a backup, or file a new job",
            ) from None

    def _write_manifest(
        self,
        *,
        generations: tuple[Generation, ...] | None = None,
        best: Generation | None = None,
        completed: bool = False,
    ) -> None:
        before = self._manifest
        manifest = _Manifest(
            completed=completed or before.completed,
            generations=before.generations if generations is None else generations,
            best=best or before.best,
        )
        files.write_json(self._run.manifest, msgspec.to_builtins(manifest))
        self._manifest = manifest

    def _prune(self) -> None:
        numbers = []
        for path in self._run.weights.glob("epoch*.pt"):
            with contextlib.suppress(ValueError):
                numbers.append(int(path.stem.removeprefix("epoch")))
        for number in sorted(numbers)[:-KEEP_PERIODIC]:
            self._run.periodic(number).unlink(missing_ok=True)


def _set_aside(path: Path) -> None:
    target = path.with_name(path.name + _CORRUPT_SUFFIX)
    number = 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{path.name}{_CORRUPT_SUFFIX}-{number}")
    files.rename(path, target)


def _link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, atomically; a copy where the filesystem has no links."""
    temporary = files.temporary_for(target)
    try:
        try:
            temporary.hardlink_to(source)
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}:
                raise
            shutil.copyfile(source, temporary)
            files.fsync_file(temporary)
        try:
            temporary.replace(target)
        except IsADirectoryError:
            # What is no file would stop every save from here on.
            _set_aside(target)
            temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
