"""A container by runc, as docker-compose.production.yml has it: an init, a user without capabilities, a root as it is.

The network is this machine's, so that a broker of the tests' own is found.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.waiting import until

USER: Final = 10001
_INIT: Final = "/usr/bin/tini-static"
_DOCKERS_MASKED: Final = ["/proc/kcore", "/proc/keys", "/proc/timer_list"]
_DOCKERS_READ_ONLY: Final = ["/proc/sys", "/proc/sysrq-trigger"]


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image whose files are there to be run."""

    root: Path
    config: dict[str, Any]


@contextmanager
def mounted(name: str) -> Iterator[Image]:
    """The files of an image of Buildah's."""
    container = _buildah("from", name)
    try:
        config = json.loads(_buildah("inspect", container))["OCIv1"]["config"]
        yield Image(root=Path(_buildah("mount", container)), config=config)
    finally:
        _buildah("rm", container)


def _buildah(*arguments: str) -> str:
    return subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S607


class Container:
    """One container."""

    def __init__(self, image: Image, folder: Path, volumes: dict[str, Path], environment: dict[str, str]) -> None:
        self.name = folder.name
        self._folder = folder
        mounts = [
            _mount("/proc", "proc"),
            _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755"),
            _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777"),  # noqa: S108 - the container's
            _mount("/tmp", "tmpfs", "nosuid", "nodev", "mode=1777"),  # noqa: S108 - the same
            _mount("/sbin/docker-init", "bind", "rbind", "ro", source=_INIT),
            *(_mount(target, "bind", "rbind", source=str(source)) for target, source in volumes.items()),
        ]
        process = {
            "user": {"uid": USER, "gid": USER},
            "args": ["/sbin/docker-init", "--", *image.config["Entrypoint"]],
            "env": [*image.config["Env"], *(f"{name}={value}" for name, value in environment.items())],
            "cwd": image.config["WorkingDir"],
            "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted")},
            "noNewPrivileges": True,
        }
        specification = {
            "ociVersion": "1.0.2",
            "process": process,
            "root": {"path": str(image.root), "readonly": True},
            "mounts": mounts,
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
                "maskedPaths": _DOCKERS_MASKED,
                "readonlyPaths": _DOCKERS_READ_ONLY,
            },
        }
        (folder / "config.json").write_text(json.dumps(specification), encoding="utf-8")
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["runc", "run", "--bundle", str(folder), self.name],  # noqa: S607
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(encoding="utf-8")

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as `docker exec` does."""
        command = ["runc", "exec", self.name, *argv]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def ready(self) -> None:
        """Wait until its azaiond answers."""
        until(
            lambda: self._process.poll() is not None or self.run("azaionctl", "status").returncode == 0,
            "azaiond answers",
        )
        assert self._process.poll() is None, self.log

    def wait(self, limit_s: float) -> int:
        """Wait for its end; returns the exit code."""
        return self._process.wait(timeout=limit_s)

    def signal(self, name: str) -> None:
        """What `docker stop` (TERM) and a lost container (KILL) are."""
        subprocess.run(["runc", "kill", self.name, name], capture_output=True, check=False)  # noqa: S607


def _mount(target: str, kind: str, *options: str, source: str | None = None) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source or kind, "options": list(options)}


@contextmanager
def started(image: Image, volumes: dict[str, Path], environment: dict[str, str]) -> Iterator[Container]:
    """A container of an image, ended and removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="az-container-"))
    made = Container(image, folder, volumes, environment)
    try:
        yield made
    finally:
        made.signal("KILL")
        made.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
