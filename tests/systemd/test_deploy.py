"""Releases follow one another under a live run, in the booted systemd; one that is broken is taken back by itself."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from azaion.annotations import offset as offsets
from azaion.annotations.importer import Options, import_folder
from azaion.annotations.spool import Spool
from azaion.layout import AttemptFolder
from tests.systemd.conftest import without_reason
from tests.systemd.machine import Machine, machine
from tests.systemd.releases import (
    QUICKLY,
    checkout,
    control,
    current,
    daemons_release,
    first,
    same_as_in_release,
    settings,
    told,
)
from tests.training_runs import QUICK, draw_shapes, epochs_done
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)

#: More than three deploys take.
EPOCHS = 500

#: In the daemon: what a broken release does there.
SERVING = "    stopping = asyncio.Event()\n    loop = asyncio.get_running_loop()\n"
#: The same in the consumer.
CONSUMING = "def main() -> int:\n"


@pytest.fixture(scope="module")
def installed() -> Iterator[Machine]:
    """A server with a first release, made of a checkout of what is tested."""
    without_reason()
    with machine(bare=True) as made:
        first(made, checkout(made, "first"), "--env-file", settings(made), *QUICKLY)
        yield made


@pytest.fixture
def server(installed: Machine) -> Iterator[Machine]:
    """The same, with no job left of the test before."""
    yield installed
    installed.settle()


def deploy(server: Machine, what: str, *, check: bool = True, failpoints: str = "") -> tuple[int, str]:
    """Deploy a checkout or a release; returns the exit code and what was said."""
    done = control(server, "deploy", what, *QUICKLY, check=check, failpoints=failpoints)
    return done.returncode, done.stdout + done.stderr


@contextmanager
def annotations(server: Machine) -> Iterator[list[int]]:
    """Annotations come in all the while; yields every offset that was seen, in order."""
    seen: list[int] = []
    stop = threading.Event()
    drawn = replace(server.layout, root=server.path("/srv/drawn"))
    if not drawn.root.exists():
        drawn.root.mkdir()
        draw_shapes(drawn, images=4, size=32)

    def send() -> None:
        while not stop.wait(0.5):
            import_folder(Spool(server.layout.state / "spool"), drawn.data.path, Options())

    def look() -> None:
        while not stop.is_set():
            position = offsets.read(server.layout.offset)
            if position is not None and (not seen or position.offset != seen[-1]):
                seen.append(position.offset)
            stop.wait(0.02)

    threads = [threading.Thread(target=each) for each in (send, look)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def runs(server: Machine, name: str) -> int:
    """A run that goes on until it is told to end."""
    number = server.submit(f"until [ -e go-{name} ]; do sleep 0.05; done; exit 7")
    server.wait(number, "running")
    return number


def ends_well(server: Machine, number: int, name: str, before: dict[str, Any]) -> None:
    """The run is the very same one, and how it ends is known."""
    assert server.processes(number) == before
    (server.layout.state / f"go-{name}").touch()
    job = server.wait(number)
    (attempt,) = job["attempts"]
    assert (attempt["pid"], job["cause"]) == (before["child"]["pid"], "exit:7")


def started_with(folder: AttemptFolder) -> str:
    name: str = json.loads(folder.spec.read_bytes())["release"]
    return name


#: A release that dies again and again.
CRASHES = {"supervisor__daemon.py": (SERVING, SERVING + "    loop.call_later(0.7, os._exit, 1)\n")}

#: What is wrong with another one: of its files the text that is there, the one in its place, and what is said of it.
BROKEN: dict[str, tuple[dict[str, tuple[str, str]], str]] = {
    "refuses": (
        {"supervisor__daemon.py": ("    arguments = parser.parse_args()\n", "    sys.exit(78)\n")},
        "daemon: it does not start",
    ),
    "complains": (
        {
            "supervisor__daemon.py": (SERVING, SERVING + '    _log.error("something is wrong")\n'),
            "etc__systemd__azaion.service": ("Description=", "# This must go again.\nDescription="),
        },
        "log: an error: .*something is wrong",
    ),
    "sleeps": (
        {"workers__consumer.py": (CONSUMING, f"{CONSUMING}    __import__('time').sleep(1e6)\n")},
        "within 12 s: consumer",
    ),
}


@pytest.mark.train
def test_an_upgrade_and_the_way_back_under_a_training(server: Machine) -> None:
    """The real trainer in its unit, and annotations coming in: two releases change places, and a third is broken."""
    old = current(server)
    draw_shapes(server.layout, images=16, size=64)
    server.run("chown", "-R", "azaion:azaion", "/azaion/")
    body = {"kind": "train", "epochs": EPOCHS, "imgsz": 64, "batch": 16, "overrides": dict(QUICK)}
    number: int = server.client.post("/v1/jobs", body)["id"]
    server.wait(number, "running")
    folder = server.attempt(number)
    until(lambda: epochs_done(folder) or server.job(number)["state"] != "running", "an epoch is done", 60)
    assert server.job(number)["state"] == "running", folder.log.read_text(encoding="utf-8")[-3000:]
    before = server.processes(number)
    second, third = checkout(server, "second"), checkout(server, "third", **CRASHES)
    with annotations(server) as seen:
        until(lambda: len(seen) > 1, "annotations come in")
        code, said = deploy(server, second)
        new = current(server)
        assert code == 0
        assert new != old
        assert daemons_release(server) == new
        # The run has what it was started with, and that stays for as long as it lives; one that begins now is new.
        assert f"job {number} goes on with {old}" in said
        assert started_with(folder) == old
        used = {each["name"]: each["used_by"] for each in told(server)["releases"]}
        assert f"job {number}" in used[old]
        later = server.submit("true")
        server.wait(later)
        assert started_with(server.attempt(later)) == new

        code, said = deploy(server, third, check=False)
        assert (code, current(server), daemons_release(server)) == (1, new, new), said
        assert "daemon: it does not stay up" in said

        # Killed in the middle it is gone to its end all the same, for who goes back has a reason.
        back = ("deploy", "--rollback", *QUICKLY)
        assert control(server, *back, check=False, failpoints="release.switched=1:kill").returncode == -9
        control(server, "deploy", "--check", *QUICKLY)
        assert current(server) == daemons_release(server) == old
        until(lambda: seen[-1] > seen[0] + 8, "annotations come in")
        assert server.job(number)["state"] == "running", "all of this was to happen under it: let it have more epochs"
        assert server.processes(number) == before
    assert all(later > earlier for earlier, later in pairwise(seen)), seen
    server.client.post(f"/v1/jobs/{number}/stop")
    job = server.wait(number)
    (attempt,) = job["attempts"]
    assert (attempt["pid"], attempt["exit_code"], job["cause"]) == (before["child"]["pid"], 75, "cancelled"), job
    done = epochs_done(folder)
    assert done == list(range(1, len(done) + 1))
    deploys = told(server)["deploys"][-3:]
    assert [(each["origin"], each["target"], each["verdict"], each["rollback"]) for each in deploys] == [
        (old, new, "kept", False),
        (new, deploys[1]["target"], "rolled back", False),
        (new, old, "kept", True),
    ]
    print(f"consumer away for {deploys[0]['consumer_away_s']:.2f} s, {len(done)} epochs")
    assert deploys[0]["consumer_away_s"] < 30


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_release_is_taken_back_by_itself(server: Machine, how: str) -> None:
    edits, why = BROKEN[how]
    old = current(server)
    number = runs(server, how)
    before = server.processes(number)
    within = ("--within", "12") if how == "sleeps" else ()
    with annotations(server) as seen:
        done = control(server, "deploy", checkout(server, how, **edits), *QUICKLY, *within, check=False)
        assert done.returncode == 1, done.stdout
        assert current(server) == daemons_release(server) == old
        assert same_as_in_release(server, old)
        last = seen[-1]
        until(lambda: seen[-1] > last, "annotations come in")
    assert all(later > earlier for earlier, later in pairwise(seen)), seen
    deployed = told(server)["deploys"][-1]
    assert deployed["verdict"] == "rolled back", done.stdout
    assert re.search(why, deployed["reason"]), deployed["reason"]
    ends_well(server, number, how, before)


def test_what_the_checklist_speaks_against_changes_nothing(server: Machine) -> None:
    old, daemon = current(server), server.show("MainPID")
    settings_file = server.path("/etc/azaion/.env")
    good = settings_file.read_text(encoding="utf-8")
    settings_file.write_text(good.replace("AZAION_ROOT_DIR", "AZAION_ROOT_DIRECTORY"), encoding="utf-8")
    try:
        code, said = deploy(server, checkout(server, "fine"), check=False)
    finally:
        settings_file.write_text(good, encoding="utf-8")
    assert code == 1
    assert "AZAION_ROOT_DIR: missing" in said
    assert (current(server), server.show("MainPID")) == (old, daemon)
    assert told(server)["deploys"][-1]["verdict"] != "under way"


def test_a_deploy_that_was_killed_is_finished_or_undone(server: Machine) -> None:
    """Each call takes back what the one before had begun, before it begins anything itself."""
    old = current(server)
    unit = {"etc__systemd__azaion.service": ("Description=", "# New.\nDescription=")}
    folder = checkout(server, "killed", **unit)

    def kill(point: str, nth: int = 1) -> None:
        code, said = deploy(server, folder, check=False, failpoints=f"release.{point}={nth}:kill")
        assert code == -9, said

    kill("built")
    kill("units")
    # On the way back, and then on its own way.
    kill("switched")
    kill("switched", nth=2)
    assert current(server) != old
    control(server, "deploy", "--check", *QUICKLY)
    assert current(server) == daemons_release(server) == old
    assert same_as_in_release(server, old)
    kill("verified")
    kill("kept")
    # The record came first: it is in use.
    control(server, "deploy", "--check", *QUICKLY)
    assert current(server) == daemons_release(server) != old
    assert same_as_in_release(server, current(server))
    assert not list(server.path("/opt/azaion/releases").glob(".*"))
    assert [each["verdict"] for each in told(server)["deploys"][-4:]] == ["undone", "undone", "undone", "kept"]


def test_the_power_goes_while_a_release_proves_itself(server: Machine) -> None:
    """At the boot, before the daemon starts, it is taken back, though its own command cannot do that."""
    old = current(server)
    broken = {
        "supervisor__commands__deploy.py": ("    alone = ", "    raise SystemExit(1)\n    alone = "),
        "etc__systemd__azaion.service": ("Description=", "# This must go again.\nDescription="),
    }
    code, said = deploy(
        server, checkout(server, "unproven", **broken), check=False, failpoints="release.restarted=1:kill"
    )
    assert code == -9, said
    unproven = daemons_release(server)
    assert unproven != old
    server.systemctl("stop", "azaion.service")
    # What a boot does.
    server.systemctl("start", "multi-user.target")
    assert daemons_release(server) == current(server) == old
    assert same_as_in_release(server, old)
    assert told(server)["deploys"][-1]["verdict"] == "undone"
    # Where nothing was cut off it does nothing.
    server.systemctl("start", "azaion-recover.service")
    assert told(server)["deploys"][-1]["target"] == unproven
