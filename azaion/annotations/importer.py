"""A folder of images and labels becomes annotation messages; here they go into the spool."""

import io
import re
import zlib
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
    """A file that cannot be sent."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What came of sending a folder."""

    sent: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the annotations are to look.

    Attributes:
        role: of whoever drew the boxes; a validator's go to ``data``, anyone else's to ``data-seed``.
        media: finds the media's name in an image's stem (its first group, else the whole match); None takes the stem.
        email: of whoever drew the boxes.
        status: ``CREATED`` or ``EDITED``.
    """

    role: Role = Role.VALIDATOR
    media: re.Pattern[str] | None = None
    email: str = ""
    status: Status = Status.CREATED


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An image's message.

    Attributes:
        image: the file.
        number: which of the folder's images it is, counted from 1.
        status: the property ``AnnotationStatus``.
        body: what `azaion.annotations.message.decode` takes; it has been tried.
    """

    image: Path
    number: int
    status: int
    body: bytes


class Folder:
    """A folder whose images become messages.

    Each needs a label: beside it, or in ``labels`` where the images are in ``images``.

    Args:
        path: the folder.
        options: how the annotations are to look.

    Attributes:
        problems: the files that cannot be sent, as far as they have been found.

    Raises:
        AnnotationError: there is no such folder, or no image in it.
    """

    def __init__(self, path: Path, options: Options) -> None:
        found, self._labels = _places(path)
        self._options = options
        first = {image.stem: image for image in reversed(found)}
        self._images = [image for image in found if first[image.stem] is image]
        self.problems = [
            Problem(path=image, reason=f"{first[image.stem].name} has the same name and is sent")
            for image in found
            if first[image.stem] is not image
        ]

    def __len__(self) -> int:
        return len(self._images)

    def messages(self, start: int = 0, end: int | None = None) -> Iterator[Made]:
        """The messages of the images from ``start`` up to ``end``; a file that cannot be taken becomes a problem.

        They are made one after the other: all of them need not fit into memory.
        """
        for number, image in enumerate(self._images[start:end], start + 1):
            made = _message(image, self._labels / f"{image.stem}.txt", self._options)
            if isinstance(made, Problem):
                self.problems.append(made)
            else:
                yield Made(image=image, number=number, status=int(self._options.status), body=made)


def import_folder(
    spool: Spool,
    folder: Path,
    options: Options,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Send the images of a folder, as `Folder` finds them, into the spool.

    A file that cannot be taken is told and left out; every other one is sent. Importing a folder again sends the same
    annotations again, which changes nothing on disk.

    Raises:
        AnnotationError: there is no such folder, or no image in it.
        OSError: on a full disk and the like.
    """
    found = Folder(folder, options)
    sent = 0
    for start in range(0, len(found), _GROUP):
        end = min(start + _GROUP, len(found))
        sent += spool.append((made.status, made.body) for made in found.messages(start, end))
        if progress is not None:
            progress(end, len(found))
    return Imported(sent=sent, problems=tuple(found.problems))


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


def _message(image: Path, label: Path, options: Options) -> bytes | Problem:
    """The body of an image's message, proved by reading it as the consumer will."""
    try:
        data = files.read_small(image, limit=_MAX_IMAGE_BYTES)
        pictures.look(io.BytesIO(data))
        found = options.media.search(image.stem) if options.media is not None else None
        boxes = tuple(_boxes(label))
        made = datetime.fromtimestamp(int(max(path.stat().st_mtime for path in (image, label))), UTC)
        media = (found[1] if found.re.groups else found[0]) if found is not None else image.stem
        body = encode(
            Annotation(
                status=options.status,
                name=check_name(image.stem),
                media=media,
                time=0,
                extension=image.suffix,
                boxes=boxes,
                image=data,
                role=options.role,
                email=options.email,
                origin=Origin.MANUAL,
                # A label that was mended since makes another annotation of it, also where its file is no younger.
                created=made.replace(microsecond=_digest(boxes)),
            ),
        )
        decode(int(options.status), body)
    except (OSError, OverflowError, ValueError, files.FileError, pictures.PictureError, BadMessageError) as error:
        # OverflowError and ValueError: its date is beyond every calendar.
        return Problem(path=image, reason=str(error))
    return body


def _digest(boxes: Iterable[Box]) -> int:
    """A number below a million that is another one for other boxes, as good as always."""
    return zlib.crc32("".join(box.label for box in boxes).encode()) % 1_000_000


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
