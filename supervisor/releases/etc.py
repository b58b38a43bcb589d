"""What of a release lies in /etc: the units and what goes with them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from azaion import files
from azaion.layout import ReleaseFolder, ServerLayout
from supervisor.releases.host import ENABLED

_UNITS: Final = frozenset({".service", ".socket", ".slice", ".timer", ".path", ".target"})


@dataclass(frozen=True, kw_only=True)
class Change:
    """A file in /etc that is not as a release has it.

    Attributes:
        path: of the file.
        wanted: what it should hold; None if it should not be there.
        found: what it holds; None if it is not there.
    """

    path: Path
    wanted: bytes | None
    found: bytes | None

    @property
    def text(self) -> str:
        """In words."""
        what = "removed" if self.wanted is None else "new" if self.found is None else "changed"
        return f"{self.path.parent.name}/{self.path.name} ({what})"


def changes(server: ServerLayout, release: ReleaseFolder) -> list[Change]:
    """What has to change in /etc for this release; nothing if all is as it should be."""
    wanted = {path: source.read_bytes() for source, path in _places(server, release)}
    known = {path for folder in _folders(server) for _, path in _places(server, folder)}
    found = {path: _content(path) for path in sorted(known | set(wanted))}
    return [
        Change(path=path, wanted=wanted.get(path), found=content)
        for path, content in found.items()
        if content != wanted.get(path)
    ]


def installed(server: ServerLayout) -> list[Path]:
    """Everything in /etc that is there and that any release has put there."""
    return sorted({path for folder in _folders(server) for _, path in _places(server, folder) if path.exists()})


def wants(server: ServerLayout) -> dict[str, Path]:
    """What is started at every boot, and the link by which systemd knows that."""
    return {unit: server.units / f"{target}.wants" / unit for unit, target in ENABLED.items()}


def told(found: list[Change]) -> str:
    """The changes in words."""
    if len(found) > 1 and all(change.found is None for change in found):
        return f"{len(found)} files, all new"
    return ", ".join(change.text for change in found)


def apply(found: list[Change]) -> None:
    """Make the changes, each durable before the next."""
    for change in found:
        if change.wanted is None:
            change.path.unlink(missing_ok=True)
            files.fsync_folder(change.path.parent)
        else:
            files.make_folder(change.path.parent)
            files.replace(change.path, change.wanted)


def flush(server: ServerLayout) -> None:
    """Make durable what is as it should be already: whoever made it so may have been killed right before that."""
    places = {path.parent for folder in _folders(server) for _, path in _places(server, folder)}
    files.fsync_folders(folder for folder in places if folder.is_dir())


def _folders(server: ServerLayout) -> list[ReleaseFolder]:
    names = (path.name for path in server.releases.glob("[!.]*")) if server.releases.is_dir() else ()
    return [server.release(name) for name in names]


def _places(server: ServerLayout, release: ReleaseFolder) -> Iterator[tuple[Path, Path]]:
    if not release.units.is_dir():
        return
    others = {"azaion.sysusers": server.sysusers, "azaion.tmpfiles": server.tmpfiles, "azaion.rules": server.polkit}
    for path in sorted(release.units.iterdir()):
        if path.suffix in _UNITS:
            yield path, server.units / path.name
        elif path.name in others:
            yield path, others[path.name]


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
