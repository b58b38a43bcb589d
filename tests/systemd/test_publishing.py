"""Publishing under a real systemd: its unit alone is given the secrets, and they end with it."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from azaion import models
from tests.systemd.machine import Machine
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)

HIDDEN = "a password that nobody else may see"


@pytest.fixture
def publishing(server: Machine) -> Iterator[Machine]:
    """A server with a secret among its settings."""
    settings = server.path("/etc/azaion/.env")
    before = settings.read_text(encoding="utf-8")
    try:
        settings.write_text(f"{before}AZAION_API_PASSWORD='{HIDDEN}'\n", encoding="utf-8")
        server.systemctl("restart", "azaion.service")
        yield server
    finally:
        settings.write_text(before, encoding="utf-8")
        server.systemctl("restart", "azaion.service")


def control(server: Machine, *arguments: str) -> None:
    """``azaionctl``, as the user that the daemon runs as."""
    server.run("/opt/azaion/current/bin/python", "-P", "-m", "supervisor.ctl", *arguments, user="azaion")


def model(server: Machine) -> tuple[str, bytes]:
    """Register a model, as a training does."""
    weights = b"weights" * 10_000
    path = server.folder / "made.pt"
    path.write_bytes(weights)
    made = models.register(
        server.layout, key="systemd", attempt=1, weights=path, card={}, files={}, today=datetime.now(UTC).date()
    )
    models.promote(server.layout, made.name)
    server.run("chown", "-R", "azaion:azaion", "/azaion/")
    return made.name, weights


def mentions(folder: Path, secret: str) -> list[str]:
    """The files below a folder that hold the secret."""
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes()
    ]


def test_a_model_is_published_by_the_unit_that_has_the_secrets(publishing: Machine) -> None:
    server = publishing
    name, weights = model(server)
    control(server, "keys", "generate", "--keys", "/var/lib/azaion/keys")
    number: int = server.client.post(f"/v1/models/{name}/publish", {"target": "directory"})["id"]
    job = server.wait(number)
    assert job["state"] == "succeeded", (job, server.attempt(number).log.read_text(encoding="utf-8")[-3000:])
    unit = server.unit(number).replace("azaion-train@", "azaion-publish@")
    assert "Started" in server.journal(unit)
    until(lambda: not server.path(f"/run/credentials/{unit}").exists(), "they have ended with it")
    # Whoever uses the models fetches with the settings that it may read.
    server.run("install", "-d", "-o", "azaion", "/tmp/consumer")  # noqa: S108 - the server's own
    server.run("install", "-m", "600", "-o", "azaion", "/etc/azaion/.env", "/tmp/env")  # noqa: S108 - the same
    control(server, "fetch", "--target", "directory", "--output", "/tmp/consumer", "--env-file", "/tmp/env")  # noqa: S108 - the same
    (fetched,) = server.path("/tmp/consumer").glob("azaion*")  # noqa: S108 - the same
    assert hashlib.sha256(fetched.read_bytes()).digest() == hashlib.sha256(weights).digest()
    assert [*mentions(server.layout.state, HIDDEN), *mentions(server.root, HIDDEN)] == []
    assert HIDDEN not in server.run("journalctl", "--no-pager", "-o", "export").stdout


def test_a_run_of_another_kind_has_no_secrets(publishing: Machine) -> None:
    server = publishing
    look = "echo directory=$CREDENTIALS_DIRECTORY; cat /etc/azaion/.env /run/credentials/*/env; env; true"
    job = server.submit(look)
    assert server.wait(job)["state"] == "succeeded"
    log = server.attempt(job).log.read_text(encoding="utf-8")
    assert "directory=\n" in log
    assert "Permission denied" in log
    assert HIDDEN not in log
