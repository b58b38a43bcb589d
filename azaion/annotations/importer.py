"""A folder of images and labels, sent into the spool as annotation messages."""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from azaion import files, pictures
from azaion.annotations.errors import AnnotationError, BadMessageError
from azaion.annotations.message import (
    MAX_MESSAGE_BYTES,
    Annotation,
    Box,
    Origin,
    Role,
    Status,
    check_name,
    decode,
    encode,
)
from azaion.annotations.spool import Spool

#: Room for everything but the image in a message.
_MAX_IMAGE_BYTES: Final = MAX_MESSAGE_BYTES - (1 << 20)
_MAX_LABEL_BYTES: Final = 1 << 20
_GROUP: Final = 64


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file that cannot be imported."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What came of an import."""

    sent: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the annotations are to look.

    Attributes:
        role: of whoever drew the boxes; a validator's go to ``data``, anyone else's to ``data-seed``.
        media: finds the media's name in an image's stem (its first group, else the whole match); None takes the stem.
        email: of whoever drew the boxes.
    """

    role: Role = Role.VALIDATOR
    media: re.Pattern[str] | None = None
    email: str = ""


def import_folder(
    spool: Spool,
    folder: Path,
    options: Options,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Send every image of ``folder`` that has a label: beside it, or in ``labels`` where the images are in ``images``.

    A file that cannot be taken is told and left out; every other one is sent. Importing a folder again sends the same
    annotations again, which changes nothing on disk.

    Raises:
        AnnotationError: there is no such folder, or no image in it.
        OSError: on a full disk and the like.
    """
    found, labels = _places(folder)
    first = {image.stem: image for image in reversed(found)}
    images = [image for image in found if first[image.stem] is image]
    problems = [
        Problem(path=image, reason=f"{first[image.stem].name} has the same name and is sent")
        for image in found
        if first[image.stem] is not image
    ]
    sent = 0
    for number in range(0, len(images), _GROUP):
        group = images[number : number + _GROUP]
        sent += spool.append(_messages(group, labels, options, problems))
        if progress is not None:
            progress(min(number + _GROUP, len(images)), len(images))
    return Imported(sent=sent, problems=tuple(problems))


def _places(folder: Path) -> tuple[list[Path], Path]:
    if not folder.is_dir():
        raise AnnotationError(f"{folder} is no folder: name one with images and YOLO labels")
    nested = (folder / "images").is_dir()
    images = sorted(_images(folder / "images" if nested else folder))
    if not images:
        raise AnnotationError(f"{folder} holds no image ({', '.join(sorted(pictures.EXTENSIONS))})")
    return images, folder / "labels" if nested else folder


def _images(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.suffix.lower() in pictures.EXTENSIONS)


def _messages(
    images: Iterable[Path], labels: Path, options: Options, problems: list[Problem]
) -> Iterator[tuple[int, bytes]]:
    """One after the other: a group of them may be larger than memory."""
    for image in images:
        made = _message(image, labels / f"{image.stem}.txt", options)
        if isinstance(made, Problem):
            problems.append(made)
        else:
            yield int(Status.CREATED), made


def _message(image: Path, label: Path, options: Options) -> bytes | Problem:
    """The body of an image's message, proved by reading it as the consumer will."""
    try:
        data = files.read_small(image, limit=_MAX_IMAGE_BYTES)
        pictures.look(io.BytesIO(data))
        found = options.media.search(image.stem) if options.media is not None else None
        media = (found[1] if found.re.groups else found[0]) if found is not None else image.stem
        body = encode(
            Annotation(
                status=Status.CREATED,
                name=check_name(image.stem),
                media=media,
                time=0,
                extension=image.suffix,
                boxes=tuple(_boxes(label)),
                image=data,
                role=options.role,
                email=options.email,
                origin=Origin.MANUAL,
                # A label that was mended since makes another annotation of it.
                created=datetime.fromtimestamp(max(path.stat().st_mtime for path in (image, label)), UTC),
            ),
        )
        decode(int(Status.CREATED), body)
    except (OSError, OverflowError, ValueError, files.FileError, pictures.PictureError, BadMessageError) as error:
        # OverflowError and ValueError: its date is beyond every calendar.
        return Problem(path=image, reason=str(error))
    return body


def _boxes(label: Path) -> Iterator[Box]:
    try:
        text = files.read_small(label, limit=_MAX_LABEL_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise BadMessageError(f"it has no label {label.name}; an empty one says that it shows nothing") from None
    except UnicodeDecodeError:
        raise BadMessageError(f"its label {label.name} is not text") from None
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        try:
            kind, x, y, width, height = fields
            yield Box(int(kind), float(x), float(y), float(width), float(height))
        except ValueError:
            raise BadMessageError(f"line {number} of its label is not `class x y w h`") from None
