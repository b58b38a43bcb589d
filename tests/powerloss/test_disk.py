"""What the model of a disk says that is left after a cut."""

import random
from collections.abc import Sequence

from tests.powerloss.disk import Disk
from tests.powerloss.trace import Call


def call(name: str, path: str = "", *, to: str = "", number: int | None = None, count: int = 0) -> Call:
    return Call(name=name, path=f"/r/{path}".rstrip("/"), to=to, number=number, count=count)


def made(path: str) -> Call:
    return Call(name="open", path=f"/r/{path}", flags=frozenset({"O_CREAT"}))


def written(path: str, data: bytes) -> Call:
    return Call(name="write", path=f"/r/{path}", data=data)


def left(*calls: Call, moment: int | None = None) -> list[dict[str, bytes]]:
    """All that may be left, at the end or earlier."""
    disk = Disk("/r")
    for each in calls:
        disk.do(each)
    states = disk.states(disk.now if moment is None else moment, random.Random(1), 1000)
    found: list[dict[str, bytes]] = []
    found += [dict(state.files) for state in states if dict(state.files) not in found]
    return [state for number, state in enumerate(found) if state not in found[:number]]


def same(found: Sequence[dict[str, bytes]], *expected: dict[str, bytes]) -> bool:
    return sorted(sorted(state.items()) for state in found) == sorted(sorted(state.items()) for state in expected)


def test_what_was_flushed_is_there() -> None:
    assert same(left(made("a"), written("a", b"1"), call("fsync", "a"), call("fsync")), {"a": b"1"})
    assert same(left(made("a"), written("a", b"1"), call("sync")), {"a": b"1"})


def test_a_flush_of_a_file_says_nothing_of_its_name() -> None:
    assert same(left(made("a"), written("a", b"1"), call("fsync", "a")), {}, {"a": b"1"})


def test_a_name_says_nothing_of_the_content() -> None:
    assert same(left(made("a"), written("a", b"1"), call("fsync")), {"a": b""}, {"a": b"1"}, {"a": b"\0"})


def test_a_replaced_file_is_the_old_or_the_new_one() -> None:
    before = [made("a"), written("a", b"old"), call("sync"), made("t"), written("t", b"new"), call("fsync", "t")]
    found = left(*before, call("rename", "t", to="/r/a"))
    assert same(found, {"a": b"old"}, {"a": b"old", "t": b"new"}, {"a": b"new"})
    # Without the flush it may be empty.
    assert {"a": b""} in left(*before[:-1], call("rename", "t", to="/r/a"))
    assert same(left(*before, call("rename", "t", to="/r/a"), call("fsync")), {"a": b"new"})


def test_a_move_between_folders_is_one_change() -> None:
    start = [call("mkdir", "x"), call("mkdir", "y"), made("x/a"), call("sync"), call("rename", "x/a", to="/r/y/a")]
    assert same(left(*start), {"x/a": b""}, {"y/a": b""})
    # A flush of either folder is one of both, and of what came before in them.
    assert same(left(*start[:-1], made("x/b"), start[-1], call("fsync", "y")), {"x/b": b"", "y/a": b""})


def test_folders_know_nothing_of_one_another() -> None:
    start = [call("mkdir", "x"), call("mkdir", "y"), call("sync"), made("x/a"), made("y/b")]
    assert same(left(*start), {}, {"x/a": b""}, {"y/b": b""}, {"x/a": b"", "y/b": b""})


def test_writes_are_kept_in_order_and_torn_at_sectors() -> None:
    found = left(made("a"), call("sync"), written("a", b"1" * 1024), written("a", b"2"))
    kept = {state["a"] for state in found}
    assert {b"", b"1" * 1024, b"1" * 1024 + b"2"} <= kept
    assert not any(b"2" in data and b"1" * 1024 not in data for data in kept)
    assert all(data.rstrip(b"\0") in {b"", b"1" * 512, b"1" * 1024, b"1" * 1024 + b"2"} for data in kept)


def test_an_earlier_moment_knows_of_no_later_flush() -> None:
    calls = [made("a"), written("a", b"1"), call("sync")]
    assert same(left(*calls, moment=1), {}, {"a": b""})
    assert {} in left(*calls, moment=2)
    assert same(left(*calls, moment=3), {"a": b"1"})


def test_what_has_no_name_any_more_leaves_nothing() -> None:
    assert same(left(made("a"), call("sync"), call("unlink", "a"), written("a", b"1"), call("fsync")), {})


def test_a_copy_an_allocation_and_a_cut() -> None:
    start = [made("a"), written("a", b"12345"), made("b"), call("copy", "b", to="/r/a", number=1, count=3)]
    assert same(left(*start, call("allocate", "b", number=5), call("sync")), {"a": b"12345", "b": b"234\0\0"})
    assert same(left(*start, call("truncate", "b", number=1), call("sync")), {"a": b"12345", "b": b"2"})
