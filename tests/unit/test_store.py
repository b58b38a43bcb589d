"""The store: one door, durable, and honest about a database that it cannot use."""

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.jobs.model import FIRST_OF_CHAIN, TRANSITIONS, Intent, Job, JobError, Kind, State, Submission
from supervisor.jobs.outcome import Decision, Ending, Source
from supervisor.jobs.schema import StoreError
from supervisor.jobs.store import IllegalTransitionError, Store
from supervisor.processes import Identity


@pytest.fixture
def store(tmp_path: Path) -> Any:
    opened = Store(tmp_path / "jobs.sqlite", clock=lambda: 100.0)
    yield opened
    opened.close()


def submission(**facts: Any) -> Submission:
    return Submission(kind=Kind.COMMAND, name="n", parameters={"argv": ["true"]}, owner="o", **facts)


def outcome(state: State, **facts: Any) -> Decision:
    given = {"cause": None, "reason": "r", "failures": 0, "interruptions": 0, "verified_epoch": 0} | facts
    return Decision(state=state, **given)


def finish(store: Store, job: Job, state: State, **facts: Any) -> Job:
    ending = Ending(source=Source.EXIT, code=0)
    return store.finish(job.id, store.open_attempt(job.id), ending, outcome(state, **facts))


def test_a_life(store: Store) -> None:
    job = store.submit(submission())
    assert (job.id, job.state) == (1, State.QUEUED)
    attempt = store.reserve(1, ["gpu0"])
    assert (attempt.number, store.leases()) == (1, {"gpu0": 1})
    store.started(1, Identity(10, 20), 101.0)
    assert store.get(1).state is State.RUNNING
    job = finish(store, job, State.SUCCEEDED)
    assert (job.state, job.ended, store.leases()) == (State.SUCCEEDED, 100.0, {})
    (kept,) = store.attempts(1)
    assert (kept.child, kept.exit_code, kept.ended) == (Identity(10, 20), 0, 100.0)
    assert [event.type for event in store.events()] == ["submitted", "started", "succeeded"]


def test_what_is_adjusted_and_how_long_it_ran_are_kept_for_the_next_attempt(store: Store) -> None:
    job = store.submit(submission())
    for ran_s, adjusted in ((2.5, {"batch": 8}), (4.0, {"batch": 4})):
        attempt = store.reserve(1, [])
        ending = Ending(source=Source.EXIT, code=81, ran_s=ran_s)
        job = store.finish(1, attempt, ending, outcome(State.QUEUED, adjusted=adjusted))
        assert job.adjusted == adjusted
    assert job.ran_s == 6.5


def test_a_second_attempt_gets_its_own_number_and_nonce(store: Store) -> None:
    job = store.submit(submission())
    first = store.reserve(1, [])
    finish(store, job, State.QUEUED, not_before=105.0)
    assert store.get(1).not_before == 105.0
    second = store.reserve(1, [])
    assert (second.number, second.nonce != first.nonce) == (2, True)


def test_no_device_is_leased_twice(store: Store) -> None:
    store.submit(submission())
    store.submit(submission())
    store.reserve(1, ["gpu0"])
    with pytest.raises(JobError, match="leased already"):
        store.reserve(2, ["gpu0"])
    # The whole transaction is undone.
    assert (store.get(2).state, store.attempts(2)) == (State.QUEUED, [])


def test_the_same_key_gives_the_same_job(store: Store) -> None:
    assert store.submit(submission(key="k")).id == store.submit(submission(key="k")).id
    assert len(store.jobs()) == 1


@pytest.mark.parametrize("end", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_a_terminal_state_is_final(store: Store, end: State) -> None:
    job = store.submit(submission())
    store.reserve(1, [])
    finish(store, job, end)
    with pytest.raises(IllegalTransitionError, match=f"job 1 is {end} and cannot become starting"):
        store.reserve(1, [])
    for intent in Intent:
        with pytest.raises(IllegalTransitionError, match="final"):
            store.request(1, intent, "o")
    assert not TRANSITIONS[end]


def test_an_attempt_ends_once(store: Store) -> None:
    job = store.submit(submission())
    attempt = store.reserve(1, [])
    finish(store, job, State.QUEUED)
    with pytest.raises(IllegalTransitionError, match="ended already"):
        store.finish(1, attempt, Ending(source=Source.EXIT), outcome(State.FAILED))


def test_cancel_is_not_taken_back_by_stop(store: Store) -> None:
    store.submit(submission())
    store.reserve(1, [])
    assert store.request(1, Intent.STOP, "o").intent is Intent.STOP
    assert store.request(1, Intent.CANCEL, "o", 30.0).intent is Intent.CANCEL
    assert store.request(1, Intent.STOP, "o").intent is Intent.CANCEL


def test_one_that_waits_is_cancelled_at_once(store: Store) -> None:
    store.submit(submission())
    assert store.request(1, Intent.STOP, "anna").state is State.CANCELLED
    assert store.get(1).reason == "cancelled by anna"


def test_a_held_job_waits_for_its_release(store: Store) -> None:
    assert store.submit(submission(held=True)).state is State.HELD
    assert store.get(1).reason == "held by o"
    with pytest.raises(IllegalTransitionError, match="job 1 is held and cannot become starting"):
        store.reserve(1, [])
    assert store.release(1, "anna").state is State.QUEUED
    assert store.release(1, "anna").reason == ""
    assert store.hold(1, "anna").reason == "held by anna"
    assert store.hold(1, "ben").reason == "held by anna"
    store.release(1, "anna")
    store.reserve(1, [])
    for change in (store.hold, store.release):
        with pytest.raises(IllegalTransitionError, match="job 1 is starting"):
            change(1, "anna")
    assert [event.type for event in store.events()] == ["submitted", "released", "held", "released"]


def test_a_priority_is_for_those_that_wait(store: Store) -> None:
    store.submit(submission())
    assert store.prioritise(1, 7, "anna").priority == 7
    store.reserve(1, [])
    with pytest.raises(IllegalTransitionError, match="job 1 is starting"):
        store.prioritise(1, 8, "anna")
    assert store.get(1).priority == 7


@pytest.mark.parametrize("end", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_what_comes_after_a_job_goes_its_way(store: Store, end: State) -> None:
    job = store.submit(submission())
    store.submit(submission(after=1))
    store.submit(submission(after=2, held=True))
    store.submit(submission(after=3))
    assert store.awaited() == {1: State.QUEUED, 3: State.HELD}
    store.reserve(1, [])
    finish(store, job, end)
    if end is State.SUCCEEDED:
        assert store.awaited() == {3: State.HELD}
        assert store.submit(submission(after=1)).state is State.QUEUED
        return
    word = "failed" if end is State.FAILED else "been cancelled"
    assert [store.get(number).state for number in (2, 3, 4)] == [State.CANCELLED] * 3
    assert store.get(2).reason == f"job 1, which it was to come after, has {word}"
    assert store.get(4).reason == "job 3, which it was to come after, has been cancelled"
    with pytest.raises(JobError, match=f"job 1 has {end}, so what comes after it would never start"):
        store.submit(submission(after=1))


def test_a_long_chain_is_cancelled_as_one(store: Store) -> None:
    for number in range(2000):
        store.submit(submission(after=number or None))
    store.request(1, Intent.CANCEL, "anna")
    assert store.counts()[State.CANCELLED] == 2000


def test_what_comes_after_no_job_is_refused(store: Store) -> None:
    with pytest.raises(JobError, match="there is no job 5"):
        store.submit(submission(after=5))
    assert store.jobs() == []


def test_the_first_of_the_queue_are_those_whose_turn_comes_first(store: Store) -> None:
    for priority in (0, 5, 0, 9):
        store.submit(submission(priority=priority))
    store.hold(2, "o")
    assert [job.id for job in store.queue()] == [4, 1, 3]
    assert [job.id for job in store.queue(2)] == [4, 1]


def test_the_queue_leaves_out_what_only_runs_need(store: Store) -> None:
    store.submit(submission(priority=3, begins=50.0))
    (job,) = store.queue()
    assert (job.parameters, job.priority, job.begins, job.created) == ({}, 3, 50.0, 100.0)
    assert store.get(1).parameters == {"argv": ["true"]}


def test_what_was_committed_is_there_after_a_reopening(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    first = Store(path)
    first.submit(submission())
    first.reserve(1, ["gpu0"])
    # Not closed: as after a SIGKILL.
    second = Store(path)
    assert (second.get(1).state, second.leases()) == (State.STARTING, {"gpu0": 1})
    second.close()
    first.close()


def test_a_commit_waits_for_the_disk(store: Store) -> None:
    """Acknowledged means durable: FULL is 2."""
    (level,) = store._connection.execute("PRAGMA synchronous").fetchone()
    (journal,) = store._connection.execute("PRAGMA journal_mode").fetchone()
    assert (level, journal) == (2, "wal")


def test_a_newer_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer azaion \(schema 99"):
        Store(path)
    assert path.read_bytes() == before


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StoreError, match="not a database of azaion"):
        Store(path)


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_database_is_refused_and_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="restore it from a backup"):
        Store(path)
    assert path.read_bytes() == content


def test_an_unknown_job_is_named(store: Store) -> None:
    with pytest.raises(JobError, match="there is no job 7"):
        store.get(7)


def test_a_chain_is_filed_at_once_and_each_comes_after_the_one_before(store: Store) -> None:
    alone = store.submit(submission())
    steps = [submission(), replace(submission(), parameters={"of": FIRST_OF_CHAIN, "x": 1}), submission()]
    first = store.submit(*steps)
    assert [(job.id, job.after, job.chain) for job in store.chain(first)] == [(2, None, 2), (3, 2, 2), (4, 3, 2)]
    assert store.get(3).parameters == {"of": first.uid, "x": 1}
    assert store.chain(alone) == []
    assert store.chains([alone, store.get(4)]) == {2: [2, 3, 4]}
    assert store.awaited() == {2: State.QUEUED, 3: State.QUEUED}
    store.reserve(2, [])
    finish(store, first, State.FAILED)
    assert [store.get(number).state for number in (1, 3, 4)] == [State.QUEUED, State.CANCELLED, State.CANCELLED]


def test_a_chain_of_which_one_cannot_be_filed_is_not_filed_at_all(store: Store) -> None:
    broken: Any = None
    with pytest.raises(StoreError):
        store.submit(submission(key="k"), submission(), replace(submission(), name=broken))
    assert store.jobs() == []
    assert store.events() == []
    first = store.submit(submission(key="k"), submission())
    assert store.submit(submission(key="k"), submission()) == first
    assert len(store.jobs()) == 2


def test_the_queue_shows_what_has_changed(store: Store) -> None:
    for _ in range(3):
        store.submit(submission())
    before = store.queue()
    store.prioritise(3, 5, "o")
    store.hold(1, "o")
    assert [(job.id, job.priority) for job in store.queue()] == [(3, 5), (2, 0)]
    store.prioritise(3, 0, "o")
    store.release(1, "o")
    assert store.queue() == before
