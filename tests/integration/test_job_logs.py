"""The logs of jobs: across attempts and restarts of the daemon, and what of a failure reaches the daemon's own log."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.installations import Installation, installation
from tests.waiting import until

KNOWN = "known to the daemon"


@pytest.fixture
def server() -> Iterator[Installation]:
    with installation(AZAION_LOG_FORMAT="json", RABBITMQ_PASSWORD=KNOWN) as made:
        yield made


def log_lines(server: Installation) -> list[dict[str, Any]]:
    text = (server.folder / "azaiond.log").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def follow(server: Installation, number: int, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "supervisor.ctl", *options, "logs", "-f", str(number)],
        cwd=server.folder,
        env=server.environment(PYTHONPATH=str(server.code)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_followed_log_goes_on_across_attempts_and_restarts_of_the_daemon(server: Installation) -> None:
    server.start()
    gate = server.folder / "gate"
    os.mkfifo(gate)
    # The first attempt waits until it is followed and is lost with the machine; the second one ends well.
    first = f"printf 'one \\377'; read line <{gate}; echo $line; exec sleep 600"
    number = server.submit(f"if mkdir {server.folder}/second 2>&-; then {first}; fi; echo two")
    server.wait(number, "running")
    follower = follow(server, number)
    try:
        assert follower.stdout is not None
        assert follower.stdout.read(5) == b"one \xff"
        server.kill()
        gate.write_text("more\n")
        server.start()
        assert follower.stdout.readline() == b"more\n"
        server.lose_power(number)
        forget_boot(server, number)
        server.start()
        said, errors = follower.communicate(timeout=30)
    finally:
        follower.kill()
    assert (follower.returncode, errors) == (0, b"")
    ended, begins, rest = said.decode().splitlines()
    assert ended.startswith("[azaion: attempt 1 has ended (lost:reboot)")
    assert (begins, rest) == ("[azaion: attempt 2 begins]", "two")
    assert server.json("logs", "--attempt", "1", str(number))["log"] == "one \ufffdmore\n"
    assert server.ctl("logs", str(number)).stdout == "two\n"
    wrong = server.ctl("logs", "--attempt", "7", str(number))
    assert (wrong.returncode, "it has had 1, 2" in wrong.stderr) == (1, True)


def forget_boot(server: Installation, number: int) -> None:
    """As if the machine had been switched off and on since."""
    path = server.attempt(number).state
    state = json.loads(path.read_bytes())
    path.write_text(json.dumps(state | {"boot_id": "another"}), encoding="utf-8")


def test_a_failure_reaches_the_daemons_log_without_secrets(server: Installation) -> None:
    server.start()
    script = "seq 30; echo $WORDS, $MY_TOKEN; echo url amqp://u:hunter2@h/; echo last; exit 3"
    number = server.submit(script, env={"MY_TOKEN": "sesame-open", "WORDS": KNOWN})
    good = server.submit("echo fine")
    server.wait(number)
    server.wait(good)
    lines = until(
        lambda: [line for line in log_lines(server) if line.get("job") == good and line["event"] == "ended"], "it"
    )
    assert lines[0]["level"] == "info"
    mine = [line for line in log_lines(server) if line.get("job") == number]
    assert [line["event"] for line in mine] == ["started", "ended", "its last lines"]
    assert {line["attempt"] for line in mine} == {1}
    assert (mine[1]["level"], mine[1]["cause"]) == ("error", "exit:3")
    assert mine[2]["lines"] == [
        *map(str, range(14, 31)),
        "[redacted], [redacted]",
        "url amqp://u:[redacted]@h/",
        "last",
    ]
    whole = (server.folder / "azaiond.log").read_text(encoding="utf-8")
    for secret in (KNOWN, "sesame-open", "hunter2"):
        assert secret not in whole
    assert not [line for line in log_lines(server) if line.get("job") == good and line["event"] == "its last lines"]
