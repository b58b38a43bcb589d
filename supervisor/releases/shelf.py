"""The releases of a server, the one in use, and what is remembered of their deploys."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from azaion import failpoints, files
from azaion.layout import ServerLayout
from supervisor.releases.model import REMEMBERED, Deployment, Release, ReleaseError, deployment_of, named, release_of

#: In the folder of the releases: one that is being made, or being removed.
STAGING: Final = files.TEMPORARY_PREFIX


class Shelf:
    """The releases below ``/opt/azaion``.

    Args:
        server: where everything lies.
    """

    def __init__(self, server: ServerLayout) -> None:
        self.server = server

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Be the only one who changes anything.

        Raises:
            ReleaseError: another process does.
        """
        files.make_folder(self.server.releases)
        try:
            with files.locked(self.server.deploy_lock, wait=False):
                self._sweep()
                yield
        except BlockingIOError:
            raise ReleaseError(f"another install or deploy is under way ({self.server.deploy_lock} is held)") from None

    def _sweep(self) -> None:
        """Remove what others left behind who were killed while they made or removed a release."""
        files.remove_temporaries(self.server.program)
        for path in self.server.releases.glob(f"{STAGING}*"):
            files.remove_tree(path)

    def releases(self) -> list[Release]:
        """Every release that is whole, the oldest first."""
        if not self.server.releases.is_dir():
            return []
        found = (path.name for path in self.server.releases.glob("[!.]*"))
        names = [name for name in found if self.server.release(name).record.exists()]
        return sorted((self.release(name) for name in names), key=lambda each: (each.made, each.name))

    def release(self, name: str) -> Release:
        """A release by its name.

        Raises:
            ReleaseError: there is none, or it cannot be read.
        """
        record = self.server.release(named(name)).record
        try:
            return replace(release_of(files.read_json(record)), name=name)
        except FileNotFoundError:
            raise ReleaseError(f"there is no release {name}; those there are: azaionctl releases") from None
        except files.FileError as error:
            raise ReleaseError(f"release {name} cannot be used: {error}") from None

    @property
    def current(self) -> str | None:
        """The name of the release in use; None before the first."""
        try:
            return self.server.current.readlink().name
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ReleaseError(f"{self.server.current} is no link to a release: {error.strerror}") from None

    def switch(self, name: str) -> None:
        """Have the daemon be started from this release from now on; atomic and durable."""
        files.switch_link(self.server.current, f"{self.server.releases.name}/{name}")

    def remove(self, name: str) -> None:
        """Remove a release; one that is being removed is none any more."""
        path = self.server.release(name).path
        trash = path.with_name(f"{STAGING}{name}")
        files.rename(path, trash)
        failpoints.hit("release.trashed")
        files.remove_tree(trash)

    # What is remembered.

    def deployments(self) -> list[Deployment]:
        """Every deploy, the oldest first.

        Raises:
            ReleaseError: the file cannot be read.
        """
        try:
            told = files.read_json(self.server.deploys)["deploys"]
            return [deployment_of(each) for each in told]
        except FileNotFoundError:
            return []
        except (files.FileError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ReleaseError(
                f"{self.server.deploys} cannot be read: {error}; what is in it is only history: move it away"
            ) from None

    def begin(self, deployment: Deployment) -> None:
        """Remember a deploy before anything is changed."""
        self._write([*self.deployments(), deployment])

    def end(self, deployment: Deployment) -> None:
        """Remember what came of the last one."""
        self._write([*self.deployments()[:-1], deployment])

    def _write(self, deployments: list[Deployment]) -> None:
        files.write_json(self.server.deploys, {"deploys": [each.record() for each in deployments[-REMEMBERED:]]})
