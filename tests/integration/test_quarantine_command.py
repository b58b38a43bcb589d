"""``azaionctl quarantine``, with a daemon and its consumer."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from azaion import files
from azaion.annotations.quarantine import Quarantine
from azaion.annotations.retries import retry_marked
from azaion.annotations.spool import Spool
from azaion.annotations.store import AnnotationStore
from azaion.annotations.stream import Form, Message
from supervisor.control.client import ClientError
from tests.annotation_messages import CREATED, Event, created, deleted, edited, expected, found, quarantined, validated
from tests.installations import Installation, installation
from tests.waiting import until

EVENTS = [created("a", 1), edited("a", 2, 20, ".png"), created("b", 3), validated("b", "a")]


@pytest.fixture
def idle() -> Iterator[Installation]:
    """A daemon whose consumer cannot run: somebody else holds the tree."""
    with installation() as server:
        server.start()
        until(lambda: server.json("status")["consumer"].get("state") == "consuming", "the consumer runs")
        os.kill(server.json("status")["consumer"]["pid"], signal.SIGSTOP)
        yield server
        status = server.json("status")["consumer"]
        os.kill(status["pid"], signal.SIGCONT)


def put(server: Installation, *messages: Message, reason: str = "why not") -> Quarantine:
    quarantine = Quarantine(server.layout.quarantine)
    for message in messages:
        quarantine.put(message, 7, reason)
    return quarantine


def bad(offset: int, body: bytes = b"nonsense", **more: Any) -> Message:
    return Message(offset=offset, status=10, body=body, **more)


def sent(server: Installation, *events: Event) -> None:
    spool = Spool(server.layout.spool)
    spool.append((event.status, event.body) for event in events)

    def done() -> bool:
        consumer = server.json("status")["consumer"]
        return bool(consumer.get("offset") == spool.end())

    until(done, "everything is consumed")


def test_nothing_is_there(server: Installation) -> None:
    server.start()
    for command in ("list", "retry --all", "drop --all"):
        done = server.ctl("quarantine", *command.split())
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout in {"nothing is in quarantine\n", "dropped: 0\n"}
    assert server.json("quarantine", "list") == {"count": 0, "bytes": 0, "messages": []}
    done = server.ctl("quarantine", "show", "5")
    assert done.returncode == 1
    assert done.stderr == ("azaionctl: there is no message '5' in quarantine; `azaionctl quarantine list` shows them\n")
    done = server.ctl("quarantine", "retry", "5")
    assert (done.returncode, done.stderr) == (1, "azaionctl: message 5 is not in quarantine\n")


@pytest.mark.parametrize(
    "command", ["retry", "drop", "retry --all 5", "show", "show ../5", "drop a", "retry 5/6", "list 5", ""]
)
def test_wrong_usage(server: Installation, command: str) -> None:
    done = server.ctl("quarantine", *command.split())
    assert done.returncode == 2
    assert "usage: azaionctl" in done.stderr


def test_mended_and_retried_from_end_to_end(server: Installation) -> None:
    """A record is damaged; what could not be applied for it is, once it is mended."""
    server.start()
    sent(server, EVENTS[0])
    record = server.layout.records / "a.json"
    good = record.read_bytes()
    record.write_text("{", encoding="utf-8")
    sent(server, *EVENTS[1:])
    assert set(quarantined(server.layout)) == {"1", "3"}
    assert server.json("status")["consumer"]["quarantined"] == 2

    done = server.ctl("quarantine", "retry", "1", "3")
    assert (done.returncode, done.stderr) == (1, "")
    one, three = done.stdout.splitlines()
    assert one.startswith("1: the record ")
    assert three.startswith("3: the record ")
    shown = server.json("quarantine", "show", "1")
    assert (shown["attempts"], shown["marked"], shown["damage"], shown["event"]) == (1, False, None, "edited")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown["retried"])

    record.write_bytes(good)
    done = server.ctl("quarantine", "retry", "--all")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1: applied\n3: applied\n", "")
    assert found(server.layout) == expected(EVENTS)
    assert list(server.layout.quarantine.iterdir()) == []
    until(lambda: server.json("status")["consumer"]["quarantined"] == 0, "the consumer counts")
    events = [json.loads(line) for line in server.ctl("--json", "events").stdout.splitlines()]
    asked = [(event["type"], event["text"], event["actor"]) for event in events if "quarantine-" in event["type"]]
    assert asked == [("quarantine-retry", "1, 3", "root")] * 2


def test_asked_for_while_the_consumer_is_away(server: Installation) -> None:
    """The request outlives both: the daemon is killed with it, and the consumer takes it up when it runs."""
    server.start()
    sent(server, created("b", 1))
    put(server, created("a", 1).message(0), bad(1))
    server.kill()
    quarantine = Quarantine(server.layout.quarantine)
    assert quarantine.mark(["0", "1"], "somebody") == ["0", "1"]
    server.start()
    # The second is tried when nothing is left of the first, which a listing may still show while it goes.
    until(lambda: quarantine.get("1").attempts == 1 and not quarantine.marked(), "the retries have ended")
    assert set(found(server.layout)) == {"a", "b"}
    assert quarantine.count() == 1


def test_the_consumer_is_not_running(server: Installation) -> None:
    server.start()
    until(lambda: server.json("status")["consumer"].get("state") == "consuming", "the consumer runs")
    put(server, bad(1))
    # It refuses to start without its root, and the daemon stops asking.
    config = server.layout.config.read_bytes()
    server.layout.config.write_text("{", encoding="utf-8")
    os.kill(server.json("status")["consumer"]["pid"], signal.SIGKILL)
    until(lambda: server.json("status")["consumer"]["service"] == "refused", "the service is refused")
    done = server.ctl("quarantine", "retry", "1")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == (
        "1: not tried yet, as the consumer is not running (refused); it is done when the consumer runs\n"
    )
    assert "to be retried: why not" in server.ctl("quarantine", "list").stdout
    shown = server.ctl("quarantine", "show", "1").stdout
    assert "asked     by root, 20" in shown
    server.layout.config.write_bytes(config)
    # What is asked for in the daemon's absence of a consumer is done by whoever consumes.
    assert [name for name, _ in retry_marked(AnnotationStore(server.layout), server.layout)] == ["1"]
    assert "to be retried" not in server.ctl("quarantine", "list").stdout


def test_the_list(idle: Installation) -> None:
    put(idle, *(bad(number) for number in range(60)), reason="a reason with \x1b[31m colours, and " + "very " * 60)
    put(idle, bad(123456789, b"x" * 3_000_000), bad(123456789012), bad(61, b"", form=Form.FILE))
    Quarantine(idle.layout.quarantine).put(Message(offset=3, status="Gone", body=b"y"), 1_700_000_000_000_000, "late")
    done = idle.ctl("quarantine", "list")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["ID", "TIME", "STATUS", "SIZE", "REASON"]
    assert lines[-3].startswith("3-1700000000000000  20")
    assert "Gone" in lines[-3]
    assert lines[-2] == "64 messages, 2.9 MiB"
    assert lines[-1] == "14 older ones are not shown; --all shows them"
    assert len(lines) == 53
    assert "\x1b" not in done.stdout
    wide = idle.ctl("quarantine", "list", "--all", COLUMNS="200").stdout.splitlines()
    assert len(wide) == 66
    assert 150 < max(map(len, wide)) <= 200
    told = idle.json("quarantine", "list", "-n", "2")
    assert told["count"] == 64
    assert [message["id"] for message in told["messages"]] == ["123456789012", "3-1700000000000000"]
    assert idle.json("quarantine", "list", "-n", "0")["messages"] == []
    assert len(idle.json("quarantine", "list", "--all")["messages"]) == 64


def test_everything_about_one(idle: Installation) -> None:
    names = [f"n{number}" for number in range(30)]
    put(
        idle,
        validated(*names, "../../etc/x", "also/bad").message(1),
        created("pic", 5).message(2),
        bad(3, bytes(range(256)) * 4),
        bad(4, b"junk", form=Form.AMQP),
        bad(5, b"junk", form=Form.BATCH, count=12),
        Message(offset=6, status=10, form=Form.FILE),
        bad(7, b"\x9b" + b"\xdd\xff\xff\xff\xff" * 3),
        bad(8, b"\x94\xdd\x00\x10\x00\x00" + b"\xa0" * (1 << 20) + b"\x1e\xa0\xc0"),
        bad(9, b"\x9b" + b"\x91" * 100_000),
    )
    text = idle.ctl("quarantine", "show", "1").stdout
    assert "status    validated" in text
    assert "decoder   the name '../../etc/x' is a path or hidden" in text
    assert "names     n0, n1, " in text
    assert "n19 and 12 more" in text
    assert "bad name  the name '../../etc/x' is a path or hidden" in text
    assert "bad name  the name 'also/bad' is a path or hidden" in text
    assert re.search(r"^00000000  94 dc 00 20.{36}  .{16}$", text, re.MULTILINE)

    whole = idle.json("quarantine", "show", "2")
    body = created("pic", 5).body
    assert whole["head"] == body[:512].hex()
    assert whole["preview"]["name"] == "pic"
    assert (whole["preview"]["media"], whole["preview"]["extension"]) == ("pic.mp4", ".jpg")
    assert whole["preview"]["decoder"] == "nothing against it"
    assert len(created("pic", 5).image) < whole["preview"]["sizes"]["image"] < len(created("pic", 5).image) + 6
    text = idle.ctl("quarantine", "show", "2").stdout
    assert "name      pic" in text
    assert "detections " in text
    assert max(map(len, text.splitlines())) <= 80

    for number in range(3, 10):
        done = idle.ctl("quarantine", "show", str(number))
        assert (done.returncode, done.stderr) == (0, ""), number
        assert "decoder   " in done.stdout
        assert len(done.stdout) < 6000
    assert "not asked: a field is larger" in idle.ctl("quarantine", "show", "8").stdout
    assert "kind      batch" in idle.ctl("quarantine", "show", "5").stdout
    assert "messages  12" in idle.ctl("quarantine", "show", "5").stdout


def test_a_gigantic_message_is_not_read(idle: Installation) -> None:
    put(idle, bad(1))
    with (idle.layout.quarantine / "1" / "message.bin").open("wb") as stream:
        stream.truncate(1 << 40)
    reason = files.read_json(idle.layout.quarantine / "1" / "reason.json")
    files.write_json(idle.layout.quarantine / "1" / "reason.json", reason | {"bytes": 1 << 40})
    whole = idle.json("quarantine", "show", "1")
    assert whole["bytes"] == 1 << 40
    assert whole["head"] == "00" * 512
    assert "not asked" in whole["preview"]["decoder"]


def test_damaged_entries_and_strangers(idle: Installation) -> None:
    put(idle, bad(1), bad(2), bad(3))
    quarantine = idle.layout.quarantine
    (quarantine / "1" / "reason.json").write_bytes(b"\xff{")
    (quarantine / "2" / "message.bin").unlink()
    (quarantine / "4").symlink_to("/etc")
    (quarantine / "notes").write_text("mine")
    (quarantine / "3" / "retry").mkdir()
    listed = {message["id"]: message for message in idle.json("quarantine", "list")["messages"]}
    assert set(listed) == {"1", "2", "3"}
    assert "damaged" in listed["1"]["reason"]
    assert "gone" in listed["2"]["damage"]
    for name in listed:
        assert idle.ctl("quarantine", "show", name).returncode == 0
    assert idle.ctl("quarantine", "show", "4").returncode == 1
    done = idle.ctl("quarantine", "drop", "1", "2", "4", "77")
    assert done.returncode == 1
    assert done.stdout == "dropped: 2\n"
    assert len(done.stderr.splitlines()) == 2
    assert sorted(path.name for path in quarantine.iterdir()) == ["3", "4", "notes"]
    assert Path("/etc/passwd").is_file()


def test_dropping_is_final(idle: Installation) -> None:
    put(idle, *(bad(number) for number in range(5)))
    assert idle.json("quarantine", "drop", "1", "3") == {"dropped": ["1", "3"], "problems": {}}
    assert idle.ctl("quarantine", "drop", "--all").stdout == "dropped: 3\n"
    assert list(idle.layout.quarantine.iterdir()) == []
    events = [json.loads(line) for line in idle.ctl("--json", "events").stdout.splitlines()]
    asked = [(event["text"], event["actor"]) for event in events if event["type"] == "quarantine-drop"]
    assert asked == [("1, 3", "root"), ("0, 2, 4", "root")]


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 3), (b"y\n", 1), (b"\x04", 3)])
def test_at_a_terminal_it_asks_first(idle: Installation, answer: bytes, left: int) -> None:
    quarantine = put(idle, bad(1), bad(2))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor.ctl", "quarantine", "drop", "--all"],
        cwd=idle.folder,
        env=idle.environment(PYTHONPATH=str(idle.code)),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    os.close(theirs)
    assert process.stdout is not None
    with process.stdout as output:
        said = b""
        while b"[y/N] " not in said:
            said += os.read(output.fileno(), 1000)
        # What comes while the question stands is not part of it.
        put(idle, bad(3))
        os.write(ours, answer)
        said += output.read()
        assert process.wait(20) == (0 if left == 1 else 1)
    os.close(ours)
    assert b"2 messages, 16 B: drop for good?" in said
    assert quarantine.count() == left


def test_whoever_drops_while_somebody_waits(idle: Installation) -> None:
    put(idle, bad(1), bad(2))
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor.ctl", "--json", "quarantine", "retry", "1"],
        cwd=idle.folder,
        env=idle.environment(PYTHONPATH=str(idle.code)),
        stdout=subprocess.PIPE,
    ) as waiting:
        until(lambda: Quarantine(idle.layout.quarantine).get("1").marked, "it is asked for")
        assert idle.ctl("quarantine", "drop", "1").returncode == 0
        assert waiting.stdout is not None
        told = json.loads(waiting.stdout.read())
    assert (told["dropped"], told["applied"], waiting.returncode) == (["1"], [], 1)


def test_many_at_once(server: Installation) -> None:
    server.start()
    until(lambda: server.json("status")["consumer"].get("state") == "consuming", "the consumer runs")
    put(server, *(created(f"n{number}", number).message(number) for number in range(100)), bad(100))
    done = server.ctl("--json", "quarantine", "retry", "--all")
    told = json.loads(done.stdout)
    assert (done.returncode, len(told["applied"]), list(told["failed"])) == (1, 100, ["100"])
    assert len(found(server.layout)) == 100


def test_requests_that_cannot_be_read(idle: Installation) -> None:
    put(idle, bad(5))
    bodies = [b"", b"{", b"[]", b"{}", b'{"ids": "5"}', b'{"ids": [5]}', b'{"all": true, "ids": ["5"]}', b'{"x": 1}']
    for body in (*bodies, b"\xff", b'{"ids": ["' + b"5" * 100 + b'"]}'):
        for action in ("retry", "drop"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(idle.layout.socket))
                head = f"POST /v1/quarantine/{action} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)
                assert b" 400 " in connection.recv(1000), body
    assert not Quarantine(idle.layout.quarantine).get("5").marked


def test_no_request_leads_out_of_the_quarantine(idle: Installation) -> None:
    put(idle, bad(5))
    for name in ("..%2F..%2Fetc", "%2Fetc%2Fpasswd", "5%00", "%2e%2e", "5%0a", "marked%2F"):
        with pytest.raises(ClientError):
            idle.client.get(f"/v1/quarantine/{name}")
    done = idle.client.post("/v1/quarantine/drop", {"ids": ["../../etc", "/etc/passwd", "5/../5"]})
    assert done["dropped"] == []


def test_others_may_look_but_not_change(idle: Installation) -> None:
    """As another user."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    put(idle, bad(1))
    idle.folder.chmod(0o755)
    idle.layout.state.chmod(0o755)
    idle.layout.socket.chmod(0o666)
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from supervisor.control.client import Client, ClientError\n"
        f"client = Client(Path({str(idle.layout.socket)!r}))\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "assert client.get('/v1/quarantine')['count'] == 1\n"
        "for action in ('retry', 'drop'):\n"
        "    try:\n"
        "        client.post('/v1/quarantine/' + action, {'ids': ['1']})\n"
        "    except ClientError as error:\n"
        "        assert 'may look but not change' in str(error), error\n"
        "    else:\n"
        "        sys.exit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=idle.environment(PYTHONPATH=str(idle.code)),
        cwd=idle.code,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not Quarantine(idle.layout.quarantine).get("1").marked


def test_a_late_creation_through_the_daemon(server: Installation) -> None:
    server.start()
    sent(server, created("b", 1), deleted("a"))
    incarnation = Spool(server.layout.spool).incarnation
    assert incarnation is not None
    # As if it had been refused when it came.
    Quarantine(server.layout.quarantine).put(
        Message(offset=0, status=CREATED, body=created("a", 4).body), incarnation, "r"
    )
    assert server.ctl("quarantine", "retry", "0").stdout == "0: applied\n"
    assert found(server.layout)["a"].folder == "data_deleted"
