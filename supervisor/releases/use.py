"""Which releases are in use: by runs that go on, and by whatever else was started from one."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

#: ``/var/lib/azaion/jobs/42-1a2b3c/1``, the last word of a shim and of a worker.
_ATTEMPT: Final = re.compile(r"/jobs/([0-9]+)-[^/]+/[0-9]+$")
_WHO: Final = {"supervisor.daemon": "the daemon", "workers.consumer": "its consumer"}


def uses(releases: Path, proc: Path = Path("/proc")) -> dict[str, tuple[str, ...]]:
    """Of each release that a process was started from, who that is: ``job 42``, ``the daemon``, ``pid 4711``.

    Args:
        releases: the folder of the releases.
        proc: where processes are found.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    own = str(os.getpid())
    for pid, arguments in _commands(proc):
        if pid == own:
            continue
        for name in filter(None, (release_in(releases, argument) for argument in arguments)):
            found[name].add(_who(pid, arguments))
    return {name: tuple(sorted(who)) for name, who in found.items()}


def release_in(releases: Path, path: str) -> str | None:
    """The name of the release that a path lies in; None if it lies in none."""
    # The folder may be a link to a larger disk.
    for folder in (str(releases), os.path.realpath(releases)):
        if path.startswith(f"{folder}/"):
            return path.removeprefix(f"{folder}/").partition("/")[0]
    return None


def runs(users: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Of each run that goes on, the release that it was started with."""
    return {who: name for name, all_of_it in users.items() for who in all_of_it if who.startswith("job ")}


def _who(pid: str, arguments: list[str]) -> str:
    if found := next(filter(None, map(_ATTEMPT.search, arguments)), None):
        return f"job {found[1]}"
    return next((who for module, who in _WHO.items() if module in arguments), f"pid {pid}")


def _commands(proc: Path) -> Iterator[tuple[str, list[str]]]:
    for folder in proc.iterdir():
        if folder.name.isdecimal():
            try:
                arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                # It has ended meanwhile, or is somebody else's.
                continue
            yield folder.name, arguments
