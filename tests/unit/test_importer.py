import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from azaion.annotations import importer
from azaion.annotations.errors import AnnotationError
from azaion.annotations.importer import Imported, Options, import_folder
from azaion.annotations.message import Annotation, Role, Status, decode
from azaion.annotations.spool import Spool
from azaion.annotations.store import AnnotationStore
from azaion.layout import Layout
from tests import annotation_trees
from tests.annotation_messages import found
from tests.annotation_trees import picture

LABEL = "0 0.5 0.5 0.2 0.2\n"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return annotation_trees.tree(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.mkdir()
    return path


def put(folder: Path, name: str, image: bytes | None = None, label: str | bytes | None = LABEL) -> Path:
    """An image and its label: side by side, or in two folders where there are such."""
    images, labels = (folder / "images", folder / "labels") if (folder / "images").is_dir() else (folder, folder)
    path = images / name
    path.write_bytes(picture(1) if image is None else image)
    if label is not None:
        (labels / f"{path.stem}.txt").write_bytes(label.encode() if isinstance(label, str) else label)
    return path


def run(layout: Layout, folder: Path, **options: object) -> Imported:
    return import_folder(Spool(layout.spool), folder, Options(**options))  # type: ignore[arg-type]


def sent(layout: Layout) -> dict[str, Annotation]:
    said = [decode(one.status, one.body) for one in Spool(layout.spool).read(0, count=1000, size=1 << 30)]
    return {one.name: one for one in said if isinstance(one, Annotation)}


def apply(layout: Layout) -> None:
    spool = Spool(layout.spool)
    stream = spool.incarnation
    assert stream is not None
    AnnotationStore(layout).apply(spool.read(0, count=1000, size=1 << 30), stream)


@pytest.mark.parametrize("nested", [False, True])
def test_images_and_labels_become_annotations(layout: Layout, folder: Path, nested: bool) -> None:  # noqa: FBT001
    if nested:
        (folder / "images").mkdir()
        (folder / "labels").mkdir()
    put(folder, "a.jpg", picture(1), "3 0.5 0.25 0.2 0.1\n\n1 0.1 0.1 0.1 0.1")
    put(folder, "день 1.PNG", picture(2, "PNG"), "")
    (folder / "notes.md").write_text("no image")
    assert run(layout, folder) == Imported(sent=2, problems=())
    apply(layout)
    tree = found(layout)
    assert set(tree) == {"a", "день 1"}
    assert tree["a"] == ("data", ".jpg", picture(1), "3 0.5 0.25 0.2 0.1\n1 0.1 0.1 0.1 0.1\n")
    assert tree["день 1"] == ("data", ".png", picture(2, "PNG"), "")


def test_who_drew_them(layout: Layout, folder: Path) -> None:
    put(folder, "a.jpg")
    run(layout, folder, role=Role.OPERATOR, email="o@example.com")
    assert (sent(layout)["a"].role, sent(layout)["a"].email) == (Role.OPERATOR, "o@example.com")
    assert sent(layout)["a"].status is Status.CREATED
    apply(layout)
    assert found(layout)["a"].folder == "data-seed"


def test_an_edit(layout: Layout, folder: Path) -> None:
    put(folder, "a.jpg")
    run(layout, folder, status=Status.EDITED)
    assert sent(layout)["a"].status is Status.EDITED


def test_messages_know_their_image_s_place(folder: Path) -> None:
    for name in "abcde":
        put(folder, f"{name}.jpg")
    (folder / "c.txt").unlink()
    found = importer.Folder(folder, Options())
    assert len(found) == 5
    assert [(one.image.stem, one.number) for one in found.messages()] == [("a", 1), ("b", 2), ("d", 4), ("e", 5)]
    assert [(one.image.stem, one.number) for one in found.messages(3, 4)] == [("d", 4)]
    assert [problem.path.stem for problem in found.problems] == ["c"]


@pytest.mark.parametrize(
    ("pattern", "media"),
    [
        (None, {"v1-f1": "v1-f1", "v1-f2": "v1-f2", "other": "other"}),
        ("^(.*)-f", {"v1-f1": "v1", "v1-f2": "v1", "other": "other"}),
        ("^v[0-9]+", {"v1-f1": "v1", "v1-f2": "v1", "other": "other"}),
        ("^other|(x)", {"v1-f1": "v1-f1", "v1-f2": "v1-f2", "other": ""}),
    ],
)
def test_the_media(layout: Layout, folder: Path, pattern: str | None, media: dict[str, str]) -> None:
    for name in media:
        put(folder, f"{name}.jpg")
    run(layout, folder, media=re.compile(pattern) if pattern else None)
    assert {name: one.media for name, one in sent(layout).items()} == media


def test_importing_twice_changes_nothing_on_disk(layout: Layout, folder: Path) -> None:
    for number in range(5):
        put(folder, f"n{number}.jpg", picture(number))
    run(layout, folder)
    apply(layout)
    before = annotation_trees.content(layout.root)
    assert run(layout, folder).sent == 5
    apply(layout)
    assert annotation_trees.content(layout.root) == before


@pytest.mark.parametrize("restored", [False, True])
def test_a_label_that_was_mended_is_sent_anew(layout: Layout, folder: Path, restored: bool) -> None:  # noqa: FBT001
    image = put(folder, "a.jpg")
    os.utime(image, (1e9, 1e9))
    os.utime(folder / "a.txt", (1e9, 1e9))
    run(layout, folder)
    (folder / "a.txt").write_text("7 0.5 0.5 0.1 0.1\n", encoding="utf-8")
    if restored:
        # As it is unpacked from an archive.
        os.utime(folder / "a.txt", (1e9, 1e9))
    run(layout, folder)
    apply(layout)
    assert found(layout)["a"].label == "7 0.5 0.5 0.1 0.1\n"


BAD_LABELS: dict[str, str | bytes | None] = {
    "has no label": None,
    "is not text": b"\xff\xfe0",
    "line 2 of its label is not": LABEL + "0 0.5 0.5 0.2",
    "line 1 of its label is not": "0 0.5 0.5 0.2 0.2 0.9",
    "line 3 of its label is not": "\n\n0.5 0.5 0.5 0.2 0.2",
    "line 1 of its label": "person 0.5 0.5 0.2 0.2",
    "lies outside of the image": "0 1.5 0.5 0.2 0.2",
    "is not a number": "0 nan 0.5 0.2 0.2",
    "not a number": "0 inf 0.5 0.2 0.2",
    "is not a class": "-1 0.5 0.5 0.2 0.2",
    "larger than": LABEL * 60_000,
}


@pytest.mark.parametrize("reason", BAD_LABELS)
def test_a_bad_label_is_told_and_the_others_are_sent(layout: Layout, folder: Path, reason: str) -> None:
    put(folder, "a.jpg")
    bad = put(folder, "b.jpg", None, BAD_LABELS[reason])
    put(folder, "c.jpg")
    before = annotation_trees.content(folder)
    imported = run(layout, folder)
    assert imported.sent == 2
    (problem,) = imported.problems
    assert problem.path == bad
    assert reason in problem.reason
    assert set(sent(layout)) == {"a", "c"}
    assert annotation_trees.content(folder) == before


def test_bad_images_are_told_and_the_others_are_sent(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "_MAX_IMAGE_BYTES", 10_000)
    put(folder, "good.jpg")
    put(folder, "text.jpg", b"no image")
    put(folder, "empty.png", b"")
    put(folder, "tiny.png", picture(1, "PNG", 4))
    put(folder, "large.jpg", picture(1) + bytes(10_000))
    put(folder, "e\u0301.jpg")
    put(folder, " space.jpg")
    put(folder, "x" * 201 + ".jpg")
    (folder / "link.jpg").symlink_to(folder / "good.jpg")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "fifo.jpg")
    for name in ("link", "folder", "fifo"):
        (folder / f"{name}.txt").write_text(LABEL)
    imported = run(layout, folder)
    assert set(sent(layout)) == {"good"}
    told = {problem.path.stem: problem.reason for problem in imported.problems}
    assert len(told) == 10
    assert "too few" in told["tiny"]
    assert "larger than" in told["large"]
    assert "link" in told["link"]
    assert "NFC" in told["e\u0301"]
    assert all(told.values())


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="only such a filesystem keeps such dates")  # noqa: S108
def test_a_date_beyond_every_calendar(layout: Layout) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        os.utime(put(Path(name), "future.jpg"), (1e14, 1e14))
        put(Path(name), "good.jpg")
        (problem,) = run(layout, Path(name)).problems
    assert "year" in problem.reason
    assert set(sent(layout)) == {"good"}


def test_two_images_of_one_name(layout: Layout, folder: Path) -> None:
    """They share a label, and would become one annotation."""
    put(folder, "a.jpg")
    put(folder, "a.png", picture(2, "PNG"))
    put(folder, "b.jpg")
    imported = run(layout, folder)
    assert imported.sent == 2
    (problem,) = imported.problems
    assert problem.path.name == "a.png"
    assert "a.jpg" in problem.reason


def test_nothing_to_import(layout: Layout, folder: Path) -> None:
    with pytest.raises(AnnotationError, match="holds no image"):
        run(layout, folder)
    with pytest.raises(AnnotationError, match="is no folder"):
        run(layout, folder / "absent")
    assert not layout.spool.exists() or not list(layout.spool.iterdir())


def test_images_are_read_one_after_the_other(layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of them could be larger than memory."""
    for number in range(6):
        put(folder, f"n{number}.jpg", picture(number))
    spooled = []
    message = importer._message

    def look(*arguments: object) -> object:
        spooled.append(Spool(layout.spool).end())
        return message(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(importer, "_message", look)
    run(layout, folder)
    assert spooled == [0, 1, 2, 3, 4, 5]


def test_progress_is_told(layout: Layout, folder: Path) -> None:
    for number in range(70):
        shutil.copy(put(folder, "n.jpg"), folder / f"n{number}.jpg")
        (folder / f"n{number}.txt").write_text("")
    told = []
    import_folder(Spool(layout.spool), folder, Options(), lambda done, whole: told.append((done, whole)))
    assert told == [(64, 71), (71, 71)]
