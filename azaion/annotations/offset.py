"""``offset.yaml``: the next message to read. It never passes the last durable file."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from azaion import failpoints, files, yaml_file
from azaion.annotations.errors import AnnotationError


@dataclass(frozen=True)
class Position:
    """A place in a stream.

    Attributes:
        incarnation: which stream; one that was made anew under the same name has a greater one.
        offset: of the next message to read.
        stream: the stream's name; None if it was never noted.
        anchor: the SHA-256 of the message before, by which a stream that was made anew is told from the one that was
            read; None if it is not known.
    """

    incarnation: int
    offset: int
    stream: str | None = None
    anchor: str | None = None


def read(path: Path) -> Position | None:
    """Where to go on; None if nothing has been read yet.

    Raises:
        AnnotationError: the file is there and cannot be used.
    """
    try:
        value = yaml_file.read(path)
    except FileNotFoundError:
        return None
    except yaml_file.YamlError as error:
        raise AnnotationError(_advice(path, str(error))) from None
    incarnation, offset = value.get("incarnation"), value.get("offset")
    if type(incarnation) is not int or type(offset) is not int or min(incarnation, offset) < 0:
        raise AnnotationError(_advice(path, "it needs `incarnation` and `offset`, both numbers from 0"))
    stream, anchor = value.get("stream"), value.get("anchor")
    return Position(
        incarnation,
        offset,
        stream=stream if isinstance(stream, str) else None,
        anchor=anchor if isinstance(anchor, str) else None,
    )


def write(path: Path, position: Position) -> None:
    """Replace the offset, atomically and durably.

    Raises:
        OSError: on a full disk and the like; the old offset is then untouched.
    """
    document = {
        "stream": position.stream,
        "incarnation": position.incarnation,
        "offset": position.offset,
        **({"anchor": position.anchor} if position.anchor is not None else {}),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    failpoints.hit("offset.before")
    files.replace(path, yaml.safe_dump(document, sort_keys=False).encode())
    failpoints.hit("offset.after")


def _advice(path: Path, problem: str) -> str:
    return (
        f"{path} cannot be used: {problem}. Restore it from a backup, or decide where to go on with `azaionctl "
        f"consumer resume`: what a broker's stream is read again from there counts as later than all that is on disk"
    )
