"""Files, disks and databases that are not as they should be: the daemon lives, and no job is stuck or run twice."""

import json
import resource
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from azaion.layout import AttemptFolder
from supervisor.control.client import ClientError
from tests.installations import Installation
from tests.waiting import until

HUGE = 10**30


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("result.json", f'{{"nonce": "NONCE", "exit_code": 0, "resumed_from_epoch": {HUGE}}}'),
        ("result.json", '{"nonce": "NONCE", "exit_code": 0, "message": "\\ud800"}'),
        ("result.json", '{"nonce": "NONCE", "exit_code": 0, "artifacts": ' + "[" * 5000),
        ("metrics.jsonl", f'{{"epoch": {HUGE}}}'),
        ("progress.json", '{"phase": "x", "metrics": null}'),
    ],
)
def test_what_a_run_writes_beside_its_log_harms_nobody(server: Installation, name: str, text: str) -> None:
    server.start()
    (server.folder / "text").write_text(text)
    script = (
        f"sed s/NONCE/$AZAION_NONCE/ text > $(echo var/jobs/1-*/1)/{name}; touch ready; while test -e ready; do :; done"
    )
    number = server.submit(script)
    until((server.folder / "ready").exists, "it is written")
    assert server.ctl("status").returncode == 0
    (server.folder / "ready").unlink()
    assert server.wait(number)["state"] == "succeeded"
    assert server.daemon is not None
    assert server.daemon.poll() is None


def _state(**changes: Any) -> Callable[[AttemptFolder], object]:
    def change(folder: AttemptFolder) -> None:
        folder.state.write_text(json.dumps(json.loads(folder.state.read_bytes()) | changes))

    return change


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: folder.state.write_text("garbage"),
        _state(nonce="another"),
        _state(shim={"pid": 0, "start": 1}),
        _state(child={"pid": HUGE, "start": 1}),
        _state(started=1e300),
    ],
)
def test_a_spoilt_state_means_lost(server: Installation, spoil: Callable[[AttemptFolder], object]) -> None:
    server.start()
    number = server.submit("sleep 1000")
    server.wait(number, "running")
    server.lose_power(number)
    spoil(server.attempt(number))
    server.start()
    job = server.wait(number)
    assert (job["state"], job["cause"], len(job["attempts"])) == ("failed", "lost:shim", 1)


def test_a_restored_database_does_not_use_a_folder_again(server: Installation) -> None:
    """The job had run by the time of the crash, and waits in the backup: its next start needs a folder of its own."""
    server.start()
    first = server.submit("while test ! -e go; do sleep 0.05; done", devices=1)
    second = server.submit("echo x >> ledger; while test -e stay; do sleep 0.05; done", devices=1)
    server.wait(first, "running")
    assert server.stop() == 0
    shutil.copy(server.layout.database, server.folder / "backup.sqlite")
    server.start()
    (server.folder / "stay").touch()
    (server.folder / "go").touch()
    server.wait(second, "running")
    server.kill()
    for name in server.layout.state.glob("jobs.sqlite*"):
        name.unlink()
    shutil.copy(server.folder / "backup.sqlite", server.layout.database)
    server.start()
    server.wait(first)
    time.sleep(0.5)
    job = server.job(second)
    assert (job["state"], job["reason"]) == ("queued", "an unknown run still works in its folder")
    (server.folder / "stay").unlink()
    job = server.wait(second)
    assert (job["state"], [attempt["n"] for attempt in job["attempts"]]) == ("succeeded", [2])
    assert server.ctl("logs", "-f", str(second)).returncode == 0


@contextmanager
def full_disk(server: Installation) -> Iterator[None]:
    """The database cannot grow: a stand-in for a disk without room."""
    assert server.daemon is not None
    size = Path(f"{server.layout.database}-wal").stat().st_size
    resource.prlimit(server.daemon.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(server.daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_a_full_disk_is_told_and_outlived(server: Installation) -> None:
    server.start()
    number = server.submit("while test ! -e go; do sleep 0.05; done; exit 7")
    server.wait(number, "running")
    with full_disk(server):
        with pytest.raises(ClientError, match="Make room on its disk"):
            server.submit("true")
        (server.folder / "go").touch()
        until(server.attempt(number).exit.exists, "the run ends")
        time.sleep(0.5)
        assert server.job(number)["state"] == "running"
        assert len(server.client.get("/v1/jobs")) == 1
    job = server.wait(number)
    assert (job["state"], job["cause"]) == ("failed", "exit:7")
    assert server.wait(server.submit("true"))["state"] == "succeeded"


@contextmanager
def no_more_files(server: Installation) -> Iterator[None]:
    """The daemon can open nothing."""
    assert server.daemon is not None
    used = len(list(Path(f"/proc/{server.daemon.pid}/fd").iterdir()))
    before = resource.prlimit(server.daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.daemon.pid, resource.RLIMIT_NOFILE, (used - 1, before[1]))
    try:
        yield
    finally:
        resource.prlimit(server.daemon.pid, resource.RLIMIT_NOFILE, before)


def test_too_many_open_files_are_outlived(server: Installation) -> None:
    server.start()
    number = server.submit("while test ! -e go; do sleep 0.05; done; exit 7")
    server.wait(number, "running")
    with no_more_files(server):
        (server.folder / "go").touch()
        until(server.attempt(number).exit.exists, "the run ends")
        time.sleep(0.5)
    assert server.wait(number)["cause"] == "exit:7"
    assert server.daemon is not None
    assert server.daemon.poll() is None


def test_too_many_open_files_put_a_start_off(server: Installation) -> None:
    server.start()
    number = server.submit("echo x >> ledger", begins=time.time() + 2.0)
    # As for one that has been started before.
    with closing(sqlite3.connect(server.layout.database)) as database:
        (uid,) = database.execute("SELECT uid FROM jobs WHERE id = ?", (number,)).fetchone()
    server.layout.job(number, uid).path.mkdir()
    with no_more_files(server):
        until(lambda: "cannot start anything" in (server.folder / "azaiond.log").read_text(), "it is told")
        # Every room looks meanwhile.
        time.sleep(2.0)
    assert server.daemon is not None
    assert server.daemon.poll() is None
    assert server.wait(number)["state"] == "succeeded"
    assert (server.folder / "ledger").read_text() == "x\n"


def test_too_many_open_files_give_no_device_of_an_unknown_run_away(server: Installation) -> None:
    server.start()
    assert server.stop() == 0
    shutil.copy(server.layout.database, server.folder / "backup.sqlite")
    server.start()
    number = server.submit("while test ! -e go; do sleep 0.05; done", devices=1)
    server.wait(number, "running")
    server.kill()
    for name in server.layout.state.glob("jobs.sqlite*"):
        name.unlink()
    shutil.copy(server.folder / "backup.sqlite", server.layout.database)
    server.start()
    number = server.submit("true", devices=1)
    with no_more_files(server):
        until(lambda: "cannot look after" in (server.folder / "azaiond.log").read_text(), "it is told")
    assert server.daemon is not None
    assert server.daemon.poll() is None
    assert "an unknown run" in server.job(number)["reason"]
    (server.folder / "go").touch()
    assert server.wait(number)["state"] == "succeeded"
