"""What others on the machine, and what runs here, may see and do. Promise 8 of docs/durability.md, and beyond."""

import grp
import json
import os
import pickle
import resource
import secrets
import socket
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from azaion.annotations.errors import AnnotationError
from azaion.annotations.spool import Spool
from azaion.progress import ExitCode
from azaion.settings import VARIABLES
from supervisor.control.client import ClientError
from tests.annotation_messages import created, expected, found, quarantined
from tests.consumers import consuming
from tests.installations import Installation
from tests.services import declare, shown
from tests.training_runs import World
from tests.waiting import until

#: Others, in no group of ours.
NOBODY = 65534


def holders(wanted: dict[str, str]) -> dict[int, set[str]]:
    """Which process has which of these secrets in its environment or among its arguments."""
    found: dict[int, set[str]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            seen = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            continue
        if names := {name for name, secret in wanted.items() if secret.encode() in seen}:
            found[int(process.name)] = names
    return found


def test_no_child_has_a_secret_of_the_daemon(server: Installation) -> None:
    """Given to it by its environment, as in a container; the broker's password is the consumer's, too."""
    given = {variable.name: secrets.token_hex(16) for variable in VARIABLES if variable.secret}
    server.variables |= given
    declare(server, web={"argv": ["sleep", "1000"], "grace_s": 1})
    server.start()
    number = server.submit("env > seen; sleep 1000")
    server.wait(number, "running")
    until((server.folder / "seen").exists, "the job runs")
    shown(server, "web", "ready")
    consumer = until(lambda: server.json("status")["consumer"]["pid"], "the consumer runs")
    assert server.daemon is not None
    assert holders(given) == {server.daemon.pid: set(given), consumer: {"RABBITMQ_PASSWORD"}}
    server.client.post(f"/v1/jobs/{number}/cancel", query={"now": 1})
    server.wait(number)
    assert server.ctl("service", "stop", "web").returncode == 0
    server.stop()
    for path in (*server.layout.state.rglob("*"), server.folder / "azaiond.log", server.folder / "seen"):
        if path.is_file():
            data = path.read_bytes()
            assert not [name for name, secret in given.items() if secret.encode() in data], path


def test_what_a_job_is_given_is_shown_to_nobody(server: Installation) -> None:
    """Whoever may look sees that there is a job, and not what is in its environment."""
    server.start()
    secret = secrets.token_hex(16)
    number = server.submit("exit 1", env={"PLAIN": secret})
    server.wait(number)
    again: int = server.client.post(f"/v1/jobs/{number}/retry")["id"]
    server.wait(again)
    for command in (["status"], ["list", "--all"], ["show", str(number)], ["show", str(again)], ["events"]):
        for form in ([], ["--json"]):
            assert secret not in server.ctl(*form, *command).stdout
    for path in (
        "/v1/status",
        "/v1/jobs",
        "/v1/events",
        "/v1/health",
        "/v1/history",
        "/health/detailed",
        "/queue/stats",
    ):
        assert secret not in json.dumps(server.client.get(path))
    assert secret not in (server.folder / "azaiond.log").read_text()


def test_memory_is_left_on_no_disk(server: Installation) -> None:
    """Whatever the shell allows that starts the daemon: a core dump would hold what the process knew."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    number = server.submit("ulimit -c > limit")
    server.wait(number)
    consumer = until(lambda: server.json("status")["consumer"]["pid"], "the consumer runs")
    assert server.daemon is not None
    limits = {resource.prlimit(pid, resource.RLIMIT_CORE)[0] for pid in (server.daemon.pid, consumer)}
    assert (limits, (server.folder / "limit").read_text()) == ({0}, "0\n")


@pytest.mark.parametrize(
    "unit", sorted(Path(__file__).parents[2].glob("etc/systemd/*.service")), ids=lambda unit: unit.name
)
def test_nor_by_a_unit_of_systemd(unit: Path) -> None:
    """There a daemon may not change its limits."""
    assert "\nLimitCORE=0\n" in unit.read_text(encoding="utf-8")


def told(group: int, groups: Sequence[int], ask: Callable[[], object]) -> str:
    """What another user, in these groups, is told."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        os.setgroups(groups)
        os.setgid(group)
        os.setuid(NOBODY)
        try:
            ask()
            os.write(writing, b"fine")
        except ClientError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as stream:
        return stream.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_administrators_are_those_of_the_group_whichever_else_they_are_in(server: Installation) -> None:
    admins = grp.getgrnam("daemon").gr_gid
    server.variables["AZAION_ADMIN_GROUP"] = "daemon"
    server.folder.chmod(0o755)
    server.layout.state.mkdir(exist_ok=True)
    server.layout.state.chmod(0o755)
    server.start()

    def ask() -> None:
        server.submit("true")

    assert "you may not open" in told(NOBODY, [admins], ask)
    assert "may look but not change anything" in told(0, [NOBODY], ask)
    assert server.client.get("/v1/jobs") == []
    assert told(0, [NOBODY, admins], ask) == "fine"
    assert server.job(1)["owner"] == "nobody"


class Trap:
    """Whoever unpickles it runs a command."""

    def __init__(self, sprung: Path) -> None:
        self._sprung = sprung

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._sprung}",)


@pytest.mark.train
def test_a_model_from_elsewhere_runs_no_code(tmp_path: Path) -> None:
    """Weights are pickles. Of those that we have not made ourselves only tensors are taken."""
    sprung, model = tmp_path / "sprung", tmp_path / "theirs.pt"
    with zipfile.ZipFile(model, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model": Trap(sprung)}, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    world = World(tmp_path / "world")
    ending = world.finish(world.file(1, model=str(model)))
    assert not sprung.exists()
    assert ending.code == ExitCode.NO_INPUT, ending.log


def test_links_lead_nowhere() -> None:
    """Somebody who may write there puts links to what is not theirs among messages and annotations."""
    with consuming() as root:
        theirs = root.server.folder / "theirs"
        theirs.write_text("not yours")
        places = [root.layout.seed.images / "a.jpg", root.layout.seed.labels / "a.txt", root.layout.records / "b.json"]
        for place in places:
            place.symlink_to(theirs)
        root.send([created("a", 1)])
        (root.layout.spool / f"{1:020}.msg").symlink_to(theirs)
        process = root.start()
        root.consumed(process)
        root.send([created("b", 2), created("c", 3)])
        root.consumed(process)
        root.stop(process)
        assert theirs.read_text() == "not yours"
        # A record that is none is no reason to overwrite it: the annotation waits until somebody has looked.
        assert found(root.layout) == expected([created("a", 1), created("c", 3)])
        assert sorted(quarantined(root.layout)) == ["1", "2"]
        regular = [path for path in root.layout.root.rglob("*") if path.is_file() and not path.is_symlink()]
        assert not [path for path in regular if b"not yours" in path.read_bytes()]


@pytest.mark.parametrize("name", [".lock", "incarnation"])
def test_a_link_in_the_place_of_a_file_of_the_spool_is_refused(name: str, tmp_path: Path) -> None:
    theirs, spool = tmp_path / "theirs", tmp_path / "spool"
    theirs.write_text("1")
    spool.mkdir()
    (spool / name).symlink_to(theirs)
    with pytest.raises((OSError, AnnotationError), match=r"link"):
        Spool(spool).append([(10, b"x")])
    assert theirs.read_text() == "1"
    assert not list(spool.glob("*.msg"))


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def test_callers_that_mean_no_good_cost_little(server: Installation) -> None:
    """Whoever may look: silent ones, ones that never listen, and ones that never come to an end."""
    server.start()
    assert server.daemon is not None
    before = resident(server.daemon.pid)
    with ExitStack() as held:

        def call(said: bytes = b"") -> socket.socket:
            caller = held.enter_context(socket.socket(socket.AF_UNIX))
            caller.connect(str(server.layout.socket))
            caller.sendall(said)
            return caller

        for _ in range(300):
            call()
        for _ in range(20):
            call(b"GET /v1/events?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        for said in (
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000000\r\n\r\n",
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000000\r\n",
            b"GET /",
            b"GET / HTTP/1.1\r\nx: ",
        ):
            endless = call(said)
            endless.settimeout(1.0)
            # The daemon hangs up, reads no more, or throws it away.
            with suppress(OSError):
                endless.sendall(b"x" * (64 << 20))
        for number in range(100):
            server.submit("true", name=f"{number}{'x' * 60}", hold=True)
        assert server.wait(server.submit("true"), limit_s=10)["state"] == "succeeded"
        assert resident(server.daemon.pid) - before < 24 << 20
