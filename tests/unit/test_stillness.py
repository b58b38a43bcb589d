"""When a training is held to hang: only time counts in which somebody looked and nothing moved."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azaion.progress import Progress
from supervisor.jobs.stillness import Look, Patience, Stillness

PATIENCE = Patience(start_s=1800.0, progress_s=900.0)
STEP = PATIENCE.look_s or 0.0

TRAINING = Progress(phase="training", epoch=3, epochs=9, batch=5, batches=20)
LOADING = Progress(phase="loading")
SAVING = Progress(phase="saving", epoch=3, epochs=9)


def look(at: float, progress: Progress | None = TRAINING, suspended: float = 0.0, **more: Any) -> Look:
    return Look(monotonic=at, boottime=at + suspended, progress=progress, **more)


def watched(looks: list[Look], patience: Patience = PATIENCE) -> Stillness:
    stillness = Stillness(look=looks[0])
    for each in looks[1:]:
        stillness = stillness.after(each, patience)
    return stillness


def every_step(duration: float, progress: Progress | None, since: float = 0.0) -> list[Look]:
    return [look(since + count * STEP, progress) for count in range(round(duration / STEP) + 1)]


#: A batch has been seen to end.
BEGUN = [look(-STEP, Progress(phase="training", epoch=3, epochs=9, batch=4, batches=20))]


@pytest.mark.parametrize(
    ("before", "progress", "limit"),
    [
        ([], None, 1800),
        ([], LOADING, 1800),
        ([], Progress(phase="dataset", batch=7, batches=100), 1800),
        ([], Progress(phase="training", epoch=1, epochs=9, batches=20), 1800),
        (BEGUN, TRAINING, 900),
        (BEGUN, Progress(phase="training", epoch=4, epochs=9, batches=20), 900),
        (BEGUN, Progress(phase="validating", epoch=4, epochs=9, batches=20), 900),
        (BEGUN, SAVING, 900),
        # A daemon that has come later knows by the figures that an epoch has ended.
        ([], dataclasses.replace(SAVING, metrics={"mAP50": 0.5}), 900),
        (BEGUN, Progress(phase="verifying", epoch=9, epochs=9), 1800),
    ],
)
def test_which_limit_counts(before: list[Look], progress: Progress | None, limit: int) -> None:
    assert watched([*before, *every_step(limit - 10, progress)]).verdict(PATIENCE) is None
    verdict = watched([*before, *every_step(limit, progress)]).verdict(PATIENCE)
    assert verdict is not None
    assert verdict.startswith(f"no progress for {limit // 60} min")


def test_what_moves_does_not_hang() -> None:
    looks = BEGUN + [
        look(count * STEP, Progress(phase="training", epoch=1 + count // 20, epochs=99, batch=count % 20, batches=20))
        for count in range(1000)
    ]
    assert watched(looks).verdict(PATIENCE) is None


def test_a_daemon_that_was_away_has_not_looked() -> None:
    """Stopped or starved for an hour, time and again: each time only what it saw itself counts."""
    looks, at = list(BEGUN), 0.0
    for _ in range(50):
        looks += [look(at), look(at + STEP)]
        at += 3600.0
    stillness = watched(looks)
    assert stillness.verdict(PATIENCE) is None
    assert stillness.still_s <= 51 * STEP


def test_a_suspended_machine_has_not_looked() -> None:
    """The monotonic clock stands still meanwhile; the gap in which it happened counts nothing at all."""
    looks = BEGUN + [look(count * STEP, suspended=count * 5.0) for count in range(1000)]
    assert watched(looks).verdict(PATIENCE) is None


def test_a_worker_whose_disk_is_full_cannot_tell() -> None:
    looks = BEGUN + [look(count * STEP, mute=True) for count in range(1000)]
    assert watched(looks).verdict(PATIENCE) is None


def test_without_a_limit_nothing_hangs() -> None:
    assert Patience().look_s is None
    none_at_first = Patience(progress_s=900.0)
    assert watched(every_step(9000, None), none_at_first).verdict(none_at_first) is None
    none_later = Patience(start_s=900.0)
    assert watched([*BEGUN, *every_step(9000, TRAINING)], none_later).verdict(none_later) is None


@given(
    gaps=st.lists(st.floats(0, 1e5), max_size=60),
    suspensions=st.lists(st.floats(0, 1e5), min_size=60, max_size=60),
    moves=st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_it_never_counts_more_than_it_has_seen(gaps: list[float], suspensions: list[float], moves: list[bool]) -> None:
    at, away, batch, seen = 0.0, 0.0, 5, 0.0
    stillness = Stillness(look=look(0.0))
    for gap, suspended, moved in zip(gaps, suspensions, moves, strict=False):
        at, away, batch = at + gap, away + suspended, batch + moved
        near = gap <= 3 * STEP and suspended < 1.0
        seen = 0.0 if moved else seen + (gap if near else 0.0)
        progress = Progress(phase="training", epoch=3, epochs=9, batch=batch, batches=999)
        stillness = stillness.after(look(at, progress, away), PATIENCE)
        assert stillness.still_s <= seen + 1e-3
