"""The daemon and the command line, as a user meets them."""

import json
import os
import pty
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supervisor import processes
from supervisor.control.client import ClientError, find_socket
from supervisor.jobs import evidence
from tests.installations import Installation, installation
from tests.shims import read
from tests.waiting import until


def test_a_command_from_submit_to_its_log(server: Installation) -> None:
    server.start()
    done = server.ctl("submit", "--name", "greeting", "--wait", "--", "sh", "-c", "echo hello; echo $GREETING; exit 3")
    assert (done.returncode, done.stdout) == (10, "job 1\njob 1 failed: ended with exit code 3\n")
    shown = server.json("show", "1")
    assert (shown["state"], shown["cause"], shown["name"], shown["owner"]) == ("failed", "exit:3", "greeting", "root")
    (attempt,) = shown["attempts"]
    assert attempt["exit_code"] == 3
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", attempt["started"])
    assert server.ctl("logs", "1").stdout == "hello\n\n"
    assert [job["id"] for job in server.json("list")] == [1]
    events = map(json.loads, server.ctl("--json", "events").stdout.splitlines())
    assert [event["type"] for event in events if event.get("job") == 1] == ["submitted", "started", "failed"]


def test_the_callers_folder_path_and_variables_reach_the_command(server: Installation) -> None:
    server.start()
    script = 'pwd; echo "$PATH"; echo "$COLOUR"; test -z "$AZAION_API_PASSWORD"'
    secret = {"AZAION_API_PASSWORD": "x"}
    done = server.ctl(
        "submit",
        "--env",
        "COLOUR=green",
        "--wait",
        "--",
        "sh",
        "-c",
        script,
        PATH="/usr/bin:/bin",
        **secret,
    )
    assert done.returncode == 0, done.stdout
    assert server.ctl("logs", "1").stdout.splitlines() == [str(server.folder), "/usr/bin:/bin", "green"]


def test_status_fits_a_terminal_and_a_script(server: Installation) -> None:
    server.start()
    server.submit("sleep 100", devices=1, name="a name that is rather long " * 5)
    server.submit("true", devices=1)
    server.wait(1, "running")
    screen = server.ctl("status").stdout
    assert max(map(len, screen.splitlines())) <= 80
    assert "needs the CPU slot; held: cpu by job 1" in screen
    status = server.json("status")
    assert status["gpus"] == [{"device": "cpu", "job": 1}]
    assert [job["id"] for job in status["jobs"]["waiting"]] == [2]
    assert status["daemon"]["pid"] == server.daemon.pid if server.daemon else None


def test_status_names_the_first_that_wait_and_counts_the_others(server: Installation) -> None:
    server.start()
    for _ in range(22):
        server.submit("true", devices=5)
    screen = server.ctl("status").stdout.splitlines()
    assert screen[-1] == "  and 2 more; azaionctl list shows them all"
    assert len(screen) < 35


def test_cancel_and_stop(server: Installation) -> None:
    server.start()
    running = server.submit("sleep 1000")
    stubborn = server.submit("trap '' TERM; touch ready; sleep 1000")
    waiting = server.submit("true", devices=5)
    server.wait(running, "running")
    until((server.folder / "ready").exists, "the stubborn one is ready")
    assert server.json("cancel", str(waiting))["state"] == "cancelled"
    assert server.ctl("stop", str(running)).returncode == 0
    assert server.ctl("cancel", "--now", str(stubborn)).returncode == 0
    assert server.ctl("wait", str(running)).returncode == 11
    job = server.wait(stubborn)
    assert (job["state"], job["cause"]) == ("cancelled", "cancelled")
    assert read(server.attempt(stubborn).exit)["killed"] is True
    refused = server.ctl("cancel", str(running))
    assert (refused.returncode, refused.stderr) == (
        1,
        "azaionctl: job 1 is cancelled and cannot become stopping; it has ended, and that is final\n",
    )


def test_logs_follow_a_run_to_its_end(server: Installation) -> None:
    server.start()
    server.submit("for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")
    assert server.ctl("logs", "-f", "1").stdout == "1\n2\n3\n4\n5\n"


def test_a_job_comes_after_another_and_is_cancelled_with_it(server: Installation) -> None:
    server.start()
    gate = server.folder / "gate"
    first = server.submit(f"until [ -e {gate} ]; do sleep 0.05; done; exit $(cat {gate})")
    then = int(server.ctl("submit", "--gpu", "0", "--after", str(first), "--", "true").stdout)
    last = int(server.ctl("submit", "--gpu", "0", "--after", str(then), "--hold", "--", "true").stdout)
    assert server.json("show", str(then))["reason"] == f"comes after job {first}, which is running"
    assert f"comes after job {first}" in server.ctl("status").stdout
    gate.write_text("3")
    assert server.wait(last)["state"] == "cancelled"
    assert server.job(then)["reason"] == f"job {first}, which it was to come after, has failed"
    refused = server.ctl("submit", "--after", str(first), "--", "true")
    assert (refused.returncode, "would never start" in refused.stderr) == (1, True)
    gate.unlink()
    again = int(server.ctl("retry", str(first)).stdout)
    assert server.job(again)["retry_of"] == first
    then = int(server.ctl("submit", "--gpu", "0", "--after", str(again), "--", "true").stdout)
    gate.write_text("0")
    assert server.wait(then)["state"] == "succeeded"
    assert server.ctl("retry", str(again)).returncode == 0


def test_hold_release_priority_and_a_time_to_begin(server: Installation) -> None:
    server.start()
    held = int(server.ctl("submit", "--gpu", "0", "--hold", "--", "true").stdout)
    assert server.json("show", str(held))["state"] == "held"
    assert "held by" in server.ctl("list").stdout
    assert "held by" in server.ctl("status").stdout
    assert server.ctl("priority", str(held), "9").stdout == f"job {held} has priority 9\n"
    assert server.ctl("release", str(held)).stdout == f"job {held} is queued\n"
    assert server.wait(held)["priority"] == 9
    for command in ("hold", "release"):
        refused = server.ctl(command, str(held))
        assert (refused.returncode, f"job {held} is succeeded" in refused.stderr) == (1, True)
    later = int(server.ctl("submit", "--gpu", "0", "--begin", "+1d", "--", "true").stdout)
    assert server.job(later)["reason"].startswith("begins at 20")
    assert server.ctl("submit", "--begin", "yesterday", "--", "true").returncode == 2
    assert server.ctl("retry", str(later)).returncode == 1
    soon = int(server.ctl("submit", "--gpu", "0", "--begin", "+1s", "--", "true").stdout)
    assert server.wait(soon)["state"] == "succeeded"
    # A restart forgets none of it.
    server.kill()
    server.start()
    assert server.job(later)["state"] == "queued"
    assert server.job(later)["begins"] is not None
    assert server.ctl("cancel", str(later)).returncode == 0


def test_the_same_key_files_one_job(server: Installation) -> None:
    server.start()
    first = server.json("submit", "--key", "nightly", "--", "true")
    assert server.json("submit", "--key", "nightly", "--", "true")["id"] == first["id"]


def test_the_daemon_stops_in_an_instant_and_leaves_the_run_alone(server: Installation) -> None:
    server.start()
    number = server.submit("sleep 3; exit 4")
    server.wait(number, "running")
    pid = server.job(number)["attempts"][0]["pid"]
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 10
    assert processes.identify(pid) is not None
    server.start()
    job = server.wait(number)
    assert (len(job["attempts"]), job["attempts"][0]["pid"], job["attempts"][0]["exit_code"]) == (1, pid, 4)


def test_a_wait_outlives_a_restart_of_the_daemon(server: Installation) -> None:
    server.start()
    number = server.submit("sleep 2; exit 0")
    waiting = subprocess.Popen(
        [sys.executable, "-m", "supervisor.ctl", "wait", str(number)],
        env=server.environment(PYTHONPATH=str(Path(__file__).parents[2])),
        stdout=subprocess.DEVNULL,
    )
    server.wait(number, "running")
    server.kill()
    server.start()
    assert waiting.wait(timeout=30) == 0


def test_nobody_who_has_slipped_away_keeps_what_a_job_had(server: Installation) -> None:
    """In a session of its own, and with an environment that tells nothing of the job."""
    server.start()
    pid = server.folder / "pid"
    slips = f"setsid env -i sh -c 'echo $$ > {pid}; exec sleep 1000' &"
    number = server.submit(f"{slips} until test -s {pid}; do sleep 0.02; done")
    assert server.wait(number)["state"] == "succeeded"
    assert processes.identify(int(pid.read_text())) is None
    assert not evidence.held(server.attempt(number))


def test_a_second_daemon_is_refused(server: Installation) -> None:
    server.start()
    first, told = server.daemon, server.layout.config.read_bytes()
    # Whatever it has been told otherwise, it changes nothing of what the first one's children will read.
    server.variables |= {"TRAINING_EPOCHS": "7", "AZAION_DATA_DIR": "elsewhere"}
    second = server.launch()
    server.daemon = first
    assert second.wait(timeout=20) == 1
    assert "another azaiond works with" in (server.folder / "azaiond.log").read_text(encoding="utf-8")
    assert server.answers()
    assert server.layout.config.read_bytes() == told
    assert not (server.root / "elsewhere").exists()


def test_a_bad_configuration_ends_with_78_and_names_everything(server: Installation) -> None:
    server.variables["TRAINING_EPOCHS"] = "many"
    del server.variables["TRAINING_MODEL"]
    daemon = server.launch()
    assert daemon.wait(timeout=20) == 78
    said = (server.folder / "azaiond.log").read_text(encoding="utf-8")
    checked = server.ctl("config", "check")
    assert checked.returncode == 1
    assert "TRAINING_EPOCHS" in said
    assert "TRAINING_MODEL" in said
    assert (
        said.removeprefix("azaiond: ").splitlines()[1:] == checked.stderr.removeprefix("azaionctl: ").splitlines()[1:]
    )


def test_an_absent_root_is_refused_and_never_made(server: Installation) -> None:
    server.layout.classes.unlink()
    server.root.rmdir()
    daemon = server.launch()
    assert daemon.wait(timeout=20) == 78
    assert "AZAION_ROOT_DIR" in (server.folder / "azaiond.log").read_text(encoding="utf-8")
    assert not server.root.exists()


# On a machine that systemd runs, its units are not installed.
@pytest.mark.parametrize("launcher", ["slurm", "systemd"])
def test_a_launcher_that_is_not_there_is_refused_and_never_swapped(server: Installation, launcher: str) -> None:
    server.variables["AZAION_LAUNCHER"] = launcher
    assert server.launch().wait(timeout=20) == 78
    assert f"azaiond: AZAION_LAUNCHER={launcher}: " in (server.folder / "azaiond.log").read_text(encoding="utf-8")


def test_a_database_of_a_newer_version_is_refused_untouched(server: Installation) -> None:
    server.start()
    server.submit("true")
    server.wait(1)
    assert server.stop() == 0
    connection = sqlite3.connect(server.layout.database)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = server.layout.database.read_bytes()
    assert server.launch().wait(timeout=20) == 1
    assert "newer azaion" in (server.folder / "azaiond.log").read_text(encoding="utf-8")
    assert server.layout.database.read_bytes() == before


def test_a_daemon_that_is_away_is_told_with_4(server: Installation) -> None:
    for command in (["status"], ["list"], ["submit", "--", "true"], ["logs", "1"]):
        assert server.ctl(*command).returncode == 4
    assert "start it with `azaiond`" in server.ctl("status").stderr


def test_the_socket_is_the_owners_and_the_groups(server: Installation) -> None:
    server.start()
    assert stat.S_IMODE(server.layout.socket.stat().st_mode) == 0o660


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_stranger_may_not_even_look_and_the_group_may_not_change(server: Installation) -> None:
    server.folder.chmod(0o755)
    server.layout.state.mkdir(exist_ok=True)
    server.layout.state.chmod(0o755)
    server.start()

    def ask(group: int) -> list[str]:
        """What a process of another user, in this group, is told."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setgid(group)
            os.setuid(65534)
            for body in (None, {"kind": "command", "argv": ["true"], "cwd": "/", "env": {}}):
                try:
                    server.client.post("/v1/jobs", body) if body else server.client.get("/v1/status")
                    os.write(writing, b"fine\n")
                except ClientError as error:
                    os.write(writing, f"{error}\n".encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(pid, 0)
        with os.fdopen(reading) as stream:
            return stream.read().splitlines()

    assert all("you may not open" in line for line in ask(65534))
    looked, changed = ask(0)
    assert looked == "fine"
    assert "may look but not change anything" in changed
    assert server.client.get("/v1/jobs") == []


HOSTILE = [
    b"",
    b"{",
    b"null",
    b"[" * 100_000,
    b'{"kind": "command"}',
    b'{"kind": "deploy"}',
    b'{"kind": "command", "argv": [], "cwd": "/", "env": {}}',
    b'{"kind": "command", "argv": ["true"], "cwd": "relative", "env": {}}',
    b'{"kind": "command", "argv": ["a\\u0000b"], "cwd": "/", "env": {}}',
    b'{"kind": "command", "argv": ["true"], "cwd": "/", "env": {"A=B": "c"}}',
    b'{"kind": "command", "argv": ["true"], "cwd": "/", "env": {}, "devices": -1}',
    b'{"kind": "command", "argv": ["true"], "cwd": "/", "env": {}, "priority": 1e99}',
    b'{"kind": "command", "argv": ["true"], "cwd": "/", "env": {}, "unknown": 1}',
    b'{"kind": "train", "epochs": 0}',
    b'{"kind": "train", "epochs": "3"}',
    b'{"kind": "train", "imgsz": 97}',
    b'{"kind": "train", "batch": 5, "devices": 2}',
    b'{"kind": "train", "dataset": "../../etc"}',
    b'{"kind": "train", "dataset": "azaion-1999-01-01"}',
    b'{"kind": "train", "model": "absent.pt"}',
    b'{"kind": "train", "model": "/absent.pt"}',
    b"\xff" * 100,
]


def test_hostile_requests_are_refused_with_a_reason_and_harm_nothing(server: Installation) -> None:
    server.start()

    def post(path: str, body: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(10)
            raw.connect(str(server.layout.socket))
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            raw.sendall(head.encode() + body)
            answer = b""
            while data := raw.recv(65536):
                answer += data
            return answer

    for body in HOSTILE:
        answer = post("/v1/jobs", body)
        assert answer.startswith(b"HTTP/1.1 400"), (body[:60], answer)
        assert b'"error"' in answer
    assert post("/v1/jobs", b" " * (2 << 20)).startswith(b"HTTP/1.1 400")
    for path in ("/v1/jobs/0/cancel", "/v1/jobs/-1/cancel", "/v1/jobs/x/stop", f"/v1/jobs/{10**30}/cancel"):
        assert post(path, b"").startswith((b"HTTP/1.1 400", b"HTTP/1.1 404")), path
    assert server.client.get("/v1/jobs") == []
    assert "Traceback" not in (server.folder / "azaiond.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["show", "x"], 2),
        (["show", "99"], 1),
        (["submit"], 2),
        (["submit", "--env", "novalue", "--", "true"], 2),
        (["submit-train", "--epochs", "many"], 2),
        (["submit-train", "--set", "lr0"], 2),
        (["list", "--state", "sleeping"], 1),
        (["nonsense"], 2),
        ([], 2),
    ],
)
def test_bad_usage_is_told_in_a_line(server: Installation, arguments: list[str], code: int) -> None:
    server.start()
    done = server.ctl(*arguments)
    assert done.returncode == code
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("{} logs 1 | head -1 > out; exit ${{PIPESTATUS[0]}}", 0, ""),
        ("{} list > /dev/full", 1, "No space left on device"),
        ("{} logs 1 > /dev/full", 1, "No space left on device"),
        ("mkdir gone; cd gone; rmdir ../gone; {} submit -- true", 1, "the current folder has been removed"),
        ("{} logs --attempt 99 1", 1, "has no attempt 99"),
        ("{} submit-train --no-evaluate --no-export --set lr0=$(printf '[%.0s' $(seq 5000))", 0, ""),
        ("{} --socket /$(printf 'x%.0s' $(seq 200)) status", 4, "too long for a socket"),
        ("PYTHONIOENCODING=ascii {} list", 0, ""),
    ],
)
def test_the_surroundings_of_a_command_are_told_in_a_line(
    server: Installation, script: str, code: int, said: str
) -> None:
    server.start()
    server.wait(server.submit("yes | head -100000", name="\u00e9" * 40))
    done = subprocess.run(
        ["bash", "-c", script.format(f"{sys.executable} -m supervisor.ctl")],  # noqa: S607 - wherever it lies
        cwd=server.folder,
        env=server.environment(PYTHONPATH=str(Path(__file__).parents[2])),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1 if said else 0), done.stderr
    assert said in done.stderr


def test_no_answer_to_the_question_leaves_the_job_alone(server: Installation) -> None:
    server.start()
    number = server.submit("sleep 1000")
    server.wait(number, "running")
    ours, theirs = pty.openpty()
    asking = subprocess.Popen(
        [sys.executable, "-m", "supervisor.ctl", "cancel", str(number)],
        env=server.environment(PYTHONPATH=str(Path(__file__).parents[2])),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(ours, b"\x04")
    said, complained = asking.communicate(timeout=30)
    os.close(ours)
    os.close(theirs)
    assert (asking.returncode, said.splitlines()[-1], complained) == (1, "left alone", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_command_from_a_folder_that_is_out_of_reach(server: Installation) -> None:
    """As `sudo -u azaion azaionctl` in the home of root is."""
    server.folder.chmod(0o700)
    pid = os.fork()
    if pid == 0:
        os.chdir(server.folder)
        os.setgid(65534)
        os.setuid(65534)
        try:
            find_socket(None)
        finally:
            os._exit(sys.exc_info()[0] is not None)
    assert os.waitpid(pid, 0)[1] == 0


def test_what_a_job_is_told_and_says_is_not_for_everybody(server: Installation) -> None:
    server.start()
    number = server.submit("echo secret", env={"TOKEN": "secret"})
    server.wait(number)
    attempt = server.attempt(number)
    wal = server.layout.database.with_name("jobs.sqlite-wal")
    for path in (server.layout.database, wal, attempt.spec, attempt.log):
        assert not path.stat().st_mode & stat.S_IRWXO, path


def test_status_says_that_the_root_has_gone(server: Installation) -> None:
    server.start()
    server.root.rename(server.folder / "unmounted")
    done = server.ctl("status")
    (server.folder / "unmounted").rename(server.root)
    assert done.returncode == 0, done.stderr
    assert f"disk      {server.root}: out of reach (No such file or directory)" in done.stdout


def test_a_cancel_that_overtakes_the_start_is_obeyed_at_once(server: Installation) -> None:
    server.start()
    number = server.submit("sleep 1000")
    server.client.post(f"/v1/jobs/{number}/cancel", query={"now": 1})
    assert server.wait(number, limit_s=5.0)["state"] == "cancelled"


def test_a_service_that_cannot_be_started_ends_nothing(server: Installation) -> None:
    server.layout.consumer_log.mkdir(parents=True)
    server.start()
    assert server.wait(server.submit("true"))["state"] == "succeeded"
    assert server.json("status")["consumer"]["service"] == "waiting"


def test_a_socket_path_that_is_too_long_is_told() -> None:
    with installation(AZAION_SOCKET="/" + "x" * 200) as made:
        assert made.launch().wait(timeout=20) == 78
        assert "AZAION_SOCKET" in (made.folder / "azaiond.log").read_text(encoding="utf-8")


def test_something_else_at_the_sockets_place_is_left_alone(server: Installation) -> None:
    server.layout.state.mkdir(parents=True)
    server.layout.socket.write_text("mine")
    assert server.launch().wait(timeout=20) == 1
    assert server.layout.socket.read_text() == "mine"


def test_events_are_followed_as_they_happen(server: Installation) -> None:
    # A shell starts what it runs in the background with interrupts ignored, and everything below inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    server.start()
    following = subprocess.Popen(
        [sys.executable, "-m", "supervisor.ctl", "--json", "events", "-f"],
        env=server.environment(PYTHONPATH=str(Path(__file__).parents[2])),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    # Which of the first submits is seen depends on when the follower is connected.
    number = 0

    def seen() -> bool:
        nonlocal number
        number = server.submit("true")
        return bool(server.wait(number)["state"] == "succeeded")

    until(seen, "a job has succeeded")
    time.sleep(0.5)
    until(seen, "another job has succeeded")
    for line in following.stdout:
        event = json.loads(line)
        if event["job"] == number and event["type"] == "succeeded":
            break

    following.send_signal(signal.SIGINT)
    assert following.wait(timeout=10) == 130
    following.stdout.close()
