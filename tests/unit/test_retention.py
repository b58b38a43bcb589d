"""What is removed, what is kept and why; what refers to what; and who may fill the record of events."""

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azaion import config, files
from azaion.config import VARIABLES
from azaion.settings import Retention
from supervisor import retention
from supervisor.control.audit import EACH_MINUTE, Limiter
from supervisor.jobs.events import Actor, EventFilter
from supervisor.jobs.model import Kind as JobKind
from supervisor.jobs.model import State, Submission
from supervisor.jobs.retention import (
    DATASET_COUNT,
    Action,
    Kind,
    Thing,
    judge,
    kept,
    low,
    overdue_events,
)
from supervisor.jobs.store import Store
from supervisor.retention import References, RetentionError, RetentionRoom
from tests.installations import Installation

DAY = 86_400.0
NOW = 1000 * DAY
MB = 1_000_000
RULES = Retention(
    run_days=30,
    run_count=2,
    attempt_days=90,
    log_days=7,
    log_mb=100,
    log_limit_mb=256,
    dataset_days=30,
    corrupted_days=60,
    event_days=365,
    free_gb=10,
)


def thing(kind: Kind, age_days: float | None = 1000.0, **facts: Any) -> Thing:
    since = None if age_days is None else NOW - age_days * DAY
    return Thing(kind=kind, path=Path("/s/thing"), since=since, **{"newer": 99, **facts})


def verdict(kind: Kind, age_days: float | None = 1000.0, **facts: Any) -> tuple[Action, str]:
    made = judge(thing(kind, age_days, **facts), RULES, NOW)
    return made.action, made.reason


@pytest.mark.parametrize(
    ("kind", "days"), [(Kind.RUN, 30), (Kind.JOB, 90), (Kind.DATASET, 30), (Kind.CORRUPTED, 60)], ids=str
)
def test_age_decides(kind: Kind, days: int) -> None:
    assert verdict(kind, days - 0.01)[0] is Action.KEEP
    action, reason = verdict(kind, days)
    assert (action, f"{days} days old, kept for {days} (RETENTION_" in reason) == (Action.REMOVE, True)


def test_the_newest_are_kept_however_old() -> None:
    assert verdict(Kind.RUN, newer=1) == (Action.KEEP, "one of the newest 2 runs (RETENTION_RUN_COUNT)")
    assert verdict(Kind.RUN, newer=2)[0] is Action.REMOVE
    assert verdict(Kind.DATASET, newer=DATASET_COUNT - 1)[0] is Action.KEEP
    assert verdict(Kind.DATASET, newer=DATASET_COUNT)[0] is Action.REMOVE


@given(
    kind=st.sampled_from([kind for kind in Kind if kind is not Kind.LOG]),
    age=st.floats(-10_000, 100_000),
    newer=st.integers(0, 1000),
)
def test_what_somebody_refers_to_is_never_removed(kind: Kind, age: float, newer: int) -> None:
    assert verdict(kind, age, newer=newer, user="job 7 refers to it")[0] is Action.KEEP
    assert verdict(kind, None, newer=newer)[0] is Action.KEEP


def test_zero_days_keep_for_ever() -> None:
    rules = Retention(**{**vars(RULES), "run_days": 0, "log_days": 0, "event_days": 0})
    assert judge(thing(Kind.RUN, 99_999.0), rules, NOW).reason == "kept for ever (RETENTION_RUN_DAYS=0)"
    assert judge(thing(Kind.LOG, 99_999.0, size=1 << 40), rules, NOW).action is Action.KEEP
    assert overdue_events(rules, NOW) == 0.0
    assert overdue_events(RULES, NOW) == NOW - 365 * DAY


def test_what_is_of_the_future_is_kept() -> None:
    """The clock was wrong when it was made, or is now."""
    assert verdict(Kind.DATASET, -1.0)[0] is Action.KEEP


def test_a_large_log_is_cut_when_it_is_old() -> None:
    assert verdict(Kind.LOG, 6.9, size=101 * MB)[0] is Action.KEEP
    assert verdict(Kind.LOG, 7.0, size=100 * MB)[0] is Action.KEEP
    assert verdict(Kind.LOG, 7.0, size=101 * MB)[0] is Action.CUT
    left = kept(RULES, live=False)
    assert (left.head, left.head + left.tail) == (1_250_000, 10 * MB)


def test_a_log_that_is_being_written_has_a_limit() -> None:
    assert verdict(Kind.LOG, None, size=256 * MB)[0] is Action.KEEP
    assert verdict(Kind.LOG, None, size=257 * MB)[0] is Action.CUT
    assert judge(thing(Kind.LOG, None, size=193 * MB), RULES, NOW, low=True).action is Action.CUT
    assert judge(thing(Kind.LOG, None, size=192 * MB), RULES, NOW, low=True).action is Action.KEEP
    left = kept(RULES, live=True)
    assert (left.head, left.tail) == (16 * MB, 128 * MB)
    unlimited = Retention(**{**vars(RULES), "log_limit_mb": 0})
    assert judge(thing(Kind.LOG, None, size=1 << 50), unlimited, NOW, low=True).action is Action.KEEP


def test_a_disk_is_low_below_the_floor() -> None:
    assert low([50_000 * MB, 9_999 * MB], RULES)
    assert not low([50_000 * MB, 10_000 * MB], RULES)
    assert not low([0], Retention(**{**vars(RULES), "free_gb": 0}))


def test_a_model_or_a_link_refers() -> None:
    told = References(
        stamp=1,
        datasets={"azaion-2026-01-01": "model m refers to it"},
        links={"/root/base.pt leads there": "/state/jobs/12-ab/run/train/weights/best.pt"},
    )

    def user(kind: Kind, path: str) -> str:
        return told.user(Thing(kind=kind, path=Path(path), since=0.0))

    assert user(Kind.DATASET, "/root/datasets/azaion-2026-01-01") == "model m refers to it"
    assert user(Kind.DATASET, "/root/datasets/azaion-2026-01-01-2") == ""
    assert user(Kind.RUN, "/state/jobs/12-ab/run") == "/root/base.pt leads there"
    assert user(Kind.JOB, "/state/jobs/12-ab") == "/root/base.pt leads there"
    assert user(Kind.RUN, "/state/jobs/1-ab/run") == ""
    unknown = References(stamp=1, datasets={}, links={}, unknown="a card cannot be read")
    assert unknown.user(Thing(kind=Kind.DATASET, path=Path("/d/x"), since=0.0)) == "a card cannot be read"


# The store.


@pytest.fixture
def store(tmp_path: Path) -> Any:
    opened = Store(tmp_path / "jobs.sqlite", clock=lambda: NOW)
    yield opened
    opened.close()


def submission(parameters: dict[str, Any], **facts: Any) -> Submission:
    return Submission(kind=JobKind.COMMAND, name="n", parameters=parameters, owner="o", **facts)


def test_a_job_that_has_not_ended_needs_what_it_speaks_of(store: Store) -> None:
    store.submit(submission({"argv": ["sh", "-c", "cat /s/jobs/12-ab/run/x"]}))
    second = store.submit(submission({"dataset": "azaion-2026-01-01"}, after=1, held=True))
    assert store.needing("12-ab") == 1
    assert store.needing("azaion-2026-01-01") == 2
    assert store.needing("nothing", uid=second.uid) == 2
    assert store.needing("nothing", after=1) == 2
    assert store.needing("nothing", after=2) is None
    store._move(2, State.CANCELLED)
    assert store.needing("azaion-2026-01-01", uid=second.uid, after=1) is None


def test_events_are_forgotten_by_age_and_by_number(store: Store) -> None:
    for number in range(10):
        store.note("n", str(number))
    store._connection.execute("UPDATE events SET time = 5 WHERE id <= 3")
    assert store.forget_events(6.0, 100, count=2) == 2
    assert store.forget_events(6.0, 100, count=2) == 1
    assert [event.text for event in store.events()] == [str(number) for number in range(3, 10)]
    assert store.forget_events(0.0, 4) == 3
    assert [event.text for event in store.events()] == ["6", "7", "8", "9"]
    store.note("n", "next")
    assert store.last_event() == 11


def test_events_know_who_asked_and_are_found_by_it(store: Store) -> None:
    anna, ben = Actor("anna", 1000), Actor("ben", 1001)
    job = store.submit(Submission(kind=JobKind.COMMAND, name="n", parameters={}, owner=anna))
    assert (type(job.owner), job.owner, anna.recorded, ben.recorded) == (str, "anna", True, False)
    store.hold(job.id, ben)
    store.note("daemon-started", "")

    def found(**facts: Any) -> list[tuple[str, int | None]]:
        which = EventFilter(**facts)
        assert len(store.events(store.event_before(1, which), which=which)) == bool(store.events(which=which))
        return [(event.type, event.uid) for event in store.events(which=which)]

    assert found() == [("submitted", 1000), ("held", 1001), ("daemon-started", None)]
    assert found(actor="anna") == found(actor="1000") == [("submitted", 1000)]
    assert found(job=1) == [("submitted", 1000), ("held", 1001)]
    assert found(types=("held", "daemon-started")) == [("held", 1001), ("daemon-started", None)]
    assert found(types=("hel",)) == found(since=NOW + 1) == found(job=2) == []
    assert len(found(since=NOW)) == 3


# The last look.


@pytest.fixture
def room(tmp_path: Path, store: Store) -> RetentionRoom:
    variables = {variable.name: str(variable.default) for variable in VARIABLES if variable.section == "retention"}
    known = Installation(tmp_path).variables
    settings = config.settings(known | variables, None)
    config.make_folders(settings.layout)
    return RetentionRoom(settings, store, clock=lambda: NOW)


def old_dataset(room: RetentionRoom) -> Thing:
    path = room._layout.datasets / "azaion-2020-01-01"
    (path / "train").mkdir(parents=True)
    return Thing(kind=Kind.DATASET, path=path, since=0.0, newer=99, uid="key")


@pytest.mark.parametrize("removed", [True, False])
def test_who_submits_after_the_first_look_keeps_the_dataset(
    room: RetentionRoom, store: Store, *, removed: bool
) -> None:
    found, references = old_dataset(room), room._references()
    if removed:
        room._take_out(found, "it is old", references, "anna")
        (taken,) = room._layout.trash(room._layout.datasets).iterdir()
        assert (found.path.exists(), (taken / "train").is_dir()) == (False, True)
        return
    store.submit(submission({"dataset": found.path.name}, held=True))
    with pytest.raises(RetentionError, match="job 1 refers to it"):
        room._take_out(found, "it is old", references, "anna")
    assert (found.path / "train").is_dir()


def test_a_model_that_comes_after_the_first_look_keeps_everything(room: RetentionRoom) -> None:
    found, references = old_dataset(room), room._references()
    (room._layout.models / "azaion-2021-01-01").mkdir()
    with pytest.raises(RetentionError, match="a model has come meanwhile"):
        room._take_out(found, "it is old", references, "anna")
    assert found.path.exists()


def test_a_folder_in_which_something_is_mounted_is_left_alone(
    room: RetentionRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, references = old_dataset(room), room._references()
    monkeypatch.setattr(retention, "_mounted", lambda path: f"{path}/disk")
    with pytest.raises(RetentionError, match="disk is mounted there; unmount it first"):
        room._take_out(found, "it is old", references, "anna")
    assert found.path.exists()


def test_what_is_mounted_is_seen() -> None:
    assert retention._mounted(Path("/proc")) is not None
    assert retention._mounted(Path("/proc/self")) is None


# Who may fill the record.


def test_a_user_who_asks_in_vain_fills_ten_lines_a_minute() -> None:
    now = 0.0
    limiter = Limiter(lambda: now)
    assert [limiter.admit(7) for _ in range(EACH_MINUTE)] == [0] * EACH_MINUTE
    assert [limiter.admit(7) for _ in range(500)] == [None] * 500
    assert limiter.admit(8) == 0
    now = 60.0
    assert limiter.admit(7) == 500
    assert limiter.admit(7) == 0


def test_no_more_users_are_kept_in_mind_than_there_is_room_for() -> None:
    limiter = Limiter(lambda: 0.0)
    for uid in range(5000):
        limiter.admit(uid)
    assert len(limiter._minutes) == 1000


# Giving back a part of a file.


def test_a_part_of_a_file_is_given_back_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"x" * (1 << 20))
        before = path.stat().st_blocks
        files.give_back(path, 1 << 19, 1 << 18)
        writer.write(b"end")
    assert path.stat().st_blocks < before
    assert path.read_bytes() == b"x" * (1 << 18) + bytes(1 << 19) + b"x" * (1 << 18) + b"end"


def test_no_link_is_followed_and_nothing_but_a_file_is_touched(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"x" * 100)
    (tmp_path / "link").symlink_to("target")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="symbolic links"):
        files.give_back(tmp_path / "link", 50)
    with pytest.raises(files.FileError, match="not a regular file"):
        files.give_back(tmp_path / "pipe", 50)
    assert (tmp_path / "target").read_bytes() == b"x" * 100


def test_a_filesystem_that_gives_nothing_back_holds_up_no_other_log(
    room: RetentionRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(files, "give_back", refuse)
    log = room._layout.state / "log"
    with log.open("wb") as stream:
        stream.truncate(1000 * MB)
    large = Thing(kind=Kind.LOG, path=log, since=None, size=1000 * MB)
    asyncio.run(room._cut_if_due(large, low=False))
    assert log in room._told
    with pytest.raises(RetentionError, match="cannot give back"):
        room._cut_now(large)
