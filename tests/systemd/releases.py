"""Checkouts to make releases of, good ones and broken ones, on a server on which nothing is installed."""

import hashlib
import json
import shutil
import subprocess
from typing import Any, Final

from supervisor.releases.making import PARTS
from tests.systemd.machine import CODE, SETTINGS, Machine
from tests.waiting import until

#: A release proves itself sooner than it would have to on a real server.
QUICKLY: Final = ("--environment", "/opt/environment", "--steady", "1", "--within", "20")
#: `azaionctl` where nothing is installed yet: out of a checkout, by an interpreter without any library.
UNINSTALLED: Final = "cd {0} && $(readlink -f /opt/environment/bin/python) -B -m supervisor.ctl {1}"


def commit(name: str) -> str:
    """The commit that a folder of that name is of, so it says."""
    return hashlib.sha1(name.encode()).hexdigest()  # noqa: S324 - as git has it


def checkout(server: Machine, name: str, **edits: tuple[str, str]) -> str:
    """An unpacked archive of the product; of the files (``__`` for ``/``) one text is put before another.

    Args:
        server: where it lies.
        name: of the folder, which makes the release another one.
        edits: of a file: the text that is there, and the one that takes its place.
    """
    folder = server.path(f"/srv/{name}")
    for part in PARTS:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        if (CODE / part).is_dir():
            shutil.copytree(CODE / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(CODE / part, folder / part)
    for file, (old, new) in edits.items():
        path = folder / file.replace("__", "/")
        text = path.read_text(encoding="utf-8")
        assert old in text, (file, old)
        path.write_text(text.replace(old, new), encoding="utf-8")
    module = folder / "azaion/__init__.py"
    text = module.read_text(encoding="utf-8").replace("$Format:%H$", commit(name))
    module.write_text(f"{text}\n# {name}\n", encoding="utf-8")
    return f"/srv/{name}"


def control(
    server: Machine, *arguments: str, check: bool = True, failpoints: str = ""
) -> "subprocess.CompletedProcess[str]":
    """``azaionctl`` as it is installed, as root."""
    inherited = [f"AZAION_FAILPOINTS={failpoints}"] if failpoints else []
    return server.run("env", *inherited, "azaionctl", *arguments, check=check)


def first(
    server: Machine, folder: str, *arguments: str, check: bool = True, failpoints: str = ""
) -> "subprocess.CompletedProcess[str]":
    """``azaionctl install`` out of a checkout, with what a fresh machine has."""
    command = UNINSTALLED.format(folder, " ".join(["install", *arguments]))
    return server.run("env", f"AZAION_FAILPOINTS={failpoints}", "sh", "-c", command, check=check, limit_s=120)


def settings(server: Machine) -> str:
    """A file with the settings of the tests."""
    text = "".join(f"{name}={value}\n" for name, value in SETTINGS.items())
    server.path("/srv/env").write_text(text, encoding="utf-8")
    return "/srv/env"


def told(server: Machine) -> dict[str, Any]:
    """What `azaionctl releases` says."""
    found: dict[str, Any] = json.loads(control(server, "releases", "--json").stdout)
    return found


def current(server: Machine) -> str:
    """The name of the release that the daemon is started from."""
    name: str = told(server)["current"]
    return name


def daemons_release(server: Machine) -> str:
    """The name of the release that the daemon runs from."""

    def ask() -> str:
        release: str = server.client.get("/v1/status")["daemon"]["release"]
        return release

    return until(ask, "the daemon answers")


def same_as_in_release(server: Machine, release: str) -> bool:
    """Whether the daemon's unit in /etc is that of a release."""
    theirs = server.path(f"/opt/azaion/releases/{release}/etc/systemd/azaion.service")
    return server.path("/etc/systemd/system/azaion.service").read_bytes() == theirs.read_bytes()
