"""The daemon's own state: its database, the disk it lies on, and secrets that are never changed."""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from azaion import files
from azaion.layout import Layout
from azaion.words import size
from supervisor.health import words
from supervisor.health.looks import Levels, Seen, UnreadableError
from supervisor.health.model import Verdict


@dataclass(frozen=True, kw_only=True)
class Database:
    """What a look at the state has shown.

    Attributes:
        damage: what SQLite says is wrong with the database; empty if it is whole.
        refused: why nothing can be written beside it; empty if it can.
        write_s: how long it took until that was durable, in seconds.
        bytes: how large the database is.
    """

    damage: str = ""
    refused: str = ""
    write_s: float = 0.0
    bytes: int = 0


def read(layout: Layout) -> Database:
    """Look at the database, and write something small beside it.

    Raises:
        UnreadableError: the database is busy.
    """
    total = sum(path.stat().st_size for path in layout.database_files if path.exists())
    try:
        with closing(
            sqlite3.connect(f"{layout.database.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)
        ) as connection:
            (told,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        raise UnreadableError(f"{layout.database}: {error}") from None
    except sqlite3.DatabaseError as error:
        told = str(error)
    if told != "ok":
        return Database(damage=str(told), bytes=total)
    began = time.monotonic()
    try:
        files.write_json(layout.health_probe, {"time": time.time()})
    except OSError as error:
        return Database(refused=error.strerror or str(error), bytes=total)
    return Database(write_s=time.monotonic() - began, bytes=total)


def judge(found: Database, levels: Levels) -> Seen:
    """Whether the state can be relied on."""
    if found.damage:
        return Seen(
            verdict=Verdict.CRITICAL,
            text=f"the state database is damaged: {found.damage}",
            advice="stop azaiond, restore jobs.sqlite from a backup; runs go on and are found again",
        )
    if found.refused:
        return Seen(
            verdict=Verdict.CRITICAL,
            text=f"the state folder cannot be written: {found.refused}",
            advice="make room on its disk, or mend it; nothing is lost meanwhile",
        )
    verdict, eased = levels.judge(found.write_s)
    return Seen(
        verdict=verdict,
        eased=eased,
        text=f"whole, {size(found.bytes)}, a durable write takes {1000 * found.write_s:.0f} ms",
        advice="the disk of the state is slow: see what keeps it busy (iostat -x 1), or whether it fails (smartctl)",
        value=found.write_s,
        sure=False,
    )


def judge_secrets(found: Sequence[tuple[Path, float]], levels: Levels, now: float) -> list[Seen]:
    """Whether files with secrets are older than these are to become.

    Args:
        found: each file, and when it was changed last.
        levels: of their age, in days.
        now: the wall-clock time.
    """
    seen = []
    for path, changed in found:
        days = (now - changed) / 86400
        verdict, eased = levels.judge(days)
        seen.append(
            Seen(
                subject=str(path),
                verdict=verdict,
                eased=eased,
                text=f"changed {words.duration(now - changed)} ago",
                advice="change its passwords, there and here; touch it if you have decided not to",
                value=days,
            )
        )
    return seen


def secret_files(given: Sequence[Path]) -> list[tuple[Path, float]]:
    """Those of these files that there are, with when each was changed last."""
    return [(path, path.stat().st_mtime) for path in given if path.is_file()]
