"""What is asked of a place that models are published to, and how everything is called there."""

from pathlib import Path
from typing import Final, Protocol

from azaion.publishing.streams import Progress

#: The manifest of the model that consumers shall use: the one small thing that makes them see a new one.
CURRENT: Final = "azaion.manifest"

#: No manifest, and no small part, comes near it.
MAX_SMALL_BYTES: Final = 1 << 20


def big_of(publication: str) -> str:
    """The large part of a publication. No two publications share a name, so it is never replaced."""
    return f"{publication}.big"


def small_of(publication: str) -> str:
    """The small part of a publication."""
    return f"{publication}.small"


def manifest_of(model: str) -> str:
    """The manifest of the newest publication of a model."""
    return f"{model}.manifest"


class Target(Protocol):
    """A place that models are published to: large things by `send`, small ones by `put`.

    Whatever is there is there whole, also after a crash; an object that is replaced is the old one or the new one. It
    blocks; a signal's exception may break off any call, and the next call goes on.

    Every method raises:
        UnreachableError: it cannot be reached now.
        RefusedError: it does not let us.
    """

    @property
    def name(self) -> str:
        """As AZAION_PUBLISH_TARGET calls it."""

    @property
    def place(self) -> str:
        """Where that is, for people and for the record; two that are equal hold the same things."""

    def send(self, key: str, path: Path, *, sha256: str, record: Path, on_progress: Progress) -> None:
        """Put a large file under a key; ``record`` is where it may remember how far it is."""

    def abandon(self, record: Path) -> None:
        """Give up what was begun with this record, and remove it."""

    def verify(self, key: str, *, size: int, sha256: str, on_progress: Progress) -> None:
        """See as a reader sees it that a large object is the one that was sent.

        Raises:
            MissingError: there is no such object.
            DamagedError: it is another one.
        """

    def holds(self, key: str, *, size: int, sha256: str) -> bool:
        """Whether it says that it has this very object; nothing is read."""

    def download(self, key: str, path: Path, *, size: int, sha256: str, on_progress: Progress) -> None:
        """Fetch a large object into a file: whole, right and durable, or not at all.

        Raises:
            MissingError: there is no such object.
            DamagedError: it is not what it should be.
        """

    def remove(self, key: str) -> None:
        """Remove a large object; a missing one is fine."""

    def put(self, name: str, path: Path) -> None:
        """Put a small file under a name, in place of what is there."""

    def get(self, name: str) -> bytes:
        """A small object.

        Raises:
            MissingError: there is none.
            DamagedError: it cannot be read, or is not small.
        """
