"""Control groups. Those of the machine that runs the tests may not be ours to divide, so here they are a folder."""

import os
from pathlib import Path

import pytest

from supervisor.jobs import cgroups
from supervisor.jobs.cgroups import CgroupError
from supervisor.jobs.model import Limits
from tests.shims import attempt, read, start


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The group that has been given to us; the daemon sits in its leaf ``daemon``."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    made = tmp_path / "groups" / "delegated"
    (made / "daemon").mkdir(parents=True)
    for name, text in (("memory.max", "max"), ("cgroup.procs", ""), ("cgroup.subtree_control", "cpu memory pids")):
        (made / name).write_text(text)
    (tmp_path / "own").write_text("4:memory:/elsewhere\n0::/delegated/daemon\n")
    return made


def found(tmp_path: Path) -> Path | None:
    return cgroups.place(tmp_path / "own", tmp_path / "groups")


def test_a_group_that_is_ready_is_used(parent: Path, tmp_path: Path) -> None:
    assert found(tmp_path) == parent


def test_a_group_without_the_controllers_is_not(parent: Path, tmp_path: Path) -> None:
    (parent / "cgroup.subtree_control").write_text("pids\n")
    assert found(tmp_path) is None


def test_the_root_of_all_groups_is_not(parent: Path, tmp_path: Path) -> None:
    (parent / "memory.max").unlink()
    assert found(tmp_path) is None


@pytest.mark.parametrize("text", ["", "0::/\n", "4:memory:/a/b\n"])
def test_nothing_is_used_where_the_daemon_has_no_group(parent: Path, tmp_path: Path, text: str) -> None:
    assert found(tmp_path) == parent
    (tmp_path / "own").write_text(text)
    assert found(tmp_path) is None


def test_root_may_write_everywhere_and_so_needs_the_mark(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert found(tmp_path) is None
    marks = {(str(parent), "trusted.delegate"): b"1"}

    def mark(path: Path, name: str) -> bytes:
        if (str(path), name) in marks:
            return marks[str(path), name]
        raise OSError

    monkeypatch.setattr(os, "getxattr", mark)
    assert found(tmp_path) == parent


def test_a_group_carries_the_limits_and_takes_the_run_in_before_it_runs(parent: Path, tmp_path: Path) -> None:
    group = cgroups.make(parent, "1-u-1", Limits(memory=1 << 30, cpus=1.5))
    assert (group / "memory.max").read_text() == str(1 << 30)
    assert (group / "memory.oom.group").read_text() == "1"
    assert (group / "cpu.max").read_text() == "150000 100000"
    limits = {"memory": 1 << 30, "cpus": 1.5, "cgroup": str(group)}
    folder = attempt(tmp_path / "1", ["sh", "-c", f"cp {group}/cgroup.procs seen; echo $$ >> seen"], limits=limits)
    assert start(folder).wait(timeout=20) == 0
    inside, pid = (folder.path / "seen").read_text().replace("\n", " ").split()[:1], read(folder.state)["child"]["pid"]
    assert inside[0].startswith(str(pid))
    assert read(folder.state)["enforced"] == {"memory": "cgroup", "cpus": "cgroup"}


def test_a_kill_by_the_group_is_told(parent: Path, tmp_path: Path) -> None:
    group = cgroups.make(parent, "1-u-1", Limits(memory=1 << 30))
    (group / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    limits = {"memory": 1 << 30, "cgroup": str(group)}
    folder = attempt(tmp_path / "1", ["sh", "-c", "kill -KILL $$"], limits=limits)
    assert start(folder).wait(timeout=20) == 0
    assert (read(folder.exit)["oom"], read(folder.exit)["memory"]) == (True, None)


def test_a_group_that_cannot_be_entered_leaves_the_rest(parent: Path, tmp_path: Path) -> None:
    limits = {"memory": 1 << 30, "cpus": 1, "cgroup": str(parent / "gone")}
    folder = attempt(tmp_path / "1", ["true"], limits=limits)
    assert start(folder).wait(timeout=20) == 0
    assert read(folder.state)["enforced"]["memory"] == "watched"
    assert "processors" in read(folder.state)["enforced"]["cpus"]
    assert "cannot be used" in folder.log.read_text()


def test_a_group_that_cannot_be_made_is_told(parent: Path) -> None:
    (parent / "azaion-1-u-1").write_text("in the way")
    with pytest.raises(CgroupError, match="cannot be made"):
        cgroups.make(parent, "1-u-1", Limits(memory=1 << 30))


def test_a_group_is_removed_with_its_attempt(parent: Path) -> None:
    group = cgroups.make(parent, "1-u-1", Limits())
    cgroups.remove(parent, "1-u-1")
    cgroups.remove(parent, "1-u-1")
    assert not group.exists()
