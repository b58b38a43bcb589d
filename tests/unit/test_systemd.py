"""What the daemon and systemd tell each other, without a systemd: tests/systemd has a real one."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from azaion import environment
from azaion.layout import AttemptFolder
from azaion.settings import ConfigError
from supervisor.jobs.launchers import LaunchError
from supervisor.jobs.model import Limits
from supervisor.jobs.systemd import name_of, properties, unit_of
from supervisor.notify import Notifier, handed_over

# What it is told.


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


async def test_signs_of_life_come_from_the_loop_and_stop_with_it(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "40000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier(environ)
    assert environ == {}
    notifier.ready()
    assert manager.recv(100) == b"READY=1"
    task = asyncio.create_task(notifier.run())
    for _ in range(3):
        assert await asyncio.to_thread(manager.recv, 100) == b"WATCHDOG=1"
    task.cancel()
    notifier.stopping()
    assert await asyncio.to_thread(manager.recv, 100) in {b"STOPPING=1", b"WATCHDOG=1"}


@pytest.mark.parametrize("watchdog", [{}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}])
async def test_without_a_watchdog_of_ours_nothing_is_told(watchdog: dict[str, str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "@azaion-nobody-listens", **watchdog})
    await notifier.run()
    # Nobody hears it, and nothing follows from that.
    notifier.ready()


# What it hands over.


def test_the_sockets_of_another_process_are_not_ours(tmp_path: Path) -> None:
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "azaion.socket"}
    assert handed_over(environ, tmp_path / "control.sock") is None
    assert environ == {}


#: The socket is descriptor 3, which the tests themselves have in use.
TAKE = """
import os, sys
from pathlib import Path
from supervisor.notify import handed_over
os.dup2(int(sys.argv[1]), 3, inheritable=True)
taken = handed_over({"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}, Path(sys.argv[2]))
print(taken.fileno(), taken.get_inheritable())
"""


@pytest.mark.parametrize(
    ("name", "said"), [("control.sock", "3 False"), ("other.sock", "give both the same path, then: systemctl")]
)
def test_the_socket_is_taken_if_it_is_the_one_that_is_configured(tmp_path: Path, name: str, said: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "control.sock"))
        listening.listen()
        done = subprocess.run(
            [sys.executable, "-c", TAKE, str(listening.fileno()), str(tmp_path / name)],
            pass_fds=[listening.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
    assert said in done.stdout + done.stderr


# Credentials.


def test_the_environment_file_is_a_credential_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = tmp_path / "credentials"
    given.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(given)}
    assert environment.env_file(environ) is None
    (tmp_path / ".env").write_text("A=1\n")
    assert environment.env_file(environ) == Path(".env")
    (given / "env").write_text("A=2\n")
    assert environment.env_file(environ) == given / "env"
    assert environment.env_file({}) == Path(".env")
    # Nothing of ours lies beside a credential.
    assert environment.base(given / "env", environ) == tmp_path
    assert environment.base(tmp_path / "elsewhere" / ".env", environ) == tmp_path / "elsewhere"


def test_a_setting_may_be_a_credential_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "RABBITMQ_HOST").write_text("broker\n")
    (tmp_path / "HOME").write_text("no setting of ours\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert environment.credentials(environ) == {"RABBITMQ_HOST": "broker"}
    assert environment.credentials({}) == {}
    (tmp_path / "RABBITMQ_USER").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="RABBITMQ_USER cannot be read"):
        environment.credentials(environ)


# Units.


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(), []),
        (Limits(nice=5, time_s=60.0), []),
        (Limits(memory=1 << 30), ["MemoryMax=1073741824", "MemorySwapMax=0"]),
        (Limits(cpus=1.5), ["CPUQuota=150%"]),
        (Limits(cpus=0.125), ["CPUQuota=12.5%"]),
    ],
)
def test_limits_become_properties(limits: Limits, told: list[str]) -> None:
    assert properties(limits) == told


def test_the_name_of_a_unit_is_that_of_the_attempt() -> None:
    assert name_of(AttemptFolder(path=Path("/var/lib/azaion/jobs/12-9f3a/3"))) == "12-9f3a-3"
    assert unit_of("12-9f3a-3", "train") == "azaion-train@12-9f3a-3.service"
    assert unit_of("12-9f3a-3", "publish") == "azaion-publish@12-9f3a-3.service"
    assert unit_of("helper-1") == "azaion-train@helper-1.service"
    with pytest.raises(LaunchError, match="no name"):
        name_of(AttemptFolder(path=Path("/jobs/12 ;x/3")))
