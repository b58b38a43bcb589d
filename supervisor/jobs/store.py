"""Where jobs are kept: SQLite, and the one door through which their state changes.

Every method that changes something is one transaction, durable when it returns (WAL, synchronous=FULL). Calls are
synchronous on purpose: a commit costs a fraction of a millisecond, and nothing can come between a decision and its
record.
"""

import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from azaion import failpoints
from supervisor.health.model import Mute
from supervisor.jobs import schema
from supervisor.jobs.events import ALL_EVENTS, Actor, Event, EventFilter
from supervisor.jobs.line import Line
from supervisor.jobs.model import (
    TERMINAL,
    WAITING,
    Attempt,
    Intent,
    Job,
    JobError,
    Maintenance,
    State,
    Submission,
    sources,
)
from supervisor.jobs.outcome import Decision, Ending, cause_of
from supervisor.jobs.rows import attempt_of, columns_of, job_of
from supervisor.jobs.schema import StoreError
from supervisor.processes import Identity
from supervisor.units.model import Wish

_STRENGTH = {intent: strength for strength, intent in enumerate(Intent)}

_log = structlog.get_logger("azaion.store")


class IllegalTransitionError(JobError):
    """A job is not in a state from which the wanted one can be reached."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What retention has taken of a job.

    Attributes:
        rule: why, for people.
    """

    time: float
    rule: str


class Store:
    """The jobs of one daemon.

    Args:
        path: the database; made if it does not exist.
        clock: the wall clock, in seconds since the epoch.

    Raises:
        StoreError: the file is not ours, damaged, of a newer version, or cannot be written.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._listeners: list[Callable[[], None]] = []
        self._path = path
        try:
            # Jobs carry their environments: what the socket shows to few, the file must not show to all.
            # A link would lead to a file without its log of changes, and perhaps of somebody else.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640))
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=10.0)
            self._connection.row_factory = sqlite3.Row
            schema.prepare(self._connection, path)
            self._line = Line(self._connection)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"{path}: {error}. If the disk is full, make room; if the file is damaged, move it away "
                f"(jobs that run are found again by their folders) or restore it from a backup",
            ) from None

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change."""
        self._listeners.append(listener)

    @contextmanager
    def _transaction(self, name: str) -> Iterator[None]:
        """All of it or nothing, durable at its end. Failpoints: ``store.NAME.before-commit`` and ``.committed``."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            failpoints.hit(f"store.{name}.before-commit")
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(
                f"{self._path} cannot be written: {error}. Make room on its disk; nothing is lost"
            ) from None
        finally:
            # SQLite ends some transactions by itself when the disk is full.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        for listener in self._listeners:
            listener()
        failpoints.hit(f"store.{name}.committed")

    # Looking.

    @property
    def changes(self) -> int:
        """A number that is another one after every change."""
        return self._connection.total_changes

    def get(self, number: int) -> Job:
        """One job.

        Raises:
            JobError: there is none with this number.
        """
        row = self._connection.execute("SELECT * FROM jobs WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise JobError(f"there is no job {number}; `azaionctl list --all` shows those that there are")
        return job_of(row)

    def jobs(self, states: Iterable[State] | None = None, limit: int = -1) -> list[Job]:
        """The jobs in these states (all without), the newest ``limit`` of them, in the order in which they came."""
        if states is None:
            rows = self._connection.execute("SELECT * FROM jobs ORDER BY id DESC LIMIT ?", (limit,))
        else:
            names = [str(state) for state in states]
            marks = ", ".join("?" * len(names))
            rows = self._connection.execute(
                f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY id DESC LIMIT ?",  # noqa: S608 - marks only
                (*names, limit),
            )
        return [job_of(row) for row in rows][::-1]

    def chain(self, job: Job) -> list[Job]:
        """The jobs of the chain that a job is a part of, in their order; none if it stands alone."""
        if job.chain is None:
            return []
        rows = self._connection.execute("SELECT * FROM jobs WHERE chain = ? ORDER BY id", (job.chain,))
        return [job_of(row) for row in rows]

    def chains(self, jobs: Iterable[Job]) -> dict[int, list[int]]:
        """The chains that jobs are parts of: the number of the first job to all of them, in their order."""
        firsts = sorted({job.chain for job in jobs if job.chain is not None})
        rows = self._connection.execute(
            "SELECT chain, id FROM jobs WHERE chain IN (SELECT value FROM json_each(?)) ORDER BY id",
            (json.dumps(firsts),),
        )
        found: dict[int, list[int]] = {first: [] for first in firsts}
        for first, number in rows:
            found[first].append(number)
        return found

    def queue(self, limit: int = -1) -> list[Job]:
        """The first jobs that wait, in the order in which their turn comes, without what only their runs need.

        Of the parameters of a training its model and its dataset are there.
        """
        return self._line.jobs(limit)

    def awaited(self) -> dict[int, State]:
        """The jobs that waiting ones are to come after and that have not succeeded, with their states."""
        rows = self._connection.execute(
            "SELECT DISTINCT earlier.id, earlier.state FROM jobs AS later JOIN jobs AS earlier"
            " ON earlier.id = later.after WHERE later.state = 'queued' AND earlier.state <> 'succeeded'"
        )
        return {number: State(state) for number, state in rows}

    def open_training(self) -> Job | None:
        """The first training that has not ended; None if there is none."""
        row = self._connection.execute(
            "SELECT * FROM jobs WHERE kind = 'train' AND state IN ('held', 'queued', 'starting', 'running', 'stopping')"
            " ORDER BY id LIMIT 1"
        ).fetchone()
        return job_of(row) if row is not None else None

    def newest_key(self, prefix: str) -> str | None:
        """The key of the newest job of which it begins so; None if there is none."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        row = self._connection.execute(
            "SELECT key FROM jobs WHERE key >= ? AND key < ? ORDER BY id DESC LIMIT 1", (prefix, end)
        ).fetchone()
        return row["key"] if row is not None else None

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        rows = self._connection.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state")
        found = {State(state): count for state, count in rows}
        return {state: found.get(state, 0) for state in State}

    def attempts(self, number: int) -> list[Attempt]:
        """Every attempt of a job, the first one first."""
        rows = self._connection.execute("SELECT * FROM attempts WHERE job = ? ORDER BY number", (number,))
        return [attempt_of(row) for row in rows]

    def open_attempt(self, number: int) -> Attempt:
        """The attempt of an active job.

        Raises:
            JobError: the job has none.
        """
        row = self._connection.execute("SELECT * FROM attempts WHERE job = ? AND ended IS NULL", (number,)).fetchone()
        if row is None:
            raise JobError(f"job {number} has no attempt under way")
        return attempt_of(row)

    def leases(self) -> dict[str, int]:
        """Which device is leased to which job."""
        return dict(self._connection.execute("SELECT device, job FROM leases").fetchall())

    def events(self, after: int = 0, limit: int = 1000, which: EventFilter = ALL_EVENTS) -> list[Event]:
        """The first ``limit`` such events after the one with the number ``after``."""
        rows = self._connection.execute(
            f"SELECT * FROM events WHERE id > :after AND {EventFilter.SQL} ORDER BY id LIMIT :limit",  # noqa: S608 - ours
            {**which.parameters, "after": after, "limit": limit},
        )
        return [Event(**dict(row)) for row in rows]

    def last_event(self) -> int:
        """The number of the newest event, 0 before the first."""
        (newest,) = self._connection.execute("SELECT MAX(id) FROM events").fetchone()
        return newest or 0

    def event_before(self, count: int, which: EventFilter = ALL_EVENTS) -> int:
        """The number of the event before the newest ``count`` such ones."""
        row = self._connection.execute(
            f"SELECT id FROM events WHERE {EventFilter.SQL} ORDER BY id DESC LIMIT 1 OFFSET :count",  # noqa: S608 - ours
            {**which.parameters, "count": max(0, count)},
        ).fetchone()
        return row["id"] if row else 0

    def count_events(self) -> int:
        """How many events there are."""
        (count,) = self._connection.execute("SELECT COUNT(*) FROM events").fetchone()
        return int(count)

    # Looking, for retention.

    def ended(self) -> list[tuple[int, str, float]]:
        """Number, uid and end of every job that has ended, the last one to end first."""
        rows = self._connection.execute(
            "SELECT id, uid, ended FROM jobs WHERE state IN ('succeeded', 'failed', 'cancelled')"
            " ORDER BY ended DESC, id DESC"
        )
        return [(number, uid, ended) for number, uid, ended in rows]

    def known(self) -> set[tuple[int, str]]:
        """Number and uid of every job."""
        return {(number, uid) for number, uid in self._connection.execute("SELECT id, uid FROM jobs")}

    def needing(self, word: str, *, uid: str = "", after: int | None = None) -> int | None:
        """A job that has not ended and may need something, None if there is none.

        Args:
            word: its parameters speak of it, wherever and however.
            uid: it is the job with this uid.
            after: it is to come after this job.
        """
        row = self._connection.execute(
            "SELECT id FROM jobs WHERE state IN ('held', 'queued', 'starting', 'running', 'stopping')"
            " AND (uid = ? OR after = ? OR instr(parameters, ?) OR instr(adjusted, ?)) ORDER BY id LIMIT 1",
            (uid, after, word, word),
        ).fetchone()
        return row["id"] if row else None

    def removals(self, number: int) -> dict[str, Removal]:
        """What retention has taken of a job: ``run``, ``attempts``."""
        rows = self._connection.execute("SELECT part, time, rule FROM removals WHERE job = ?", (number,))
        return {part: Removal(time=time, rule=rule) for part, time, rule in rows}

    # Changing.

    def submit(self, submission: Submission, *later: Submission) -> Job:
        """File a job, and those that are to come after it, each after the one before: a chain.

        All of it is durable when this returns, or nothing of it has happened. A known key gives the job that was filed
        with it, and files nothing.

        Raises:
            JobError: it should come after a job that does not exist, or that has not succeeded and never will.
        """
        if submission.key is not None:
            row = self._connection.execute("SELECT * FROM jobs WHERE key = ?", (submission.key,)).fetchone()
            if row is not None:
                return job_of(row)
        if submission.after is not None and (before := self.get(submission.after)).state in TERMINAL - {
            State.SUCCEEDED
        }:
            raise JobError(f"job {before.id} has {before.state}, so what comes after it would never start")
        first = columns_of(submission, uid=secrets.token_hex(8), created=self._clock())
        with self._transaction("submit"):
            number = last = self._insert(first)
            for each in later:
                columns = columns_of(each, uid=secrets.token_hex(8), created=self._clock(), first=first["uid"])
                last = self._insert(columns | {"after": last, "chain": number})
            if later:
                self._connection.execute("UPDATE jobs SET chain = id WHERE id = ?", (number,))
        return self.get(number)

    def _insert(self, columns: Mapping[str, Any]) -> int:
        marks = ", ".join("?" * len(columns))
        inserted = self._connection.execute(
            f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({marks})",  # noqa: S608 - our own names
            tuple(columns.values()),
        )
        number = _number(inserted.lastrowid)
        self._line.touch(number)
        self._event(number, "submitted", columns["name"], columns["owner"])
        return number

    def reserve(self, number: int, devices: Sequence[str], used: int = 0) -> Attempt:
        """Give a queued job its next attempt and its devices, before anything is started.

        ``used`` is the highest attempt of which there is a folder: the database may have been restored from before it.

        Raises:
            IllegalTransitionError: it is not queued.
            JobError: a device is leased already.
        """
        now = self._clock()
        with self._transaction("reserve"):
            self._move(number, State.STARTING, reason="", cause=None)
            (last,) = self._connection.execute(
                "SELECT COALESCE(MAX(number), 0) FROM attempts WHERE job = ?",
                (number,),
            ).fetchone()
            attempt = Attempt(number=max(last, used) + 1, nonce=secrets.token_hex(16), reserved=now)
            self._connection.execute(
                "INSERT INTO attempts (job, number, nonce, reserved) VALUES (?, ?, ?, ?)",
                (number, attempt.number, attempt.nonce, now),
            )
            try:
                self._connection.executemany(
                    "INSERT INTO leases (device, job) VALUES (?, ?)",
                    [(device, number) for device in devices],
                )
            except sqlite3.IntegrityError:
                raise JobError(f"one of {', '.join(devices)} is leased already") from None
        return attempt

    def started(self, number: int, child: Identity, when: float) -> None:
        """Record that the open attempt runs. Under an intent the job stays ``stopping``."""
        with self._transaction("started"):
            if self.get(number).state is not State.STOPPING:
                self._move(number, State.RUNNING)
            self._connection.execute("UPDATE jobs SET started = COALESCE(started, ?) WHERE id = ?", (when, number))
            changed = self._connection.execute(
                "UPDATE attempts SET child_pid = ?, child_start = ?, started = ?"
                " WHERE job = ? AND ended IS NULL AND started IS NULL",
                (child.pid, child.start, when, number),
            )
            if changed.rowcount:
                self._event(number, "started", f"pid {child.pid}", "azaiond")

    def request(self, number: int, intent: Intent, actor: str, grace_s: float | None = None) -> Job:
        """Commit what is asked of a job. One that waits is cancelled at once, unless it is only asked to step aside.

        Raises:
            IllegalTransitionError: the job has ended.
        """
        now = self._clock()
        job = self.get(number)
        with self._transaction("request"):
            if job.state in WAITING and intent is Intent.PAUSE:
                return job
            if job.state in WAITING:
                self._move(number, State.CANCELLED, cause="cancelled", reason=f"cancelled by {actor}", ended=now)
                self._event(number, "cancelled", "before it ran", actor)
                self._abandon(number, State.CANCELLED)
            elif job.intent is None or _STRENGTH[intent] >= _STRENGTH[job.intent]:
                self._move(number, State.STOPPING, intent=intent, intent_at=now, grace_s=grace_s)
                self._event(number, f"{intent}-requested", f"grace {grace_s:g} s" if grace_s is not None else "", actor)
        return self.get(number)

    def finish(self, number: int, attempt: Attempt, ending: Ending, decision: Decision) -> Job:
        """Record how an attempt ended and where the job goes, and give its devices back.

        Everything that the attempt has started must be gone by now.

        Raises:
            IllegalTransitionError: the job is not active.
        """
        now = self._clock()
        cause = decision.cause if decision.state is State.QUEUED else cause_of(ending)
        with self._transaction("finish"):
            closed = self._connection.execute(
                "UPDATE attempts SET ended = ?, exit_code = ?, cause = ?, resumed_from_epoch = ?"
                " WHERE job = ? AND number = ? AND ended IS NULL",
                (now, ending.code, cause, ending.resumed_from_epoch, number, attempt.number),
            )
            if not closed.rowcount:
                raise IllegalTransitionError(f"attempt {attempt.number} of job {number} has ended already")
            self._move(
                number,
                decision.state,
                cause=decision.cause,
                reason=decision.reason,
                failures=decision.failures,
                interruptions=decision.interruptions,
                verified_epoch=decision.verified_epoch,
                not_before=decision.not_before,
                adjusted=json.dumps(decision.adjusted),
                ran_s=self.get(number).ran_s + ending.ran_s,
                intent=None if decision.state is State.QUEUED else self.get(number).intent,
                ended=now if decision.state in TERMINAL else None,
                artifacts=json.dumps(ending.artifacts),
            )
            self._connection.execute("DELETE FROM leases WHERE job = ?", (number,))
            kind = "requeued" if decision.state is State.QUEUED else str(decision.state)
            self._event(number, kind, decision.reason, "azaiond")
            if decision.state in TERMINAL - {State.SUCCEEDED}:
                self._abandon(number, decision.state)
        return self.get(number)

    def hold(self, number: int, actor: str) -> Job:
        """Keep a waiting job from starting until it is released; to one that is held already nothing happens.

        Raises:
            IllegalTransitionError: it does not wait any more.
        """
        if self.get(number).state is not State.HELD:
            with self._transaction("hold"):
                self._move(number, State.HELD, reason=f"held by {actor}")
                self._event(number, "held", "", actor)
        return self.get(number)

    def release(self, number: int, actor: str) -> Job:
        """Let a held job start when its turn comes; to one that waits for its turn already nothing happens.

        Raises:
            IllegalTransitionError: it does not wait any more.
        """
        if self.get(number).state is not State.QUEUED:
            with self._transaction("release"):
                self._move(number, State.QUEUED, reason="", allowed=frozenset({State.HELD}))
                self._event(number, "released", "", actor)
        return self.get(number)

    def prioritise(self, number: int, priority: int, actor: str) -> Job:
        """Give a waiting job another priority.

        Raises:
            IllegalTransitionError: it does not wait any more.
        """
        job = self.get(number)
        if job.state not in WAITING:
            raise IllegalTransitionError(f"job {number} is {job.state}: its priority says nothing any more")
        with self._transaction("priority"):
            self._line.touch(number)
            self._connection.execute("UPDATE jobs SET priority = ? WHERE id = ?", (priority, number))
            self._event(number, "priority", f"{job.priority} -> {priority}", actor)
        return self.get(number)

    def set_maintenance(self, maintenance: Maintenance | None, actor: str) -> None:
        """Have nothing start from now on, or let it start again (None)."""
        with self._transaction("maintenance"):
            if maintenance is None:
                self._connection.execute("DELETE FROM facts WHERE name = 'maintenance'")
            else:
                value = json.dumps(asdict(maintenance))
                self._connection.execute("INSERT OR REPLACE INTO facts VALUES ('maintenance', ?)", (value,))
            reason = maintenance.reason if maintenance is not None else ""
            self._event(None, f"maintenance-{'off' if maintenance is None else 'on'}", reason, actor)

    def maintenance(self) -> Maintenance | None:
        """Why nothing starts; None if it may."""
        row = self._connection.execute("SELECT value FROM facts WHERE name = 'maintenance'").fetchone()
        return Maintenance(**json.loads(row["value"])) if row is not None else None

    def wishes(self) -> dict[str, Wish]:
        """What people want of services, by the service's name; those are absent of which nobody has wanted anything."""
        rows = self._connection.execute("SELECT name, value FROM facts WHERE name LIKE 'service %'")
        return {row["name"].partition(" ")[2]: Wish(**json.loads(row["value"])) for row in rows}

    def wish(self, service: str, wish: Wish, kind: str, actor: str) -> None:
        """Keep what somebody wants of a service, with the event that tells of it."""
        with self._transaction("wish"):
            row = (f"service {service}", json.dumps(asdict(wish)))
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", row)
            self._event(None, kind, service, actor)

    def mutes(self) -> dict[str, Mute]:
        """What of health is not to bother anybody, by its name; some may be over."""
        rows = self._connection.execute("SELECT name, value FROM facts WHERE name LIKE 'mute %'")
        return {row["name"].partition(" ")[2]: Mute(**json.loads(row["value"])) for row in rows}

    def mute(self, name: str, mute: Mute | None, actor: str) -> None:
        """Keep that something of health is not to bother anybody for a while, or (None) that it is to again."""
        with self._transaction("mute"):
            if mute is None:
                self._connection.execute("DELETE FROM facts WHERE name = ?", (f"mute {name}",))
            else:
                row = (f"mute {name}", json.dumps(asdict(mute)))
                self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", row)
            text = name if mute is None or not mute.reason else f"{name}: {mute.reason}"
            self._event(None, f"health-{'unmuted' if mute is None else 'muted'}", text, actor)

    def alerts(self) -> str:
        """What the alerts' room has kept last; empty if it never has."""
        row = self._connection.execute("SELECT value FROM facts WHERE name = 'alerts'").fetchone()
        return str(row["value"]) if row is not None else ""

    def keep_alerts(self, value: str, events: Iterable[tuple[str, str]] = ()) -> None:
        """Keep what the alerts' room must know after a restart, with the events (types and texts) that it is about."""
        with self._transaction("alerts"):
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES ('alerts', ?)", (value,))
            for kind, text in events:
                self._event(None, kind, text, "azaiond")

    def retraining(self) -> str:
        """What the room that files trainings has kept last; empty if it never has."""
        row = self._connection.execute("SELECT value FROM facts WHERE name = 'retraining'").fetchone()
        return str(row["value"]) if row is not None else ""

    def keep_retraining(self, value: str) -> None:
        """Keep what the room that files trainings must know after a restart."""
        with self._transaction("retraining"):
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES ('retraining', ?)", (value,))

    def remove(self, number: int, parts: Sequence[str], rule: str, actor: str) -> None:
        """Record that parts of a job that has ended are about to be removed, before anything is."""
        with self._transaction("remove"):
            for part in parts:
                self._connection.execute(
                    "INSERT OR REPLACE INTO removals VALUES (?, ?, ?, ?)", (number, part, self._clock(), rule)
                )
            self._event(number, "removed", f"{' and '.join(parts)}: {rule}", actor)

    def forget_events(self, before: float, keep: int, count: int = 1000) -> int:
        """Delete of the oldest ``count`` events those before a time, and those beyond the newest ``keep``.

        Returns how many they were.
        """
        with self._transaction("forget"):
            return self._connection.execute(
                "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT ?)"
                " AND (time < ? OR id <= (SELECT MAX(id) FROM events) - ?)",
                (count, before, keep),
            ).rowcount

    def _abandon(self, number: int, state: State) -> None:
        """Cancel what was to come after a job that will never succeed, and what was to come after that."""
        ended = [(number, "failed" if state is State.FAILED else "been cancelled")]
        while ended:
            earlier, word = ended.pop()
            reason = f"job {earlier}, which it was to come after, has {word}"
            rows = self._connection.execute(
                "SELECT id FROM jobs WHERE after = ? AND state IN ('held', 'queued') ORDER BY id", (earlier,)
            )
            for (later,) in rows.fetchall():
                self._move(later, State.CANCELLED, cause="cancelled", reason=reason, ended=self._clock())
                self._event(later, "cancelled", reason, "azaiond")
                ended.append((later, "been cancelled"))

    def note(self, kind: str, text: str, job: int | None = None, actor: str = "azaiond") -> None:
        """Record an event that changes no job, if there is room for it."""
        try:
            with self._transaction("note"):
                self._event(job, kind, text, actor)
        except StoreError as error:
            _log.error("event not recorded", type=kind, text=text, error=str(error))

    def _event(self, job: int | None, kind: str, text: str, actor: str) -> None:
        uid = None
        if isinstance(actor, Actor):
            uid, actor.recorded = actor.uid, True
        self._connection.execute(
            "INSERT INTO events (time, job, type, text, actor, uid) VALUES (?, ?, ?, ?, ?, ?)",
            (self._clock(), job, kind, text, str(actor), uid),
        )

    def _move(self, number: int, target: State, *, allowed: frozenset[State] | None = None, **columns: Any) -> None:
        """The one door: a compare-and-set of the state, from whatever may become it, or only from ``allowed``."""
        self._line.touch(number)
        allowed = allowed or sources(target)
        assignments = "".join(f", {name} = ?" for name in columns)
        marks = ", ".join("?" * len(allowed))
        changed = self._connection.execute(
            f"UPDATE jobs SET state = ?{assignments} WHERE id = ? AND state IN ({marks})",  # noqa: S608 - our own names
            (target, *columns.values(), number, *(str(state) for state in allowed)),
        )
        if changed.rowcount != 1:
            current = self.get(number).state
            hint = "; it has ended, and that is final" if current in TERMINAL else ""
            raise IllegalTransitionError(f"job {number} is {current} and cannot become {target}{hint}")


def _number(value: int | None) -> int:
    if value is None:
        raise StoreError("SQLite gave no row number")
    return value
