"""Where the command line looks for its daemon."""

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from azaion import layout
from supervisor.control import client
from supervisor.control.client import Client, UnreachableError, find_socket

CLIENT_SOCKET = client.SYSTEM_SOCKET


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AZAION_SOCKET", "AZAION_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "SYSTEM_SOCKET", tmp_path / "run" / "control.sock")


def test_the_paths_are_those_of_the_layout() -> None:
    """Written twice, for importing the layout would cost every command a third of its time."""
    assert CLIENT_SOCKET == layout.RUN_FOLDER / "control.sock"
    assert client._STATES[0] == layout.DEFAULT_STATE
    assert client.STOPPED == layout.STOPPED


def test_the_option_beats_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZAION_SOCKET", "/elsewhere")
    assert find_socket(Path("/given")) == Path("/given")


def test_the_environment_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("AZAION_SOCKET=/from/file\n")
    assert find_socket(None) == Path("/from/file")
    monkeypatch.setenv("AZAION_SOCKET", "/from/environment")
    assert find_socket(None) == Path("/from/environment")


def test_the_state_folder_of_the_file_tells_it_too() -> None:
    Path(".env").write_text("AZAION_STATE_DIR=./var\nAZAION_SOCKET=\n")
    assert find_socket(None) == Path("var/control.sock")


def test_an_installed_daemon_is_found_without_any_setting() -> None:
    assert find_socket(None) == client.SYSTEM_SOCKET
    Path("var").mkdir()
    Path("var/control.sock").touch()
    assert find_socket(None) == Path("var/control.sock")
    client.SYSTEM_SOCKET.parent.mkdir()
    client.SYSTEM_SOCKET.touch()
    assert find_socket(None) == client.SYSTEM_SOCKET


def test_a_file_that_is_no_text_is_no_help() -> None:
    Path(".env").write_bytes(b"\xff\xfe\x00")
    assert find_socket(None) == client.SYSTEM_SOCKET


@pytest.fixture
def crowded() -> Iterator[socket.socket]:
    """A daemon that takes no calls, with as many waiting as may. In the current folder, for paths are limited."""
    with ExitStack() as held:
        daemon = held.enter_context(socket.socket(socket.AF_UNIX))
        daemon.bind("crowded")
        daemon.listen(2)
        full = False
        while not full:
            caller = held.enter_context(socket.socket(socket.AF_UNIX))
            caller.setblocking(False)
            full = caller.connect_ex("crowded") == errno.EAGAIN
        yield daemon


def test_who_comes_last_waits_until_the_others_have_been_taken(crowded: socket.socket) -> None:
    def take() -> None:
        with ExitStack() as held:
            asked = b""
            while not asked:
                caller = held.enter_context(crowded.accept()[0])
                caller.settimeout(0.05)
                with suppress(TimeoutError):
                    asked = caller.recv(1000)
            caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    taking = threading.Timer(0.2, take)
    taking.start()
    assert Client(Path("crowded")).get("/", timeout=10.0) == {}
    taking.join()


@pytest.mark.usefixtures("crowded")
def test_a_daemon_that_takes_nobody_is_told_in_time() -> None:
    with pytest.raises(UnreachableError, match=r"no call for 0.2 s"):
        Client(Path("crowded")).get("/", timeout=0.2)


def test_a_daemon_that_does_not_answer_is_remarked_upon(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where systemd keeps the socket of a daemon that cannot start."""
    told: list[str] = []
    monkeypatch.setattr(client, "_LONG_S", 0.01)
    monkeypatch.setattr(Client, "impatient", staticmethod(told.append))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("silent.sock")
        listener.listen()
        for path in ("/v1/status", "/v1/jobs/1/wait"):
            with pytest.raises(
                UnreachableError, match=r"has not answered within 0\.05 s: to see why: `systemctl status"
            ):
                Client(Path("silent.sock")).get(path, timeout=0.05)
    assert len(told) == 1
    assert "does not answer yet, still waiting" in told[0]
