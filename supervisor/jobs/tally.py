"""How many jobs there are and have been, counted for machines."""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from supervisor.jobs.model import CAUSES, TERMINAL, Kind, State

#: Every cause that `bounded` may give.
BOUNDED: Final = (
    *dict.fromkeys(CAUSES.values()),
    "exit",
    "signal",
    "time",
    "hang",
    "lost:reboot",
    "lost:shim",
    "never-started",
    "preempted",
    "cancelled",
    "other",
)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What is counted.

    Attributes:
        jobs: how many jobs there are of a kind in a state, none left out.
        failed: how many jobs have failed, by cause, none left out.
        attempts: how many attempts have ended, by cause, none left out; ``none`` is success.
        waiting_s: for how many seconds the job has waited that has waited longest for what it may have now; 0 if none.
    """

    jobs: Mapping[tuple[Kind, State], int]
    failed: Mapping[str, int]
    attempts: Mapping[str, int]
    waiting_s: float = 0.0


def bounded(cause: str | None) -> str:
    """A cause of which there are few: ``exit:7`` is ``exit``."""
    if cause is None:
        return "none"
    known = cause if cause in BOUNDED else cause.partition(":")[0]
    return known if known in BOUNDED else "other"


def tally(database: Path, now: float) -> Tally:
    """Count what is in the database, with a connection of its own: it may take a while, so a thread can do it.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    jobs: Counter[tuple[Kind, State]] = Counter({(kind, state): 0 for kind in Kind for state in State})
    failed: Counter[str] = Counter(dict.fromkeys(BOUNDED, 0))
    attempts: Counter[str] = Counter(dict.fromkeys(("none", *BOUNDED), 0))
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
        rows = connection.execute("SELECT kind, state, cause, COUNT(*) FROM jobs GROUP BY kind, state, cause")
        for kind, state, cause, count in rows:
            jobs[Kind(kind), State(state)] += count
            if state == State.FAILED:
                failed[bounded(cause)] += count
        rows = connection.execute("SELECT cause, COUNT(*) FROM attempts WHERE ended IS NOT NULL GROUP BY cause")
        for cause, count in rows:
            attempts[bounded(cause)] += count
        (since,) = connection.execute(_WAITING, {"now": now}).fetchone()
    return Tally(
        jobs=MappingProxyType(jobs),
        failed=MappingProxyType(failed),
        attempts=MappingProxyType(attempts),
        waiting_s=max(0.0, now - since) if since is not None else 0.0,
    )


def ended(jobs: Mapping[tuple[Kind, State], int]) -> dict[tuple[Kind, State], int]:
    """Those that have ended."""
    return {(kind, state): count for (kind, state), count in jobs.items() if state in TERMINAL}


#: Since when each may have started: from when it was filed, its time had come, its last attempt had ended, and what it
#: is to come after had. One that may not start yet does not count.
_WAITING: Final = """
SELECT MIN(since) FROM (
    SELECT MAX(created, begins, not_before,
        COALESCE((SELECT MAX(ended) FROM attempts WHERE attempts.job = jobs.id), 0),
        COALESCE((SELECT earlier.ended FROM jobs AS earlier WHERE earlier.id = jobs.after), 0)) AS since
    FROM jobs WHERE state = 'queued' AND (after IS NULL
        OR (SELECT earlier.state FROM jobs AS earlier WHERE earlier.id = jobs.after) = 'succeeded')
) WHERE since <= :now
"""
