"""What a consumer does: follow the manifest, fetch both parts, verify, decrypt."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from azaion import failpoints, files
from azaion.layout import FetchFolder, StagingFolder
from azaion.publishing.errors import DamagedError, MissingError
from azaion.publishing.manifest import Manifest
from azaion.publishing.package import Packer
from azaion.publishing.streams import Progress, measured, unseen
from azaion.publishing.target import CURRENT, Target, big_of, manifest_of, small_of

_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A model that has arrived.

    Attributes:
        path: the file.
        told: what its manifest says.
        fresh: whether it had to be fetched; it may have been there already.
    """

    path: Path
    told: Manifest
    fresh: bool


def fetch(
    target: Target, packer: Packer, folder: Path, model: str | None = None, on_progress: Progress = unseen
) -> Fetched:
    """Fetch a model into a folder, under its file's own name: whole, right and durable, or not at all.

    What is there is replaced at once, so whoever opens it finds the old model or the new one.

    Args:
        target: where from.
        packer: knows whose signature is trusted, and decrypts.
        folder: where to; it exists.
        model: which; None is the one that consumers shall use.
        on_progress: told how much of the big part has arrived.

    Raises:
        MissingError: nothing was published, or it is not kept at the target any more.
        DamagedError: what is at the target is not what was published.
        PublishingError: the target cannot be used, a signature is wrong, or there is no key.
        OSError: on a full disk and the like.
    """
    if model is not None and not _MODEL.fullmatch(model):
        raise MissingError(f"{model!r} is no name of a model, such as azaion-2026-12-24")
    place = FetchFolder(path=folder)
    with files.locked(place.lock):
        manifest = _manifest(target, model)
        told = _read(packer, manifest, model)
        while True:
            try:
                return _fetch(target, packer, place, told, on_progress)
            except MissingError:
                # Another publication may have taken its place a moment ago, and this one was the oldest.
                again = _manifest(target, model)
                if again == manifest:
                    raise MissingError(
                        f"{told.publication} is not kept at {target.place} any more: "
                        f"run `azaionctl publish {told.model}`"
                    ) from None
                manifest, told = again, _read(packer, again, model)


def _manifest(target: Target, model: str | None) -> bytes:
    try:
        return target.get(CURRENT if model is None else manifest_of(model))
    except MissingError:
        what, command = (model, f"publish {model}") if model is not None else ("no model", "publish MODEL")
        raise MissingError(
            f"{what} was {'never ' if model else ''}published at {target.place}: run `azaionctl {command}`"
        ) from None


def _read(packer: Packer, manifest: bytes, model: str | None) -> Manifest:
    told = packer.read(manifest)
    if model is not None and told.model != model:
        raise DamagedError(f"under the name of {model} lies the manifest of {told.model}: somebody has put it there")
    return told


def _fetch(target: Target, packer: Packer, place: FetchFolder, told: Manifest, on_progress: Progress) -> Fetched:
    path = place.path / Path(told.file).name
    if path.is_file() and measured(path) == told.plain:
        return Fetched(path=path, told=told, fresh=False)
    scratch = place.scratch(told.publication)
    _clear(place, keep=scratch)
    files.make_folder(scratch.path)
    small = target.get(small_of(told.publication))
    files.replace(scratch.small, small)
    if measured(scratch.small) != told.small:
        raise DamagedError(f"the small part of {told.publication} is not the one that was signed")
    big = told.big
    target.download(big_of(told.publication), scratch.big, size=big.size, sha256=big.sha256, on_progress=on_progress)
    failpoints.hit("fetch.downloaded")
    packer.unpack(told, scratch, unseen)
    failpoints.hit("fetch.opened")
    files.rename(scratch.whole, path)
    failpoints.hit("fetch.in-place")
    files.remove_tree(place.scratches)
    return Fetched(path=path, told=told, fresh=True)


def _clear(place: FetchFolder, *, keep: StagingFolder) -> None:
    """Remove what was begun of other publications; of this one it is gone on with."""
    with suppress(FileNotFoundError):
        for path in place.scratches.iterdir():
            if path != keep.path:
                files.remove_tree(path)
