import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from azaion import dataset, files
from azaion.dataset import DatasetError, Snapshot, Split
from azaion.dataset.split import side
from azaion.layout import Layout
from tests.annotation_trees import LABEL, annotate, annotate_many, content, picture, tree

TODAY = date(2025, 3, 9)

#: Enough media that both sides have some.
MANY = [f"tile {number:02}" for number in range(40)]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return tree(tmp_path)


@pytest.fixture
def full(layout: Layout) -> Layout:
    annotate_many(layout, MANY)
    return layout


def form(layout: Layout, key: str = "job-1") -> Snapshot:
    return dataset.form(layout, today=TODAY, key=key)


def sides(snapshot: Snapshot) -> dict[str, str]:
    return {path.stem: path.parts[-3] for path in snapshot.path.glob("*/images/*")}


def litter(layout: Layout) -> list[str]:
    return [path.name for path in layout.datasets.iterdir() if path.name.startswith(files.TEMPORARY_PREFIX)]


def corrupted(layout: Layout) -> dict[str, str]:
    return {path.parent.name: json.loads(path.read_text())["reason"] for path in layout.corrupted.glob("*/reason.json")}


def test_a_snapshot_holds_every_annotation_once(full: Layout) -> None:
    before = content(full.root / "data")
    seen: list[tuple[int, int]] = []
    snapshot = dataset.form(full, today=TODAY, key="job-1", progress=lambda done, total: seen.append((done, total)))
    assert snapshot.name == "azaion-2025-03-09"
    assert snapshot.path == full.datasets / snapshot.name
    assert sides(snapshot).keys() == set(MANY)
    for name, split in sides(snapshot).items():
        image = snapshot.path / split / "images" / f"{name}.jpg"
        assert image.samefile(full.data.images / f"{name}.jpg")
        label = snapshot.path / split / "labels" / f"{name}.txt"
        assert label.read_text() == LABEL
        assert not label.samefile(full.data.labels / f"{name}.txt")
    assert content(full.root / "data") == before
    assert dataset.verify(snapshot) == []
    assert dataset.load(full, snapshot.name) == snapshot
    assert dataset.names(full) == [snapshot.name]
    assert litter(full) == []
    assert seen[0] == (0, 40)
    assert seen[-1] == (40, 40)


def test_the_manifest_counts(full: Layout) -> None:
    annotate(full, "empty", media="empty", label="")
    (full.data.images / "huge.npy").write_bytes(b"a trainer's cache")
    manifest = form(full).manifest
    assert manifest["key"] == "job-1"
    assert manifest["classes"] == ["tree crown", "red shape"]
    assert manifest["source"] == {"images": 41, "labels": 41, "records": 41, "ignored": 1}
    assert manifest["totals"]["images"] == 41
    assert manifest["totals"]["boxes"] == 80
    assert sum(part["background"] for part in manifest["splits"].values()) == 1
    assert sum(part["media"] for part in manifest["splits"].values()) == 41
    assert sum(manifest["class_counts"]["0"].values()) == 40
    assert manifest["corrupted"] == {"count": 0, "reasons": {}, "files": []}


def test_data_yaml_works_wherever_it_is_moved(full: Layout) -> None:
    document = yaml.safe_load((form(full).path / "data.yaml").read_text())
    assert "path" not in document
    assert "download" not in document
    assert document["train"] == "train/images"
    assert document["val"] == "valid/images"
    assert document["names"] == {0: "tree crown", 1: "red shape"}
    assert document["nc"] == 2


def test_another_key_makes_another_snapshot_and_the_same_key_none(full: Layout) -> None:
    first = form(full, "a")
    second = form(full, "b")
    assert second.name == "azaion-2025-03-09-2"
    assert dataset.form(full, today=date(2026, 1, 1), key="a") == first
    assert form(full, "c").name == "azaion-2025-03-09-3"
    assert dataset.names(full) == [f"azaion-2025-03-09{suffix}" for suffix in ("", "-2", "-3")]
    assert sides(first) == sides(second)


@pytest.mark.parametrize("key", ["", "x" * 201, "a\nb"])
def test_a_key_that_is_none(full: Layout, key: str) -> None:
    with pytest.raises(DatasetError, match="key"):
        form(full, key)


def test_names_that_are_taken_are_left_alone(full: Layout) -> None:
    (full.datasets / "azaion-2025-03-09").symlink_to("/nowhere")
    (full.datasets / "azaion-2025-03-09-2").mkdir()
    assert form(full).name == "azaion-2025-03-09-3"


def test_later_edits_do_not_reach_a_snapshot(full: Layout) -> None:
    snapshot = form(full)
    for name in MANY:
        files.replace(full.data.images / f"{name}.jpg", picture(77))
        (full.data.labels / f"{name}.txt").write_text("0 0.1 0.1 0.1 0.1\n")
    (full.data.images / f"{MANY[0]}.jpg").unlink()
    assert dataset.verify(snapshot) == []


# The sides.


@given(
    media=st.lists(st.one_of(st.none(), st.text(max_size=12)), min_size=1, max_size=30),
    order=st.randoms(use_true_random=False),
)
@hypothesis_settings(deadline=None)
def test_a_side_depends_on_nothing_but_the_media_or_the_content(
    media: list[str | None],
    order: Random,
) -> None:
    images = [(name, f"{number:064x}") for number, name in enumerate(media)]
    before = {image: side(media=image[0], sha256=image[1]) for image in images}
    order.shuffle(images)
    assert {image: side(media=image[0], sha256=image[1]) for image in images} == before
    for name, split in {(name, split) for (name, _), split in before.items() if name}:
        assert side(media=name, sha256="0" * 64) is split


def test_shares_are_about_70_20_10() -> None:
    found = [side(media=f"video {number}.mp4", sha256="") for number in range(20_000)]
    assert abs(found.count(Split.TRAIN) / 20_000 - 0.7) < 0.02
    assert abs(found.count(Split.VALID) / 20_000 - 0.2) < 0.02


def test_frames_of_one_video_stay_together_and_new_images_move_no_old_one(full: Layout) -> None:
    for number in range(12):
        annotate(full, f"frame{number}", media="flight.mp4")
    first = sides(form(full, "a"))
    assert len({first[f"frame{number}"] for number in range(12)}) == 1
    annotate_many(full, [f"later {number}" for number in range(30)])
    for name in MANY[:5]:
        (full.data.images / f"{name}.jpg").unlink()
        (full.data.labels / f"{name}.txt").unlink()
    second = sides(form(full, "b"))
    assert {name: second[name] for name in first if name in second} == {
        name: split for name, split in first.items() if name not in MANY[:5]
    }


def test_no_image_is_on_two_sides(layout: Layout) -> None:
    names = {split: [f"{split} {number}" for number in range(4)] for split in Split}
    media = {split: [name for name in MANY if side(media=f"{name}.mp4", sha256="") is split] for split in Split}
    pictures = {split: [picture(1000 * place + number) for number in range(4)] for place, split in enumerate(Split)}
    for split in Split:
        for name, image in zip(names[split], pictures[split], strict=True):
            annotate(layout, name, media=f"{media[split][0]}.mp4", image=image)
    # What is learnt from judges nothing, nor does what chooses the best epoch; twice on one side it stays.
    annotate(layout, "a learnt one", media=f"{media[Split.VALID][0]}.mp4", image=pictures[Split.TRAIN][0], label="")
    annotate(layout, "another", media=f"{media[Split.TEST][0]}.mp4", image=pictures[Split.TRAIN][0])
    annotate(layout, "a choosing one", media=f"{media[Split.TEST][0]}.mp4", image=pictures[Split.VALID][1])
    annotate(layout, "a judging one", media=f"{media[Split.TEST][0]}.mp4", image=pictures[Split.TEST][2])
    before = content(layout.root / "data")
    snapshot = form(layout)
    assert sides(snapshot) == {name: split for split in Split for name in names[split]} | {"a judging one": "test"}
    assert snapshot.manifest["doubles"] == {
        "count": 3,
        "files": ["valid/images/a learnt one.jpg", "test/images/a choosing one.jpg", "test/images/another.jpg"],
    }
    assert [
        snapshot.manifest["splits"][split][kind] for split in Split for kind in ("images", "boxes", "background")
    ] == [
        *(4, 8, 0),
        *(4, 8, 0),
        *(5, 10, 0),
    ]
    assert dataset.verify(snapshot) == []
    assert content(layout.root / "data") == before
    assert corrupted(layout) == {}


def test_a_side_that_is_empty_since_its_images_are_on_another(layout: Layout) -> None:
    for number in range(30):
        annotate(layout, f"{number}", media=f"{number}.mp4", image=picture(1))
    with pytest.raises(
        DatasetError, match=r"valid side would be empty[^\n]*\n  \d+ not taken: the same image is on another side"
    ):
        form(layout)


def test_files_of_the_old_product_have_no_record(layout: Layout) -> None:
    for name in MANY:
        annotate(layout, name, record=False)
    snapshot = form(layout)
    assert snapshot.manifest["source"]["records"] == 0
    assert snapshot.manifest["totals"]["images"] == 40
    assert dataset.verify(snapshot) == []


def test_an_empty_side_is_an_error_that_says_what_to_do(layout: Layout) -> None:
    with pytest.raises(DatasetError, match="holds no annotation"):
        form(layout)
    annotate(layout, "only", media="one.mp4")
    with pytest.raises(DatasetError, match=r"(?s)side would be empty.*of 1 so far.*other videos"):
        form(layout)
    assert dataset.names(layout) == []
    assert litter(layout) == []


def test_an_absent_folder_is_an_error(layout: Layout) -> None:
    files.remove_tree(layout.data.labels)
    with pytest.raises(DatasetError, match="not mounted"):
        form(layout)


# Broken annotations.


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (None, "no label"),
        ("0 0.5 0.5 0.2", "label"),
        ("0 0.5 0.5 0.2 0.2 0.9", "label"),
        ("tree 0.5 0.5 0.2 0.2", "label"),
        ("0 a b c d", "label"),
        ("-1 0.5 0.5 0.2 0.2", "label"),
        ("0.0 0.5 0.5 0.2 0.2", "label"),
        ("0 0.5 0.5 0_1 0.2", "label"),
        (b"\xef\xbb\xbf0 0.5 0.5 0.2 0.2", "label"),
        (b"\xff\x00\xfe", "label"),
        ("99999999999999999999 0.5 0.5 0.2 0.2", "label"),
        ("\N{ARABIC-INDIC DIGIT ZERO} 0.5 0.5 0.2 0.2", "label"),
        ("2 0.5 0.5 0.2 0.2", "classes.json"),
        ("0 1.5 0.5 0.2 0.2", "box"),
        ("0 -0.1 0.5 0.2 0.2", "box"),
        ("0 0.5 0.5 0 0.2", "box"),
        ("0 nan 0.5 0.2 0.2", "box"),
        ("0 0.5 0.5 0.2 inf", "box"),
    ],
)
def test_broken_labels_are_set_aside(full: Layout, label: str | bytes | None, reason: str) -> None:
    annotate(full, "bröken one", media="m", label=label)
    before = content(full.root / "data")
    manifest = form(full).manifest
    assert manifest["totals"]["images"] == 40
    assert manifest["corrupted"]["count"] == 1
    assert reason in manifest["corrupted"]["files"][0]["reason"]
    folder = full.corrupted / "bröken one.jpg"
    assert reason in json.loads((folder / "reason.json").read_text())["reason"]
    assert (folder / "bröken one.jpg").read_bytes() == (full.data.images / "bröken one.jpg").read_bytes()
    assert (folder / "bröken one.txt").exists() == (label is not None)
    assert content(full.root / "data") == before


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"\xff",
        b"not an image at all",
        picture(1)[:200],
        picture(1, "PNG")[:20],
        picture(1, size=9),
        b"%!PS-Adobe-3.0",
    ],
    ids=["empty", "byte", "text", "cut jpeg", "cut png", "tiny", "postscript"],
)
def test_broken_images_are_set_aside(full: Layout, image: bytes) -> None:
    annotate(full, "broken", image=image, record=False)
    manifest = form(full).manifest
    assert manifest["totals"]["images"] == 40
    assert manifest["corrupted"]["reasons"] == {"the image cannot be read": 1}
    assert (full.corrupted / "broken.jpg" / "broken.jpg").read_bytes() == image


def test_a_second_snapshot_does_not_pile_up_copies(full: Layout) -> None:
    annotate(full, "broken", label="x")
    form(full, "a")
    before = {path: path.stat().st_mtime_ns for path in full.corrupted.rglob("*")}
    form(full, "b")
    assert {path: path.stat().st_mtime_ns for path in full.corrupted.rglob("*")} == before
    annotate(full, "broken", label="y z")
    form(full, "c")
    assert (full.corrupted / "broken.jpg" / "broken.txt").read_text() == "y z"
    assert len(list(full.corrupted.rglob("*"))) == len(before)


def test_links_and_folders_in_data_are_not_followed(full: Layout, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(picture(3))
    (full.data.images / "link.jpg").symlink_to(secret)
    (full.data.labels / "link.txt").write_text(LABEL)
    annotate(full, "labelled", label=None)
    (full.data.labels / "labelled.txt").symlink_to(secret)
    (full.data.images / "folder.jpg").mkdir()
    os.mkfifo(full.data.images / "pipe.png")
    (full.data.images / ".tmp-0123").write_bytes(b"in flight")
    (full.data.labels / "lonely.txt").write_text(LABEL)
    snapshot = form(full)
    assert snapshot.manifest["totals"]["images"] == 40
    assert corrupted(full) == {
        "link.jpg": "it is not a regular file",
        "folder.jpg": "it is not a regular file",
        "pipe.png": "it is not a regular file",
        "labelled.txt": "it is not a regular file",
        "labelled.jpg": "the image has no label",
        "lonely.txt": "the label has no image",
    }
    assert not (full.corrupted / "link.jpg" / "link.jpg").exists()


def test_a_name_that_is_no_text(full: Layout) -> None:
    for name in (b"new\nline.jpg", b"latin\xe9.jpg"):
        Path(os.fsdecode(os.path.join(os.fsencode(full.data.images), name))).write_bytes(picture(1))  # noqa: PTH118 bytes
    manifest = form(full).manifest
    assert manifest["corrupted"]["reasons"] == {"the name is no plain text": 2}


def test_two_images_of_one_name(full: Layout) -> None:
    annotate(full, "two", image=picture(1, "PNG"), extension="png")
    (full.data.images / "two.jpg").write_bytes(picture(2))
    snapshot = form(full)
    assert [path.name for path in snapshot.path.glob("*/images/two.*")] == ["two.png"]
    assert corrupted(full) == {"two.jpg": "two images have the same name"}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"media": 3}', '{"media": ["x"]}', '{"extension": {}}', "[" * 100_000],
    ids=["empty", "list", "torn", "number", "list inside", "object", "deep"],
)
def test_a_damaged_record_keeps_its_image_out(full: Layout, text: str) -> None:
    annotate(full, "odd", media="m")
    (full.records / "odd.json").write_text(text)
    assert form(full).manifest["corrupted"]["reasons"] == {"the record cannot be read": 1}


def test_a_record_that_is_a_link(full: Layout, tmp_path: Path) -> None:
    annotate(full, "odd", media="m")
    (full.records / "odd.json").rename(tmp_path / "odd.json")
    (full.records / "odd.json").symlink_to(tmp_path / "odd.json")
    assert form(full).manifest["corrupted"]["reasons"] == {"the record cannot be read": 1}


@pytest.mark.parametrize(
    "facts", [{"image_sha256": "x"}, {"image_bytes": True}, {"image_bytes": 1}, {"image_sha256": 3}]
)
def test_an_image_is_read_where_no_record_vouches_for_it(full: Layout, facts: dict[str, object]) -> None:
    annotate(full, "odd", media="m", image=b"no image")
    path = full.records / "odd.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    assert form(full).manifest["corrupted"]["reasons"] == {"the image cannot be read": 1}


def refuse(*_: object, **__: object) -> None:
    raise OSError(18, "Invalid cross-device link")


@pytest.mark.parametrize("linked", [True, False])
def test_an_image_whose_record_has_not_come_yet(full: Layout, monkeypatch: pytest.MonkeyPatch, *, linked: bool) -> None:
    """The consumer died, or met a full disk, between the two; of this format all have one size."""
    if not linked:
        monkeypatch.setattr(os, "link", refuse)
    path = annotate(full, "odd", media="m", image=picture(1, "BMP"), extension="bmp")
    record = full.records / "odd.json"
    os.utime(record, (1e9, 1e9))
    os.utime(path, (1e9, 1e9))
    assert dataset.verify(form(full, "before")) == []
    other = path.with_name("other")
    other.write_bytes(picture(2, "BMP"))
    os.utime(other, (2e9, 2e9))
    other.replace(path)
    snapshot = form(full, "within")
    assert dataset.verify(snapshot) == []
    (image,) = snapshot.path.glob("*/images/odd.bmp")
    assert image.read_bytes() == picture(2, "BMP")


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("tail", [b"", b"\xff", b"\xff\xd9\x00\x00garbage"], ids=["none", "half", "garbage"])
def test_a_jpeg_without_its_end_is_repaired_in_the_copy_alone(full: Layout, tail: bytes, *, record: bool) -> None:
    whole = picture(8)
    path = annotate(full, "cut", media="m", image=whole[:-2] + tail, record=record)
    before = path.read_bytes()
    snapshot = form(full)
    (image,) = snapshot.path.glob("*/images/cut.jpg")
    assert image.read_bytes().endswith(b"\xff\xd9")
    assert not image.samefile(path)
    assert path.read_bytes() == before
    assert snapshot.manifest["totals"]["repaired"] == 1
    assert dataset.verify(snapshot) == []


def test_a_jpeg_that_lacks_picture_data_is_not_repaired(full: Layout) -> None:
    whole = picture(0x123456, size=64)
    annotate(full, "cut", media="m", image=whole[:-12])
    assert form(full).manifest["corrupted"]["reasons"] == {"the image cannot be read": 1}


def test_where_no_link_can_be_made_images_are_copied(full: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse)
    snapshot = form(full)
    assert snapshot.manifest["totals"]["copied"] == 40
    assert dataset.verify(snapshot) == []
    image = next(snapshot.path.glob("*/images/*"))
    assert not image.samefile(full.data.images / image.name)
    data = dataset.view(snapshot, full.state / "view")
    assert all(path.is_symlink() for path in data.parent.glob("*/images/*"))


# The classes.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["a", "b"]', ["a", "b"]),
        ('{"1": "b", "0": "a"}', ["a", "b"]),
        ('[{"id": 1, "NAME": "b", "Color": "#f00"}, {"Id": 0, "Name": "a", "ShortName": "x"}]', ["a", "b"]),
        ('[{"Id": "0", "Name": "Wald 🌲"}, {"Id": 3, "Name": "d"}]', ["Wald 🌲", "class-1", "class-2", "d"]),
    ],
)
def test_forms_of_the_classes(full: Layout, text: str, expected: list[str]) -> None:
    for name in MANY:
        annotate(full, name, media=name, label="0 0.5 0.5 0.1 0.1")
    full.classes.write_text(text)
    snapshot = form(full)
    assert snapshot.manifest["classes"] == expected
    assert yaml.safe_load((snapshot.path / "data.yaml").read_text())["names"] == dict(enumerate(expected))


def test_a_number_in_a_gap_is_not_a_class(full: Layout) -> None:
    full.classes.write_text('{"0": "a", "1": "b", "3": "d"}')
    annotate(full, "gap", label="2 0.5 0.5 0.1 0.1")
    assert form(full).manifest["corrupted"]["reasons"] == {"a class is not in classes.json": 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "3",
        "null",
        '["a", 1]',
        '[["a"]]',
        '[{"Id": 0}]',
        '[{"Id": 0, "Name": "a"}, {"Id": 0, "Name": "b"}]',
        '[{"Id": -1, "Name": "a"}]',
        '[{"Id": true, "Name": "a"}]',
        '[{"Id": 1000000000, "Name": "a"}]',
        '[{"Id": 0, "Name": null}]',
        '[{"Id": 0, "Name": " "}]',
        '["a\\nb"]',
        '["\\ud800"]',
        '{"one": "a"}',
        '{"0": "a", "0": "b"}',
        '{"²": "a"}',
        '{"0": {"download": "x"}}',
        "[" * 100_000,
        '["' + "a" * 300 + '"]',
    ],
)
def test_hostile_classes(full: Layout, text: str) -> None:
    full.classes.write_text(text)
    with pytest.raises(DatasetError, match=r"classes\.json") as raised:
        form(full)
    assert len(str(raised.value)) < 1000
    assert dataset.names(full) == []


def test_absent_classes(full: Layout) -> None:
    full.classes.unlink()
    with pytest.raises(DatasetError, match="does not exist"):
        form(full)
    full.classes.mkdir()
    with pytest.raises(DatasetError, match="cannot be read"):
        form(full)


# Checking.


def rewrite(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    files.replace(path, bytes(data))


def lengthen(path: Path) -> None:
    files.replace(path, path.read_bytes() + b"x")


def link(path: Path) -> None:
    elsewhere = path.parents[3] / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [(rewrite, "changed"), (lengthen, "changed size"), (Path.unlink, "missing"), (link, "not a regular file")],
)
@pytest.mark.parametrize("pattern", ["*/images/*", "*/labels/*"])
def test_verify_finds_damage(full: Layout, damage: Callable[[Path], None], expected: str, pattern: str) -> None:
    snapshot = form(full)
    path = min(snapshot.path.glob(pattern))
    damage(path)
    assert dataset.verify(snapshot) == [f"{path.relative_to(snapshot.path)}: {expected}"]


def test_verify_finds_what_does_not_belong(full: Layout) -> None:
    snapshot = form(full)
    (snapshot.path / "train" / "labels.cache").write_bytes(b"x")
    (snapshot.path / "valid" / "images" / "more").symlink_to("/")
    assert dataset.verify(snapshot) == ["train/labels.cache: extra", "valid/images/more: extra"]


def test_verify_finds_a_changed_manifest_or_list(full: Layout) -> None:
    snapshot = form(full)
    manifest = snapshot.path / "manifest.json"
    files.write_json(manifest, snapshot.manifest | {"key": "other"})
    assert dataset.verify(snapshot) == ["manifest.json: changed"]
    rewrite(snapshot.path / "files.tsv")
    assert "files.tsv is not as it was formed" in dataset.verify(snapshot)[0]
    with pytest.raises(DatasetError, match="damaged"):
        dataset.view(snapshot, full.state / "view")


@pytest.mark.parametrize("name", ["", ".", "..", "../models", "azaion-2025-03-09", "azaion-2025-03-09/", "azaion-x"])
def test_load_of_what_is_not_there(full: Layout, name: str) -> None:
    with pytest.raises(DatasetError, match="There is no dataset"):
        dataset.load(full, name)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "azaion-2025-03-09"}', "x" * 100])
def test_load_of_a_damaged_manifest(full: Layout, text: str) -> None:
    snapshot = form(full)
    (snapshot.path / "manifest.json").unlink()
    (snapshot.path / "manifest.json").write_text(text)
    with pytest.raises(DatasetError, match="damaged"):
        dataset.load(full, snapshot.name)
    assert form(full).name == "azaion-2025-03-09-2"


def test_load_of_a_newer_format(full: Layout) -> None:
    snapshot = form(full)
    files.write_json(snapshot.path / "manifest.json", snapshot.manifest | {"format": 99})
    with pytest.raises(DatasetError, match="newer version"):
        dataset.load(full, snapshot.name)


# The view.


def test_nothing_that_a_trainer_does_reaches_the_snapshot(full: Layout, tmp_path: Path) -> None:
    snapshot = form(full)
    before = content(full.root)
    data = dataset.view(snapshot, tmp_path / "run" / "dataset")
    document = yaml.safe_load(data.read_text())
    assert Path(document["path"]) == tmp_path / "run" / "dataset"
    assert sides(Snapshot(path=data.parent, name="", manifest={})) == sides(snapshot)
    for path in list(data.parent.rglob("*.txt")):
        path.write_text("rewritten in place")
    for path in list(data.parent.rglob("*.jpg")):
        path.with_suffix(".npy").write_bytes(b"cache")
        files.replace(path, picture(99))
    (data.parent / "train" / "labels.cache").write_bytes(b"cache")
    assert content(full.root) == before
    assert dataset.verify(snapshot) == []
    again = dataset.view(snapshot, tmp_path / "run" / "dataset")
    assert not list(again.parent.rglob("*.cache"))
    assert next(again.parent.glob("*/labels/*")).read_text() == LABEL


def test_a_view_is_not_made_over_the_snapshot(full: Layout) -> None:
    snapshot = form(full)
    for target in (snapshot.path, snapshot.path / "train", full.datasets, full.root):
        with pytest.raises(DatasetError, match="within"):
            dataset.view(snapshot, target)
    assert dataset.verify(snapshot) == []


# Death.

FORM = """
import sys
from datetime import date
from pathlib import Path
from random import Random
from azaion import dataset
from azaion.layout import Layout
root = Path(sys.argv[1])
layout = Layout(root=root / "azaion", state=root / "state", spool=root / "spool", socket=root / "socket")
print(dataset.form(layout, today=date(2025, 3, 9), key="job-1").name)
"""


def form_in_a_child(root: Path, failpoints: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "AZAION_FAILPOINTS": failpoints}
    command = [sys.executable, "-c", FORM, str(root)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("step", ["dataset.linked", "dataset.manifest", "dataset.renamed"])
def test_killed_anywhere_and_formed_again_leaves_one_complete_snapshot(full: Layout, tmp_path: Path, step: str) -> None:
    before = content(full.root / "data")
    assert form_in_a_child(tmp_path, f"{step}=1:kill").returncode == -9
    assert dataset.names(full) == (["azaion-2025-03-09"] if step == "dataset.renamed" else [])
    snapshot = form(full)
    assert dataset.names(full) == [snapshot.name] == ["azaion-2025-03-09"]
    assert dataset.verify(snapshot) == []
    assert litter(full) == []
    assert content(full.root / "data") == before


@pytest.mark.parametrize("step", ["dataset.linked", "dataset.manifest", "files.replace.rename"])
@pytest.mark.parametrize("action", ["enospc", "error"])
def test_a_full_disk_leaves_nothing(full: Layout, tmp_path: Path, step: str, action: str) -> None:
    result = form_in_a_child(tmp_path, f"{step}=1:{action}")
    assert result.returncode == 1
    assert dataset.names(full) == []
    assert litter(full) == []
    assert form_in_a_child(tmp_path, "").stdout == "azaion-2025-03-09\n"


def test_formers_at_the_same_time_with_one_key_make_one_snapshot(full: Layout, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORM, str(tmp_path)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {child.communicate(timeout=60)[0] for child in children} == {"azaion-2025-03-09\n"}
    assert dataset.names(full) == ["azaion-2025-03-09"]


def test_the_consumer_is_held_while_the_listing_is_made(full: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []
    real = files.link_or_copy

    def watched(source: str, target: str) -> bool:
        try:
            with files.locked(full.commit_lock, wait=False):
                held.append(False)
        except BlockingIOError:
            held.append(True)
        return real(source, target)

    monkeypatch.setattr(files, "link_or_copy", watched)
    form(full)
    assert all(held)
    assert len(held) == 120
    with files.locked(full.commit_lock, wait=False):
        pass
