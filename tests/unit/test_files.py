"""Durable writes: the order of the steps, and what is left when one fails."""

import os
from pathlib import Path
from typing import Any

import pytest

from azaion import files


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the disk, in order."""
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        seen.append("fsync folder" if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() else "fsync file")
        fsync(descriptor)

    def noted_replace(*names: Any, **options: Any) -> None:
        seen.append("rename")
        replace(*names, **options)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return seen


def test_the_content_is_durable_before_the_name_and_the_name_before_we_return(tmp_path: Path, steps: list[str]) -> None:
    files.replace(tmp_path / "file", b"new")
    assert steps == ["fsync file", "rename", "fsync folder"]


def test_what_need_not_last_is_atomic_all_the_same(tmp_path: Path, steps: list[str]) -> None:
    files.replace(tmp_path / "file", b"new", durable=False)
    assert steps == ["rename"]


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def refuse(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        files.replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_each_missing_folder_is_durable_in_its_parent(tmp_path: Path, steps: list[str]) -> None:
    (tmp_path / "used").touch()
    files.make_folder(tmp_path / "a" / "b")
    assert steps == ["fsync folder", "fsync folder"]
    # Who made it may have died right then; once something is in it, it was flushed.
    files.make_folder(tmp_path / "a" / "b")
    assert steps == ["fsync folder"] * 3
    (tmp_path / "a" / "b" / "used").touch()
    files.make_folder(tmp_path / "a" / "b")
    assert steps == ["fsync folder"] * 3


def test_half_a_character_is_none(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b'{"a\\udc00": ["\\ud800", "\\ud83d\\ude00", "\\u00e4", 1.5]}')
    assert files.read_json(path) == {"a?": ["?", "\U0001f600", "\u00e4", 1.5]}


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a": NaN}', b'{"a": 1e999}', b'{"a": -Infinity}']
)
def test_what_is_no_json_object_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(files.FileError):
        files.read_json(path)


def test_a_link_a_folder_and_a_pipe_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/hostname")
    for name in ("pipe", "link", "."):
        with pytest.raises(files.FileError):
            files.read_json(tmp_path / name)
