"""Retention and the audit, with a daemon."""

import fcntl
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor import processes
from supervisor.control.client import ClientError
from tests import aged
from tests.installations import Installation, installation
from tests.waiting import until

#: No run and no dataset is kept for being new.
STRICT = {"RETENTION_RUN_COUNT": "0", "RETENTION_FREE_GB": "0"}


@pytest.fixture
def strict() -> Iterator[Installation]:
    with installation(**STRICT) as server:
        yield server


def newest_datasets(server: Installation) -> list[Path]:
    """Those that are kept because they are the newest."""
    return [aged.dataset(server, f"azaion-2030-01-0{number}") for number in (1, 2, 3)]


def restart(server: Installation, failpoints: str = "") -> None:
    server.start(failpoints)
    until(lambda: server.json("retention")["last"], "the first round is over")


def events(server: Installation, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.ctl("--json", "events", "--all", *arguments).stdout.splitlines()]


def emptied(server: Installation) -> None:
    until(lambda: not [entry for place in trash(server) for entry in place.iterdir()], "the trash is empty")


def trash(server: Installation) -> list[Path]:
    places = [server.layout.trash(folder) for folder in server.layout.prunable]
    return [place for place in places if place.exists()]


def test_nothing_is_due_on_a_new_server(server: Installation) -> None:
    restart(server)
    told = server.json("retention")
    assert (told["due"], told["referred"], told["stuck"]) == ([], [], [])
    assert {rule["name"]: rule["value"] for rule in told["rules"]}["RETENTION_RUN_DAYS"] == 30
    done = server.ctl("retention")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^RETENTION_DATASET_DAYS +30 +Days for which ", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("nothing is due now\n")
    done = server.ctl("retention", "run")
    assert (done.returncode, done.stdout) == (0, "nothing was due\n")


def test_removed_at_the_start_and_told(strict: Installation) -> None:
    server = strict
    server.start()
    old, young = aged.ended_job(server), aged.ended_job(server)
    plain = aged.ended_job(server, run=False)
    server.stop()
    aged.age_jobs(server, 31, old)
    aged.age_jobs(server, 91, plain)
    kept = newest_datasets(server)
    data = aged.dataset(server, "azaion-2020-01-01")
    copy = aged.corrupted(server, "bad.jpg")
    restart(server)
    emptied(server)
    assert (aged.folder(server, old) / "1").is_dir()
    assert not (aged.folder(server, old) / "run").exists()
    assert (aged.folder(server, young) / "run").exists()
    assert list(server.layout.jobs.glob(f"{plain}-*")) == []
    assert (data.exists(), copy.exists(), [path.exists() for path in kept]) == (False, False, [True] * 3)

    done = server.ctl("logs", str(plain))
    assert done.returncode == 1
    assert f"azaionctl: the logs of job {plain} were removed by retention at 20" in done.stderr
    assert "91 days old, kept for 90 (RETENTION_ATTEMPT_DAYS)" in done.stderr
    assert server.ctl("logs", str(old)).stdout == "hello\n"
    shown = server.json("show", str(old))
    assert (shown["state"], list(shown["removed"])) == ("succeeded", ["run"])
    assert "removed   run, 20" in server.ctl("show", str(old)).stdout
    told = {(event["job"], event["actor"], event["text"]) for event in events(server, "--type", "removed")}
    assert (old, "azaiond", "run: 31 days old, kept for 30 (RETENTION_RUN_DAYS)") in told
    assert (None, "azaiond", "dataset azaion-2020-01-01: 100 days old, kept for 30 (RETENTION_DATASET_DAYS)") in told


def test_by_hand(strict: Installation) -> None:
    server = strict
    newest_datasets(server)
    restart(server)
    number = aged.ended_job(server)
    data = aged.dataset(server, "azaion-2020-01-01")
    (due,) = server.json("retention")["due"]
    assert (due["kind"], due["path"], due["action"]) == ("dataset", str(data), "remove")
    assert due["bytes"] == due["frees"] > 6 * 3000
    assert aged.whole(data)
    done = server.json("retention", "run")
    assert [record["path"] for record in done["removed"]] == [str(data)]
    emptied(server)
    assert not data.exists()
    (event,) = events(server, "--type", "removed")
    assert (event["actor"], event["uid"], event["outcome"]) == ("root", os.getuid(), "done")
    assert (aged.folder(server, number) / "run").exists()


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 1), (b"y\n", 0)], ids=["no", "yes"])
def test_asks_at_a_terminal(strict: Installation, answer: bytes, left: int) -> None:
    server = strict
    newest_datasets(server)
    restart(server)
    data = aged.dataset(server, "azaion-2020-01-01")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor.ctl", "retention", "run"],
        cwd=server.folder,
        env=server.environment(PYTHONPATH=str(server.code)),
        stdin=theirs,
        stdout=subprocess.PIPE,
    ) as process:
        os.close(theirs)
        os.write(ours, answer)
        said, _ = process.communicate(timeout=30)
    os.close(ours)
    assert b"1 thing, " in said
    assert b": remove for good? [y/N] " in said
    assert (process.returncode, data.exists()) == (left, bool(left))


def test_what_somebody_refers_to_stays(strict: Installation) -> None:
    """However old: for a model, a job that waits, one that runs, a link, a process that lives on."""
    server = strict
    restart(server)
    newest_datasets(server)
    for_model, for_job, formed, for_nobody = (
        aged.dataset(server, f"azaion-2020-01-0{number}") for number in (1, 2, 3, 4)
    )
    aged.model(server, "azaion-2021-01-01", dataset={"name": for_model.name})
    numbers = [aged.ended_job(server) for _ in range(6)]
    before, read, linked, based, locked, free = numbers
    runs = {number: aged.folder(server, number) / "run" for number in numbers}
    body = {"kind": "train", "hold": True}
    server.client.post("/v1/jobs", body | {"dataset": for_job.name})
    waiting = server.client.post("/v1/jobs", body)["id"]
    server.submit("true", after=before, hold=True)
    server.submit(f"cat {runs[read]}/train/results.csv; sleep 60")
    (server.root / "base.pt").symlink_to(runs[linked] / "train" / "weights" / "best.pt")
    aged.model(server, "azaion-2021-01-02", lineage={"base": {"path": str(runs[based] / "train/weights/best.pt")}})
    server.stop()
    aged.age_jobs(server, 1000, *numbers)
    connection = sqlite3.connect(server.layout.database)
    (key,) = connection.execute("SELECT uid FROM jobs WHERE id = ?", (waiting,)).fetchone()
    connection.close()
    aged.dataset(server, formed.name, key=key)
    with (aged.folder(server, locked) / "1" / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        restart(server)
        emptied(server)
        assert {number: runs[number].exists() for number in numbers} == {
            **dict.fromkeys(numbers, True),
            free: False,
        }
        assert [aged.whole(path) for path in (for_model, for_job, formed)] == [True] * 3
        assert not for_nobody.exists()
        why = {record["path"]: record["reason"] for record in server.json("retention")["referred"]}
        assert why[str(for_model)] == "model azaion-2021-01-01 refers to it"
        assert why[str(for_job)] == "job 7 refers to it"
        assert why[str(formed)] == f"job {waiting} refers to it"
        assert why[str(runs[before])] == "job 9 refers to it"
        assert why[str(runs[read])] == "job 10 refers to it"
        assert why[str(runs[linked])] == f"{server.root}/base.pt leads there"
        assert why[str(runs[based])] == "model azaion-2021-01-02 refers to it"
        done = server.ctl("retention", "run")
        assert done.returncode == 1
        assert f"a process of job {locked} still lives" in done.stderr
    # A card that nobody can read might refer to any dataset.
    another = aged.dataset(server, "azaion-2020-02-02")
    (server.layout.models / "azaion-2021-01-01" / "model.json").write_text("{")
    assert server.json("retention", "run")["problems"] == []
    assert another.exists()


def test_a_link_is_never_followed(strict: Installation) -> None:
    server = strict
    server.start()
    treasure = aged.write(server.folder / "elsewhere" / "treasure").parent
    newest_datasets(server)
    inside, itself = aged.ended_job(server), aged.ended_job(server, run=False)
    (aged.folder(server, inside) / "run" / "link").symlink_to(treasure)
    (aged.folder(server, inside) / "run" / "file").symlink_to(treasure / "treasure")
    (aged.folder(server, itself) / "run").symlink_to(treasure)
    (server.layout.datasets / "azaion-2020-01-01").symlink_to(treasure)
    (server.layout.corrupted / "bad.jpg").symlink_to(treasure)
    locked = aged.folder(server, inside) / "run" / "locked"
    aged.write(locked / "deep" / "file")
    (locked / "deep").chmod(0)
    locked.chmod(0)
    server.stop()
    aged.age_jobs(server, 40, inside, itself)
    restart(server)
    emptied(server)
    assert not os.path.lexists(aged.folder(server, inside) / "run")
    assert not os.path.lexists(aged.folder(server, itself) / "run")
    assert (treasure / "treasure").read_text() == "x"
    assert (server.layout.datasets / "azaion-2020-01-01").is_symlink()


def test_a_job_submitted_meanwhile_keeps_its_dataset_or_is_refused(strict: Installation) -> None:
    """The oldest go first, and the newest are asked for first: in the middle the two meet."""
    server = strict
    newest_datasets(server)
    restart(server)
    names = [f"azaion-2020-01-01-{number}" for number in range(1, 121)]
    for number, name in enumerate(names):
        aged.dataset(server, name, days=300.0 - number)
    removing = threading.Thread(target=lambda: server.client.post("/v1/retention/run"))
    removing.start()
    kept, refused = [], []
    for name in reversed(names):
        try:
            server.client.post("/v1/jobs", {"kind": "train", "dataset": name, "hold": True})
            kept.append(name)
        except ClientError as error:
            refused.append((name, str(error)))
    removing.join()
    emptied(server)
    print(f"{len(kept)} kept, {len(refused)} refused")
    assert kept
    assert refused
    assert [name for name in kept if not aged.whole(server.layout.datasets / name)] == []
    for name, told in refused:
        assert f"there is no dataset '{name}' in " in told
        assert not (server.layout.datasets / name).exists()


def test_a_retry_whose_dataset_is_gone_is_refused(strict: Installation) -> None:
    server = strict
    server.start()
    data = aged.dataset(server, "azaion-2020-01-01")
    number = server.client.post("/v1/jobs", {"kind": "train", "dataset": data.name, "hold": True})["id"]
    server.client.post(f"/v1/jobs/{number}/cancel")
    data.rename(data.with_name("away"))
    done = server.ctl("retry", str(number))
    assert (done.returncode, "there is no dataset 'azaion-2020-01-01'" in done.stderr) == (1, True)


def test_a_dataset_that_is_being_formed_keeps_all_in_place(strict: Installation) -> None:
    server = strict
    newest_datasets(server)
    restart(server)
    data = aged.dataset(server, "azaion-2020-01-01")
    with server.layout.datasets_lock.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = server.ctl("retention", "run")
        assert (done.returncode, "a dataset is being formed" in done.stderr) == (1, True)
        assert aged.whole(data)
    assert server.ctl("retention", "run").returncode == 0
    assert not data.exists()


def test_the_log_of_a_run_that_writes_without_end(server: Installation) -> None:
    server.variables["RETENTION_LOG_LIMIT_MB"] = "1"
    server.start()
    number = server.submit("echo begin; yes 0123456789 | head -c 20000000; echo; echo end; exec sleep 60")
    job = server.wait(number, "running")
    log = server.attempt(number).log
    until(lambda: log.exists() and log.stat().st_size > 20_000_000, "it has written")
    until(lambda: log.stat().st_blocks * 512 < 1_000_000, "its log is cut")
    assert log.stat().st_size > 20_000_000
    said = server.ctl("logs", str(number)).stdout
    head, note, rest = re.split(r"\n(\[azaion: .*\])\n", said)
    assert head.startswith("begin\n0123456789\n")
    assert note.endswith(" bytes are not kept here any more]")
    assert len(head) + len(rest) + int(note.split()[1]) == log.stat().st_size
    assert len(rest) >= 500_000
    assert rest.endswith("012345678\nend\n")
    assert "\0" not in said
    # Nothing has touched the run.
    assert server.job(number)["attempts"][0]["pid"] == job["attempts"][0]["pid"]
    assert processes.identify(job["attempts"][0]["pid"])
    (event,) = events(server, "--type", "log-cut")
    assert event["job"] == number


def test_the_large_log_of_an_attempt_that_has_ended(server: Installation) -> None:
    server.variables["RETENTION_LOG_MB"] = "1"
    server.start()
    number = server.submit("yes 0123456789 | head -c 5000000; echo; echo end")
    server.wait(number)
    log = server.attempt(number).log
    server.stop()
    aged.age_jobs(server, 8, number)
    restart(server)
    assert log.stat().st_blocks * 512 < 300_000
    assert server.ctl("logs", str(number)).stdout.endswith("\nend\n")
    assert server.json("retention")["due"] == []


def test_a_disk_that_is_nearly_full_is_told_once(server: Installation) -> None:
    server.variables["RETENTION_FREE_GB"] = "1000000"
    server.start()
    (event,) = until(lambda: events(server, "--type", "disk-low"), "it is told")
    assert "less than 1000000 GB are free" in event["text"]


def test_old_events_are_forgotten(server: Installation) -> None:
    server.start()
    server.wait(server.submit("true"))
    server.stop()
    connection = sqlite3.connect(server.layout.database)
    connection.execute("UPDATE events SET time = time - 400 * 86400 WHERE type = 'submitted'")
    connection.execute("UPDATE events SET time = time - 300 * 86400 WHERE type = 'started'")
    connection.commit()
    connection.close()
    # The oldest go, as far as they are old in a row.
    restart(server)
    kinds = [event["type"] for event in events(server)]
    assert ("submitted" in kinds, "started" in kinds) == (False, True)


# The audit.


def as_nobody(server: Installation, *paths: str, times: int = 1) -> list[str]:
    """What another user who may open the socket is told."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(0)
        os.setuid(65534)
        for path in paths * times:
            try:
                server.client.post(path)
                os.write(writing, b"fine\n")
            except ClientError as error:
                os.write(writing, f"{error}\n".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        told = stream.read().splitlines()
    os.waitpid(pid, 0)
    return told


def test_every_change_that_is_asked_for_is_recorded(server: Installation) -> None:
    server.start()
    number = server.submit("true")
    server.wait(number)
    for arguments in (("hold", "1"), ("retry", "99"), ("priority", "1", "5"), ("release", "1")):
        assert server.ctl(*arguments).returncode == 1
    held = server.submit("true", hold=True)
    assert server.ctl("hold", str(held)).returncode == 0
    with pytest.raises(ClientError):
        server.client.post("/v1/nonsense%0A%1B[31m")
    mine = events(server, "--actor", str(os.getuid()))
    assert [(event["type"], event["job"], event["outcome"]) for event in mine] == [
        ("submitted", 1, "done"),
        ("refused", 1, "refused"),
        ("refused", 99, "refused"),
        ("refused", 1, "refused"),
        ("refused", 1, "refused"),
        ("submitted", 2, "done"),
        ("asked", 2, "nothing changed"),
        ("refused", None, "refused"),
    ]
    assert all((event["uid"], event["actor"]) == (os.getuid(), "root") for event in mine)
    assert mine[1]["text"] == (
        "POST /v1/jobs/1/hold: job 1 is succeeded and cannot become held; it has ended, and that is final"
    )
    assert mine[-1]["text"].startswith("POST /v1/nonsense??[31m: ")
    assert [event["type"] for event in events(server, "--job", "2")] == ["submitted", "asked"]
    before = events(server)
    # The consumer may have something to tell in between.
    assert events(server, "--since", "1h")[: len(before)] == before
    assert events(server, "--since", "2199-01-01") == []
    assert server.ctl("events", "--since", "yesterday").returncode == 2
    line = server.ctl("events", "--type", "asked").stdout
    assert line.endswith("nothing was to be changed  (root, uid 0)\n")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_who_may_not_change_anything_is_recorded_ten_times_a_minute(server: Installation) -> None:
    server.start()
    server.folder.chmod(0o755)
    number = server.submit("sleep 60")
    told = as_nobody(server, "/v1/retention/run", f"/v1/jobs/{number}/cancel", times=50)
    assert len(told) == 100
    assert all("may look but not change anything" in line for line in told)
    assert server.job(number)["state"] != "cancelled"
    refused = events(server, "--actor", "65534")
    assert len(refused) == 10
    assert {(event["type"], event["outcome"], event["uid"]) for event in refused} == {("refused", "refused", 65534)}
    assert refused[0]["text"].startswith("POST /v1/retention/run: nobody may look but not change anything")


@pytest.mark.parametrize("name", ["..", "../models", ".", "azaion-2020-01-01/../.."])
def test_no_dataset_is_looked_for_elsewhere(strict: Installation, name: str) -> None:
    strict.start()
    aged.dataset(strict, "azaion-2020-01-01")
    with pytest.raises(ClientError, match="there is no dataset"):
        strict.client.post("/v1/jobs", {"kind": "train", "dataset": name, "hold": True})
