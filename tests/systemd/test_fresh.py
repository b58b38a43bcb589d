"""A fresh Debian, and nothing but what docs/deployment.md says: a server, in a booted systemd."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.conftest import without_reason
from tests.systemd.machine import CODE, SETTINGS, Machine, machine
from tests.training_runs import QUICK, draw_shapes

pytestmark = [
    pytest.mark.timeout(3000),
    pytest.mark.skipif(
        os.environ.get("AZAION_FRESH") != "1", reason="takes minutes, the network and 5 GB of memory: make fresh"
    ),
]

PAGE = (CODE / "docs" / "deployment.md").read_text(encoding="utf-8")


def told(heading: str) -> list[str]:
    """The commands below a heading of the page."""
    found = re.search(rf"^## {heading}\n.*?^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, heading
    return [line.partition("  #")[0].strip() for line in found[1].splitlines()]


def here(*argv: str | Path) -> None:
    """Run a command on this machine."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody has who has just installed Debian, and then the packages that the page asks for."""
    without_reason()
    if not shutil.which("debootstrap"):
        pytest.skip("needs debootstrap: apt-get install debootstrap")
    root = tmp_path_factory.mktemp("fresh") / "root"
    here("debootstrap", "--variant=minbase", "--include=systemd-sysv,dbus,sudo,ca-certificates", "bookworm", root)
    install = told("Install")[0].removeprefix("sudo ").split()
    assert install[:2] == ["apt-get", "install"]
    here("chroot", root, "env", "DEBIAN_FRONTEND=noninteractive", *install, "--yes")
    return root


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server reaches no index, so they are fetched beforehand, again as the page says."""
    folder = tmp_path_factory.mktemp("wheels")
    commands = re.findall(r"`pip (download [^`]*) -d wheels`", PAGE)
    assert len(commands) == 2
    for command in commands:
        words = [str(CODE / word) if word.startswith("requirements/") else word for word in command.split()]
        here(shutil.which("python3.11") or "python3", "-m", "pip", *words, "-d", folder)
    return folder


@pytest.fixture(scope="module")
def fresh(debian: Path, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """That Debian, booted."""
    repository = tmp_path_factory.mktemp("repository")
    here("git", "clone", "--quiet", "--bare", CODE, repository)
    with machine(base=debian) as made:
        for source, place in ((repository, "/srv/repository"), (wheels, "/srv/wheels")):
            here("cp", "-r", source, made.path(place))
            here("chmod", "-R", "a+rX", made.path(place))
        yield made


def test_the_words_of_the_page_make_a_server_of_a_fresh_machine(fresh: Machine) -> None:
    server = fresh
    # As who has installed Debian has made it: a person who may use sudo.
    server.run("useradd", "--create-home", "--shell", "/bin/bash", "anna")
    server.path("/etc/sudoers.d/anna").write_text("anna ALL=(ALL) NOPASSWD: ALL\n", encoding="utf-8")
    home = "/home/anna"

    def types(command: str) -> str:
        return server.run(
            "env", f"HOME={home}", "sh", "-c", f"cd {home} && {command}", limit_s=1500, user="anna"
        ).stdout

    _, clone, install = told("Install")
    clone = clone.replace("REPOSITORY", "/srv/repository")
    types("git config --global --add safe.directory /srv/repository")
    types(clone)
    checkout = server.path(f"{home}/azaion-training")
    (checkout / "production.env").write_text(
        "".join(f"{name}={value}\n" for name, value in SETTINGS.items()), encoding="utf-8"
    )
    offline = re.search(r"`sudo (PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels) make install`", PAGE)
    assert offline is not None
    done = types(f"cd azaion-training && {install.replace('sudo', f'sudo {offline[1]}')}")
    print(done)
    assert "is in use" in done

    status = types("sudo azaionctl status")
    assert "azaion-training" not in status
    assert server.show("ActiveState") == "active"
    doctor = types("sudo azaionctl doctor || true")
    assert "FAILED" not in doctor, doctor

    # What it is for: annotations are there, and a model is made of them, by the libraries of the lock.
    draw_shapes(server.layout, images=24, size=96)
    server.run("chown", "-R", "azaion:azaion", "/azaion/")
    body = {"kind": "train", "epochs": 1, "overrides": dict(QUICK), "then": ["evaluate", "export"]}
    first: int = server.client.post("/v1/jobs", body)["id"]
    for number in (first, first + 1, first + 2):
        job = server.wait(number, limit_s=300)
        log = server.attempt(number).log
        assert job["state"] == "succeeded", (job, log.read_text(encoding="utf-8", errors="replace")[-3000:])

    # A second time nothing is done; then it is all taken away, save what belongs to somebody.
    again = types(f"cd azaion-training && {install}")
    assert "doing" not in again, again
    types("cd azaion-training && sudo make uninstall </dev/null")
    assert server.show("LoadState") == "not-found"
    assert "No such" in server.run("sh", "-c", "LC_ALL=C ls /usr/local/bin/azaionctl", check=False).stderr
    assert not server.path("/opt/azaion").exists()
    assert server.path("/azaion/data/images").exists()
    assert server.path("/etc/azaion/.env").exists()
