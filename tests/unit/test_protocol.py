"""What clients are told of a job."""

from dataclasses import replace

import pytest

from supervisor.control.protocol import attempt_records
from supervisor.jobs.model import Attempt, Job, Kind, State

QUEUED = Job(id=1, uid="u", kind=Kind.TRAIN, name="n", state=State.QUEUED, parameters={}, owner="o")
ASIDE = Attempt(number=1, nonce="", reserved=0.0, started=1.0, ended=10.0, cause="preempted")
NEXT = Attempt(number=2, nonce="", reserved=70.0, started=72.0, ended=80.0, cause="exit:70")


@pytest.mark.parametrize(
    ("job", "attempts", "aside"),
    [
        (QUEUED, [ASIDE], [90.0]),
        (QUEUED, [ASIDE, NEXT], [62.0, None]),
        (QUEUED, [ASIDE, replace(NEXT, started=None, ended=None)], [90.0, None]),
        (QUEUED, [replace(ASIDE, cause="hang"), NEXT], [None, None]),
        (replace(QUEUED, state=State.CANCELLED, ended=15.0), [ASIDE], [5.0]),
        # The clock was set back.
        (QUEUED, [ASIDE, replace(NEXT, started=3.0)], [0.0, None]),
        (QUEUED, [], []),
    ],
)
def test_how_long_it_stood_aside(job: Job, attempts: list[Attempt], aside: list[float | None]) -> None:
    assert [record["stood_aside_s"] for record in attempt_records(job, attempts, 100.0)] == aside
