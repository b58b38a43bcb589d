from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from azaion import failpoints
from azaion.annotations import offset
from azaion.annotations.errors import AnnotationError
from azaion.annotations.offset import Position


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "offset.yaml"


def test_nothing_has_been_read_yet(path: Path) -> None:
    assert offset.read(path) is None


@given(
    position=st.builds(
        Position,
        st.integers(0, 1 << 63),
        st.integers(0, 1 << 63),
        st.none() | st.text(max_size=20),
        st.none() | st.text("0123456789abcdef", min_size=64, max_size=64),
    )
)
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, position: Position) -> None:
    path = tmp_path_factory.mktemp("offset") / "offset.yaml"
    offset.write(path, position)
    assert offset.read(path) == position


def test_a_person_can_read_it(path: Path) -> None:
    offset.write(path, Position(1234, 5, "/var/lib/azaion/spool"))
    told = yaml.safe_load(path.read_text())
    assert list(told) == ["stream", "incarnation", "offset", "time"]
    assert (told["stream"], told["incarnation"], told["offset"]) == ("/var/lib/azaion/spool", 1234, 5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "offset: 5",
        "incarnation: 5",
        "incarnation: 1\noffset: -1",
        "incarnation: -1\noffset: 1",
        "incarnation: 1\noffset: 1.0",
        "incarnation: 1\noffset: true",
        "incarnation: 1\noffset: '1'",
        "incarnation: abc\noffset: 1",
        "incarnation: 1\noffset: .nan",
        "- 1",
        "{",
        "a: &a [1]\nb: *a",
        "incarnation: 1\noffset: " + "9" * 5000,
        "\0",
        "[" * 10_000,
    ],
    ids=range(16),
)
def test_a_damaged_file_is_told_and_left(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(AnnotationError, match="Restore it from a backup, or decide where to go on"):
        offset.read(path)
    assert path.read_text() == text


def test_a_torn_or_hostile_file(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AnnotationError, match="UTF-8"):
        offset.read(path)
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(AnnotationError, match="link"):
        offset.read(path)
    path.unlink()
    (tmp_path / "offset.yaml").mkdir()
    with pytest.raises(AnnotationError):
        offset.read(path)


def test_a_full_disk_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offset.write(path, Position(1, 5))
    before = path.read_bytes()

    def full(name: str) -> None:
        if name == "files.replace.rename":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(failpoints, "hit", full)
    with pytest.raises(OSError, match="No space"):
        offset.write(path, Position(1, 6))
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["offset.yaml"]
