"""A database of an older version becomes one of this version, whole or not at all."""

import sqlite3
from pathlib import Path

import pytest

from azaion import failpoints
from supervisor.jobs.model import Intent, Kind, Limits, Needs, State, Submission
from supervisor.jobs.store import Store

#: The tables as version 1 made them. History: never change it.
VERSION_1 = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN
        ('queued', 'starting', 'running', 'stopping', 'succeeded', 'failed', 'cancelled')),
    parameters TEXT NOT NULL,
    owner TEXT NOT NULL,
    priority INTEGER NOT NULL,
    key TEXT UNIQUE,
    devices INTEGER NOT NULL,
    attempt_limit INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,
    verified_epoch INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    cause TEXT,
    reason TEXT NOT NULL DEFAULT '',
    intent TEXT CHECK (intent IN ('stop', 'cancel')),
    intent_at REAL,
    grace_s REAL,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    artifacts TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, id);

CREATE TABLE attempts (
    job INTEGER NOT NULL REFERENCES jobs (id),
    number INTEGER NOT NULL,
    nonce TEXT NOT NULL UNIQUE,
    reserved REAL NOT NULL,
    child_pid INTEGER,
    child_start INTEGER,
    started REAL,
    ended REAL,
    exit_code INTEGER,
    cause TEXT,
    resumed_from_epoch INTEGER,
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;
-- A job has one open attempt at the most.
CREATE UNIQUE INDEX one_open_attempt ON attempts (job) WHERE ended IS NULL;

-- The primary key is the promise: no device is leased twice.
CREATE TABLE leases (
    device TEXT PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES jobs (id)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    job INTEGER,
    type TEXT NOT NULL,
    text TEXT NOT NULL,
    actor TEXT NOT NULL
) STRICT;
PRAGMA application_id = 1635410281;
PRAGMA user_version = 1;
"""

#: And as version 2 made them.
VERSION_2 = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN
        ('held', 'queued', 'starting', 'running', 'stopping', 'succeeded', 'failed', 'cancelled')),
    parameters TEXT NOT NULL,
    owner TEXT NOT NULL,
    priority INTEGER NOT NULL,
    key TEXT UNIQUE,
    after INTEGER REFERENCES jobs (id),
    begins REAL NOT NULL DEFAULT 0,
    retry_of INTEGER REFERENCES jobs (id),
    preempt INTEGER NOT NULL DEFAULT 0 CHECK (preempt IN (0, 1)),
    devices INTEGER NOT NULL,
    attempt_limit INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,
    verified_epoch INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    cause TEXT,
    reason TEXT NOT NULL DEFAULT '',
    intent TEXT CHECK (intent IN ('pause', 'stop', 'cancel')),
    intent_at REAL,
    grace_s REAL,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    artifacts TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, id);
CREATE INDEX jobs_by_after ON jobs (after) WHERE after IS NOT NULL
;
CREATE TABLE attempts (
    job INTEGER NOT NULL REFERENCES jobs (id),
    number INTEGER NOT NULL,
    nonce TEXT NOT NULL UNIQUE,
    reserved REAL NOT NULL,
    child_pid INTEGER,
    child_start INTEGER,
    started REAL,
    ended REAL,
    exit_code INTEGER,
    cause TEXT,
    resumed_from_epoch INTEGER,
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_open_attempt ON attempts (job) WHERE ended IS NULL;
CREATE TABLE leases (
    device TEXT PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES jobs (id)
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    job INTEGER,
    type TEXT NOT NULL,
    text TEXT NOT NULL,
    actor TEXT NOT NULL
) STRICT
;
CREATE TABLE facts (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID
;
PRAGMA application_id = 1635410281;
PRAGMA user_version = 2;
"""

CONTENT = """
INSERT INTO jobs (id, uid, kind, name, state, parameters, owner, priority, key, devices, attempt_limit, created)
VALUES (1, 'a', 'train', 'first', 'succeeded', '{"epochs": 3}', 'anna', 5, 'k', 1, 3, 10.0),
       (4, 'b', 'command', 'second', 'running', '{"argv": ["true"]}', 'root', 0, NULL, 1, 1, 20.5),
       (9, 'c', 'command', 'third', 'queued', '{}', 'root', 0, NULL, 0, 1, 30.0);
UPDATE jobs SET intent = 'stop', started = 21.0 WHERE id = 4;
INSERT INTO attempts (job, number, nonce, reserved, child_pid, child_start, started)
VALUES (4, 1, 'n', 20.6, 77, 88, 21.0);
INSERT INTO leases VALUES ('gpu0', 4);
INSERT INTO events (time, job, type, text, actor) VALUES (1.0, 4, 'started', 'pid 77', 'azaiond');
DELETE FROM sqlite_sequence WHERE name = 'jobs';
INSERT INTO sqlite_sequence VALUES ('jobs', 12);
"""


@pytest.fixture(params=[VERSION_1, VERSION_2], ids=["1", "2"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    made = tmp_path / "jobs.sqlite"
    connection = sqlite3.connect(made)
    connection.executescript(request.param + CONTENT)
    connection.close()
    return made


def version(path: Path) -> int:
    connection = sqlite3.connect(path)
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return int(found)


def test_an_older_version_is_taken_over_whole(path: Path) -> None:
    store = Store(path, clock=lambda: 100.0)
    first, second, third = store.jobs()
    assert (first.id, first.kind, first.parameters, first.priority, first.key) == (1, Kind.TRAIN, {"epochs": 3}, 5, "k")
    assert (second.state, second.intent, second.started, second.owner) == (State.RUNNING, Intent.STOP, 21.0, "root")
    assert (third.after, third.begins, third.retry_of) == (None, 0.0, None)
    assert (third.needs, third.limits, third.adjusted) == (Needs(), Limits(), {})
    assert store.leases() == {"gpu0": 4}
    assert store.open_attempt(4).nonce == "n"
    assert [event.type for event in store.events()] == ["started"]
    # A number that was given once is not given again, though its job is the last.
    job = store.submit(Submission(kind=Kind.COMMAND, name="n", parameters={}, owner="o", after=9, held=True))
    assert (job.id >= 10, job.after, job.state) == (True, 9, State.HELD)
    (broken,) = store._connection.execute("SELECT COUNT(*) FROM pragma_foreign_key_check").fetchone()
    assert broken == 0
    store.close()
    assert version(path) == 3


def test_it_has_the_tables_of_a_new_one(path: Path, tmp_path: Path) -> None:
    Store(path).close()
    Store(tmp_path / "new.sqlite").close()

    def tables(of: Path) -> dict[str, list[tuple[object, ...]]]:
        connection = sqlite3.connect(of)
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
        ]
        found = {name: connection.execute(f"PRAGMA table_xinfo({name})").fetchall() for name in names}
        connection.close()
        return found

    assert tables(path) == tables(tmp_path / "new.sqlite")


def test_a_death_on_the_way_leaves_it_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(_: str) -> None:
        raise KeyboardInterrupt

    before = version(path)
    monkeypatch.setattr(failpoints, "hit", die)
    with pytest.raises(KeyboardInterrupt):
        Store(path)
    assert version(path) == before < 3
    monkeypatch.undo()
    store = Store(path)
    assert [job.id for job in store.jobs()] == [1, 4, 9]
    store.close()
