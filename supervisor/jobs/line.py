"""The jobs that wait, in the order in which their turn comes."""

import json
import sqlite3
from bisect import insort
from types import MappingProxyType
from typing import Final

from supervisor.jobs.model import Job
from supervisor.jobs.rows import job_of

#: What of a waiting job its turn depends on.
_COLUMNS: Final = (
    *(
        "id",
        "uid",
        "kind",
        "name",
        "state",
        "owner",
        "priority",
        "devices",
        "attempt_limit",
        "after",
        "chain",
        "begins",
    ),
    *("preempt", "not_before", "reason", "created", "failures", "interruptions", "verified_epoch", "needs", "limits"),
)
#: What only a run needs.
_LEFT_OUT: Final = MappingProxyType({"artifacts": "{}", "adjusted": "{}", "intent": None})


class Line:
    """The jobs that wait. Kept from plan to plan: ten thousand may wait, and to read them all is what costs.

    Args:
        connection: the database. All rows that change while we live must be told by `touch`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._jobs: list[Job] = []
        self._touched: set[int] | None = None

    def touch(self, number: int) -> None:
        """The row of this job may be another one from now on; if its transaction is rolled back, no harm is done."""
        if self._touched is not None:
            self._touched.add(number)

    def jobs(self, limit: int = -1) -> list[Job]:
        """The first of them (all without a limit), without what only their runs need.

        Of the parameters of a training its model and its dataset are there.
        """
        if self._touched is None:
            self._jobs = self._read()
        elif self._touched:
            self._jobs = [job for job in self._jobs if job.id not in self._touched]
            for job in self._read(self._touched):
                insort(self._jobs, job, key=_turn)
        self._touched = set()
        return self._jobs[:limit] if limit >= 0 else self._jobs.copy()

    def _read(self, numbers: set[int] | None = None) -> list[Job]:
        only = "" if numbers is None else " AND id IN (SELECT value FROM json_each(:numbers))"
        cursor = self._connection.cursor()
        cursor.row_factory = None
        cursor.execute(
            f"SELECT {', '.join(_COLUMNS)}, CASE kind"  # noqa: S608 - our own names
            " WHEN 'train' THEN json_object('model', json_extract(parameters, '$.model'),"
            " 'dataset', json_extract(parameters, '$.dataset')) ELSE '{}' END AS parameters"
            f" FROM jobs WHERE state = 'queued'{only} ORDER BY priority DESC, id",
            {"numbers": json.dumps(sorted(numbers or ()))},
        )
        names = (*_COLUMNS, "parameters")
        return [job_of({**_LEFT_OUT, **dict(zip(names, row, strict=True))}) for row in cursor]


def _turn(job: Job) -> tuple[int, int]:
    return -job.priority, job.id
