"""What is told of datasets: changes, damage, pictures."""

import os
import random
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azaion import dataset
from azaion.dataset import Snapshot, Split, images
from azaion.dataset.errors import DatasetError
from azaion.dataset.sheet import sheet
from azaion.dataset.split import side
from tests.training_runs import World

TODAY = date(2026, 11, 23)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, images=40, size=32)


def form(world: World, key: str) -> Snapshot:
    return dataset.form(world.layout, today=TODAY, key=key)


def replace(path: Path, data: bytes) -> None:
    """As the store writes: what is linked elsewhere stays as it was."""
    path.unlink()
    path.write_bytes(data)


def test_what_has_changed_is_named(world: World) -> None:
    first = form(world, "a")
    images, labels = world.layout.data.images, world.layout.data.labels
    for name in ("shape-0001", "shape-0002"):
        (images / f"{name}.jpg").unlink()
        (labels / f"{name}.txt").unlink()
    replace(labels / "shape-0003.txt", b"0 0.5 0.5 0.1 0.1\n")
    other = (images / "shape-0004.jpg").read_bytes()
    replace(images / "shape-0005.jpg", other)
    (images / "new.jpg").write_bytes(other)
    (labels / "new.txt").write_bytes(b"")
    found = dataset.difference(first, form(world, "b"))
    assert found.added == ("new",)
    assert found.removed == ("shape-0001", "shape-0002")
    assert found.relabelled == ("shape-0003",)
    assert found.replaced == ("shape-0005",)
    # Without a media the content decides the side, so only this one may have moved.
    assert set(found.moved) <= {"shape-0005"}
    same = dataset.difference(first, first)
    assert not any((same.added, same.removed, same.replaced, same.relabelled, same.moved))


def test_an_image_without_a_record_is_read_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = sorted(world.layout.data.images.iterdir())
    for path in pictures:
        os.utime(path, (1e9, 1e9))
    first = form(world, "a")
    read: list[str] = []
    whole = images.inspect

    def inspect(path: str, vouched: images.Vouched | None = None) -> images.Image:
        if vouched is None:
            read.append(Path(path).name)
        return whole(path, vouched)

    monkeypatch.setattr(images, "inspect", inspect)
    # Written in place, so that it is the same file; written anew; and written in place with its old time.
    pictures[0].write_bytes(pictures[1].read_bytes())
    replace(pictures[2], pictures[3].read_bytes())
    os.utime(pictures[2], (1e9, 1e9))
    pictures[4].write_bytes(pictures[5].read_bytes() + b"longer")
    os.utime(pictures[4], (1e9, 1e9))
    second = form(world, "b")
    assert read == [pictures[0].name, pictures[2].name, pictures[4].name]
    assert set(dataset.difference(first, second).replaced) == {
        path.stem for path in (pictures[0], pictures[2], pictures[4])
    }
    assert dataset.verify(second) == []
    # Of a damaged dataset nothing is believed; of the one before it everything is.
    read.clear()
    replace(second.folder.files, b"")
    form(world, "c")
    assert (
        {pictures[2].name, pictures[4].name}
        <= set(read)
        <= {path.name for path in (pictures[0], pictures[2], pictures[4])}
    )


def flip(path: Path, dice: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    replace(path, bytes(data))


def truncate(path: Path, dice: random.Random) -> None:
    replace(path, path.read_bytes()[: dice.randrange(path.stat().st_size)])


def grow(path: Path, _: random.Random) -> None:
    replace(path, path.read_bytes() + b" ")


def delete(path: Path, _: random.Random) -> None:
    path.unlink()


def redirect(path: Path, _: random.Random) -> None:
    aside = path.with_name(f"aside-{path.name}")
    path.rename(aside)
    path.symlink_to(aside.name)


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (flip, truncate, grow, delete, redirect)


@pytest.mark.parametrize("seed", range(6))
def test_all_that_is_damaged_is_found_and_nothing_else_is_named(world: World, seed: int) -> None:
    snapshot = form(world, "a")
    assert dataset.verify(snapshot) == []
    dice = random.Random(seed)
    own = {snapshot.folder.manifest, snapshot.folder.files}
    there = [path for path in sorted(snapshot.path.rglob("*")) if path.is_file() and path not in own]
    told: list[tuple[int, int]] = []
    damaged, extra = set(), set()
    for path in dice.sample([path for path in there if path.stat().st_size], 7):
        damage = dice.choice(DAMAGES)
        damage(path, dice)
        damaged.add(str(path.relative_to(snapshot.path)))
        if damage is redirect:
            extra.add(str(path.with_name(f"aside-{path.name}").relative_to(snapshot.path)))
    for number in range(2):
        added = snapshot.folder.annotations("train").images / f"extra-{number}.jpg"
        added.write_bytes(b"x")
        extra.add(str(added.relative_to(snapshot.path)))
    problems = dataset.verify(snapshot, lambda done, whole: told.append((done, whole)))
    assert {problem.partition(": ")[0] for problem in problems} == damaged | extra
    assert {problem.partition(": ")[0] for problem in problems if problem.endswith(": extra")} == extra
    assert told[-1] == (snapshot.manifest["totals"]["files"],) * 2


def test_a_list_that_was_changed_is_not_believed(world: World) -> None:
    first, second = form(world, "a"), form(world, "b")
    listed = second.folder.files
    replace(listed, listed.read_bytes().replace(b"train", b"valid", 1))
    assert len(dataset.verify(second)) == 1
    with pytest.raises(DatasetError, match="not as it was formed"):
        dataset.difference(first, second)


@given(st.text(min_size=1), st.text(), st.text())
def test_all_frames_of_a_media_are_on_one_side(media: str, first: str, second: str) -> None:
    assert side(media=media, sha256=first) is side(media=media, sha256=second)


@settings(max_examples=20)
@given(st.integers(min_value=0, max_value=1 << 30))
def test_what_comes_or_goes_moves_nothing_else(seed: int) -> None:
    """The side is a function of the media alone, so a world of any size is split as each of its parts."""
    dice = random.Random(seed)
    media = [f"flight-{dice.randrange(1 << 40)}" for _ in range(200)]
    before = {name: side(media=name, sha256="") for name in media}
    kept = dice.sample(media, 100)
    assert {name: side(media=name, sha256="") for name in kept} == {name: before[name] for name in kept}
    assert len(set(before.values())) == 3


def test_a_sheet_shows_the_same_images_for_the_same_seed(world: World) -> None:
    snapshot = form(world, "a")
    whole = sheet(snapshot, split=None, count=9, seed=1)
    assert whole.size == (6 + 3 * 326, 6 + 3 * 340)
    assert whole.tobytes() == sheet(snapshot, split=None, count=9, seed=1).tobytes()
    assert whole.tobytes() != sheet(snapshot, split=None, count=9, seed=2).tobytes()
    # The boxes are there: their colours are in no image.
    assert {(230, 159, 0), (86, 180, 233)} <= {colour for _, colour in whole.getcolors(1 << 24) or []}
    few = sheet(snapshot, split=Split.VALID, count=400, seed=1)
    assert few.width <= whole.width


def test_a_sheet_of_what_cannot_be_read_says_so(world: World) -> None:
    snapshot = form(world, "a")
    for image in snapshot.folder.annotations("valid").images.iterdir():
        replace(image, b"no image")
    with pytest.raises(DatasetError, match="datasets verify"):
        sheet(snapshot, split=Split.VALID, count=1, seed=1)
