"""The tables of the state database, and how those of an older version become those of this one."""

import sqlite3
from pathlib import Path
from typing import Final

from azaion import failpoints
from supervisor.jobs.model import JobError

#: In the header of the file, so that another program's database is not taken for ours ("azai").
APPLICATION_ID: Final = 0x617A6169
SCHEMA_VERSION: Final = 3

_JOBS: Final = """
CREATE TABLE {name} (
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
    -- The first job of its chain, for each that is a part of one, the first included.
    chain INTEGER REFERENCES jobs (id),
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
    artifacts TEXT NOT NULL DEFAULT '{{}}',
    -- As JSON: what must be free before it starts, what it may use, and what has been changed for its next attempt.
    needs TEXT NOT NULL DEFAULT '{{}}',
    limits TEXT NOT NULL DEFAULT '{{}}',
    adjusted TEXT NOT NULL DEFAULT '{{}}',
    ran_s REAL NOT NULL DEFAULT 0
) STRICT;
"""

_JOBS_INDEXES: Final = """
CREATE INDEX jobs_by_state ON jobs (state, id);
CREATE INDEX jobs_by_after ON jobs (after) WHERE after IS NOT NULL;
CREATE INDEX jobs_by_chain ON jobs (chain) WHERE chain IS NOT NULL
"""

_FACTS: Final = """
-- What is true of the queue as a whole, as JSON.
CREATE TABLE facts (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""

_OTHERS: Final = """
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
    actor TEXT NOT NULL,
    uid INTEGER
) STRICT
"""

_REMOVALS: Final = """
-- What retention has taken of a job: its run, its attempts. It outlives the events that tell of it.
CREATE TABLE removals (
    job INTEGER NOT NULL REFERENCES jobs (id),
    part TEXT NOT NULL,
    time REAL NOT NULL,
    rule TEXT NOT NULL,
    PRIMARY KEY (job, part)
) STRICT, WITHOUT ROWID
"""


class StoreError(JobError):
    """The state database cannot be used; a change that raises it has not happened."""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or bring those of an older version up to this one, in one transaction.

    Raises:
        StoreError: the file is another program's, or of a newer version; it is left as it is.
        sqlite3.Error: it is damaged, or cannot be written.
    """
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    new = application == 0 and version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    if not new and application != APPLICATION_ID:
        raise StoreError(f"{path} is not a database of azaion; move it away or set AZAION_STATE_DIR elsewhere")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} was written by a newer azaion (schema {version}, this one reads {SCHEMA_VERSION}); "
            f"start that release again, it has not been touched",
        )
    if version < SCHEMA_VERSION:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if new:
                _run(connection, ";".join([_JOBS.format(name="jobs"), _JOBS_INDEXES, _OTHERS, _FACTS, _REMOVALS]))
            else:
                _migrate(connection, version)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            failpoints.hit("schema.before-commit")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    connection.execute("PRAGMA foreign_keys = ON")


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """SQLite cannot change a constraint in place, so the table is made anew; what refers to it does so by its name."""
    columns = ", ".join(row["name"] for row in connection.execute("PRAGMA table_info(jobs)"))
    copy = f"INSERT INTO jobs_new ({columns}) SELECT {columns} FROM jobs"  # noqa: S608 - the names of older tables
    rename = "DROP TABLE jobs; ALTER TABLE jobs_new RENAME TO jobs"
    facts = [_FACTS] if version == 1 else []
    uid = "ALTER TABLE events ADD COLUMN uid INTEGER"
    _run(connection, ";".join([_JOBS.format(name="jobs_new"), copy, rename, _JOBS_INDEXES, *facts, uid, _REMOVALS]))


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Run statements within a transaction, which `executescript` would end."""
    for statement in script.split(";"):
        connection.execute(statement)
