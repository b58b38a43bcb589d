import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from azaion import failpoints, files
from azaion.annotations import store as store_module
from azaion.annotations.store import AnnotationStore, Group
from azaion.annotations.stream import Message
from azaion.layout import Layout
from tests import annotation_trees
from tests.annotation_messages import (
    CREATED,
    OPERATOR,
    VALIDATOR,
    Event,
    Lying,
    created,
    deleted,
    edited,
    expected,
    found,
    messages,
    quarantined,
    validated,
)
from tests.annotation_trees import picture

STREAM = 7
NAMES = ("a", "b", "clip-1", "naïve ş")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return annotation_trees.tree(tmp_path)


def apply(layout: Layout, *groups: Sequence[Message]) -> None:
    """Each group by a store of its own, as if the consumer had been started again in between."""
    for group in groups:
        AnnotationStore(layout).apply(group, STREAM)


def apply_on(store: AnnotationStore, *groups: Sequence[Message]) -> None:
    """Each group by the same store."""
    for group in groups:
        store.apply(group, STREAM)


def play(layout: Layout, *events: Event) -> dict[str, Lying]:
    apply(layout, messages(events))
    return found(layout)


def cut(items: Sequence[Message], dice: random.Random) -> list[Sequence[Message]]:
    """Random groups."""
    groups = []
    while items:
        size = dice.randint(1, 5)
        groups.append(items[:size])
        items = items[size:]
    return groups


EXTENSIONS = st.sampled_from([".jpg", ".png"])
ROLES = st.sampled_from([OPERATOR, VALIDATOR])
NUMBERS = st.integers(1, 3)
KINDS = st.integers(0, 99)
EVENTS = st.one_of(
    st.builds(created, st.sampled_from(NAMES), NUMBERS, ROLES, EXTENSIONS, kind=KINDS),
    st.builds(edited, st.sampled_from(NAMES), st.none() | NUMBERS, ROLES, EXTENSIONS, kind=KINDS),
    st.lists(st.sampled_from(NAMES), max_size=3).map(lambda names: validated(*names)),
    st.lists(st.sampled_from(NAMES), max_size=3).map(lambda names: deleted(*names)),
)
STREAMS = st.lists(EVENTS, min_size=1, max_size=14)
SLOW = hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(events=STREAMS, seed=st.integers(0, 1 << 30))
def test_any_groups_and_any_replay_end_in_the_tree_of_the_table(events: list[Event], seed: int) -> None:
    dice = random.Random(seed)
    stream = messages(events)
    with tempfile.TemporaryDirectory() as folder:
        layout = annotation_trees.tree(Path(folder))
        apply(layout, *cut(stream, dice))
        assert found(layout) == expected(events)
        records = annotation_trees.content(layout.records)
        for _ in range(2):
            apply(layout, *cut(stream[dice.randrange(len(stream)) :], dice))
            assert found(layout) == expected(events)
        kept = quarantined(layout)
        assert all(kept[name]["offset"] == int(name) for name in kept)
        if not kept:
            assert annotation_trees.content(layout.records) == records


@SLOW
@given(events=STREAMS, before=STREAMS, seed=st.integers(0, 1 << 30))
def test_a_store_that_knows_where_its_files_are_ends_in_the_same(
    events: list[Event], before: list[Event], seed: int
) -> None:
    """Long after its start it no longer looks for each name everywhere; failures and replays included."""
    dice = random.Random(seed)
    stream = messages([*before, *events])
    first = len(before)
    left = 0

    def refuse(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        layout = annotation_trees.tree(Path(folder))
        # What the system before this one has left of some of the names.
        apply(layout, stream[:first])
        for name in NAMES[: dice.randrange(3)]:
            (layout.records / f"{name}.json").unlink(missing_ok=True)
        reference = annotation_trees.tree(Path(folder) / "reference")
        shutil.copytree(layout.root, reference.root, dirs_exist_ok=True)
        apply(reference, stream[first:])
        patch.setattr(store_module, "_CAREFUL", dice.choice([0, 1]))
        store = AnnotationStore(layout)
        store.survey()
        patch.setattr(store_module, "_CAREFUL", 10)
        patch.setattr(failpoints, "hit", refuse)
        for group in cut(stream[first:], dice):
            left = dice.choice([0, dice.randint(1, 9)])
            with suppress(OSError):
                store.apply(group, STREAM)
            left = 0
            store.apply(group, STREAM)
        assert found(layout) == found(reference)
        apply_on(store, stream[first + dice.randrange(len(events)) :])
        assert found(layout) == found(reference)


@SLOW
@given(events=STREAMS, seed=st.integers(0, 1 << 30))
def test_an_event_out_of_quarantine_ends_as_if_it_had_come_in_time(events: list[Event], seed: int) -> None:
    """One event is withheld; it, and whatever needed it, is retried when all the others are there."""
    dice = random.Random(seed)
    # Creations that repeat one another are another test's matter.
    events = [
        Event(**{**vars(event), "picture": 10 + number, "day": 10 + number}) if event.status == CREATED else event
        for number, event in enumerate(events)
    ]
    stream = messages(events)
    withheld = dice.choice(stream)
    with tempfile.TemporaryDirectory() as folder:
        layout = annotation_trees.tree(Path(folder))
        apply(layout, *cut([message for message in stream if message is not withheld], dice))
        retried = sorted({withheld.offset, *(int(name) for name in quarantined(layout))})
        apply(layout, *([stream[offset]] for offset in retried))
        assert found(layout) == expected(events)
        apply(layout, *cut(stream[dice.randrange(len(stream)) :], dice))
        assert found(layout) == expected(events)


class _PowerCut(BaseException):
    """The process dies here: nothing of ours may run after it."""


@SLOW
@given(events=STREAMS, seed=st.integers(0, 1 << 30))
def test_deaths_between_any_two_steps(events: list[Event], seed: int) -> None:
    """At a random step the process is gone; the next one reads on from the last commit, in larger or smaller groups."""
    dice = random.Random(seed)
    stream = messages(events)
    left = 0

    def die(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise _PowerCut

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        layout = annotation_trees.tree(Path(folder))
        patch.setattr(failpoints, "hit", die)
        offset, deaths = 0, 0
        while offset < len(stream):
            left = dice.randint(1, 12) if deaths < 6 else 0
            size = dice.randint(1, 6)
            store = AnnotationStore(layout)
            store.clean()
            try:
                store.apply(stream[offset : offset + size], STREAM)
            except _PowerCut:
                deaths += 1
            else:
                offset += size
        AnnotationStore(layout).clean()
        assert found(layout) == expected(events)


def prepared(store: AnnotationStore, stream: Sequence[Message]) -> Group:
    group = store.group(stream, STREAM)
    store.prepare(group)
    return group


class _Pipeline:
    """Commits a stream: at a random step of each commit the next group is made ready, the disk refuses, or we die."""

    def __init__(self, layout: Layout, stream: Sequence[Message], dice: random.Random) -> None:
        self._layout = layout
        self._stream = stream
        self._dice = dice
        self._plan: dict[int, Callable[[], None]] = {}
        self._steps = 0
        self._troubles = 6
        self.offset = 0

    def hit(self, _: str) -> None:
        self._steps += 1
        if (act := self._plan.pop(self._steps, None)) is not None:
            act()

    def run(self) -> None:
        """One process, which reads on from the last commit, until its end."""
        self._plan = {}
        store = AnnotationStore(self._layout)
        store.clean()
        groups = cut(self._stream[self.offset :], self._dice)
        ready = prepared(store, groups[0])
        for group, following in pairwise([*groups, ()]):
            coming: list[Group] = []
            self._steps, self._plan = 0, {self._dice.randint(1, 12): self._trouble} if self._troubles else {}
            if following:
                self._plan[self._dice.randint(1, 12)] = partial(self._prepare, store, following, coming)
            done = False
            while not done:
                with suppress(OSError):
                    store.commit(ready)
                    done = True
            self._plan = {}
            self.offset = group[-1].offset + 1
            if self._dice.random() < 0.2:
                store.retry(self._stream[self._dice.randrange(self.offset)], STREAM)
            if coming and self._dice.random() < 0.2:
                # The broker was gone in between.
                store.discard(coming.pop())
            if following and not coming:
                self._prepare(store, following, coming)
            ready = coming[0] if coming else ready

    def _prepare(self, store: AnnotationStore, group: Sequence[Message], coming: list[Group]) -> None:
        coming.append(prepared(store, group))

    def _trouble(self) -> None:
        self._troubles -= 1
        raise self._dice.choice([OSError, _PowerCut])


@SLOW
@given(events=STREAMS, seed=st.integers(0, 1 << 30))
def test_groups_made_ready_ahead_end_in_the_same(events: list[Event], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        layout = annotation_trees.tree(Path(folder))
        patch.setattr(store_module, "_CAREFUL", 3)
        pipeline = _Pipeline(layout, messages(events), random.Random(seed))
        patch.setattr(failpoints, "hit", pipeline.hit)
        while pipeline.offset < len(events):
            with suppress(_PowerCut):
                pipeline.run()
        assert found(layout) == expected(events)


def test_what_comes_out_of_quarantine_meanwhile_counts(layout: Layout) -> None:
    events = [created("a", 1), validated("a"), edited("a", 2), deleted("b"), created("b", 3)]
    stream = messages(events)
    store = AnnotationStore(layout)
    for _ in range(256):
        store.apply(stream[:1], STREAM)
    ready = prepared(store, [stream[2], stream[4]])
    assert ready.whole
    assert store.retry(stream[1], STREAM) is None
    assert store.retry(stream[3], STREAM) is None
    store.commit(ready)
    assert found(layout) == expected(events)


def test_a_group_is_made_ready_up_to_what_the_one_before_changes(layout: Layout) -> None:
    store = AnnotationStore(layout)
    stream = messages([created(f"n{number}", number) for number in range(300)])
    store.apply(stream[:256], STREAM)
    first = prepared(store, stream[256:])
    assert (first.taken, first.written is not None) == (44, True)
    other = prepared(store, messages([created("m", 1), deleted("k", "n299")], 300))
    assert (other.taken, other.written) == (1, None)
    # Nobody knows what this one is about before the other is worked out.
    assert prepared(store, messages([created("o", 1)], 302)).taken == 0
    store.commit(first)
    store.prepare(other)
    assert (other.taken, other.written is not None) == (2, True)
    store.commit(other)
    assert found(layout)["n299"].folder == "data_deleted"
    assert found(layout)["m"].folder == "data-seed"


def test_the_bytes_that_were_published(layout: Layout) -> None:
    event = created("a", 5, VALIDATOR, ".png", kind=3)
    assert play(layout, event) == {"a": Lying("data", ".png", picture(5, "PNG"), "3 0.5 0.5 0.25 0.25\n")}
    record = files.read_json(layout.records / "a.json")
    assert (record["media"], record["role"], record["source"], record["offset"]) == ("a.mp4", VALIDATOR, 1, 0)
    assert record["created"].startswith("2025-06-06T12:00:00")


def test_another_extension_leaves_no_old_image(layout: Layout) -> None:
    play(layout, created("a", 1))
    apply(layout, messages([edited("a", 2, VALIDATOR, ".png")], 1))
    assert [path.name for path in layout.data.images.iterdir()] == ["a.png"]
    assert found(layout)["a"].folder == "data"


@pytest.mark.parametrize("steps", range(1, 9))
def test_two_deaths_and_two_more_events_leave_no_copy_behind(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Each death leaves another file under another extension in another folder, and each next group is larger."""
    stream = messages([created("a", 1), edited("a", 2, VALIDATOR, ".png"), created("a", 3, extension=".bmp")])
    left = steps

    def die(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise _PowerCut

    monkeypatch.setattr(failpoints, "hit", die)
    for size in (1, 2):
        left = steps
        with suppress(_PowerCut):
            apply(layout, stream[:size])
    left = 0
    AnnotationStore(layout).clean()
    apply(layout, stream)
    assert found(layout) == {"a": Lying("data-seed", ".bmp", picture(3, "BMP"), "0 0.5 0.5 0.25 0.25\n")}


def test_a_move_whose_target_changed_after_a_death(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved to `data`, and dead before the record; meanwhile a deletion has come into the same group."""
    play(layout, created("a", 1))
    stream = messages([validated("a"), deleted("a")], 1)

    def die(name: str) -> None:
        if name == "store.files.settled":
            raise _PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "hit", die)
        with pytest.raises(_PowerCut):
            apply(layout, stream[:1])
    assert found(layout)["a"].folder == "data"
    apply(layout, stream)
    assert found(layout)["a"].folder == "data_deleted"


def test_in_data_no_image_is_ever_without_its_label(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset may be formed while a dead consumer is not back yet."""
    seen = 0

    def look(_: str) -> None:
        nonlocal seen
        seen += 1
        labels = {path.stem for path in layout.data.labels.iterdir()}
        images = {path.stem for path in layout.data.images.iterdir() if not path.name.startswith(".")}
        assert images <= labels

    monkeypatch.setattr(failpoints, "hit", look)
    for number, event in enumerate(
        [created("a", 1, VALIDATOR), created("b", 2), validated("b"), deleted("a"), edited("b", 3, VALIDATOR, ".png")]
    ):
        apply(layout, messages([event], number))
    assert seen > 15


def left_behind(layout: Layout, folder: str, name: str = "old", extension: str = ".jpg") -> None:
    """Files of the system before this one, which kept no records."""
    (layout.root / folder / "images" / f"{name}{extension}").write_bytes(picture(9))
    (layout.root / folder / "labels" / f"{name}.txt").write_text("4 0.5 0.5 0.1 0.1\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("before", "event", "after"),
    [
        ("data-seed", validated("old"), "data"),
        ("data-seed", deleted("old"), "data_deleted"),
        ("data", deleted("old"), "data_deleted"),
        ("data", validated("old"), "data"),
        ("data_deleted", validated("old"), "data_deleted"),
        ("data-seed", edited("old", None, VALIDATOR), "data"),
        ("data-seed", edited("old", None, OPERATOR), "data-seed"),
        ("data", edited("old", None, OPERATOR), "data"),
    ],
)
def test_files_without_a_record_are_taken_over(layout: Layout, before: str, event: Event, after: str) -> None:
    left_behind(layout, before)
    tree = play(layout, event)
    assert (tree["old"].folder, tree["old"].image) == (after, picture(9))
    assert tree["old"].label == (event.label if event.status == 20 else "4 0.5 0.5 0.1 0.1\n")
    assert files.read_json(layout.records / "old.json")["offset"] == 0


def test_a_creation_replaces_what_was_left_behind(layout: Layout) -> None:
    left_behind(layout, "data", extension=".jpeg")
    assert play(layout, created("old", 1)) == expected([created("old", 1)])


@pytest.mark.parametrize("record", [b"{", b"", b'{"name": "../../etc/x"}', b'{"name": "b"}', b"[" * 100_000])
def test_a_damaged_record_stops_its_own_annotation_only(layout: Layout, record: bytes) -> None:
    (layout.records / "a.json").write_bytes(record)
    tree = play(layout, created("a"), created("b"), validated("b", "a"), created("c"))
    assert (set(tree), tree["b"].folder) == ({"b", "c"}, "data-seed")
    assert {name: why["offset"] for name, why in quarantined(layout).items()} == {"0": 0, "2": 2}
    assert all("Restore it from a backup" in why["reason"] for why in quarantined(layout).values())
    assert (layout.records / "a.json").read_bytes() == record


@pytest.mark.parametrize("event", [deleted("a"), created("a", 9, VALIDATOR, ".bmp"), validated("a"), edited("a", 9)])
@pytest.mark.parametrize("trusted", [VALIDATOR, OPERATOR])
def test_a_record_that_was_removed_meanwhile(layout: Layout, event: Event, trusted: int) -> None:
    """As the message about a damaged one advises: what it was of is found again, and is there once."""
    before = created("a", 1, trusted)
    store = AnnotationStore(layout)
    store.clean()
    store.survey()
    filler = [created(f"n{number}") for number in range(store_module._CAREFUL)]
    apply_on(store, messages([before, *filler]))
    (layout.records / "a.json").unlink()
    apply_on(store, messages([event], len(filler) + 1))
    assert found(layout)["a"] == expected([before, event])["a"]


def test_links_in_the_tree_are_replaced_and_never_followed(layout: Layout, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    for folder in (layout.data, layout.seed):
        (folder.images / "a.jpg").symlink_to(outside)
        (folder.labels / "a.txt").symlink_to(outside)
    (layout.records / "b.json").symlink_to(outside)
    tree = play(layout, created("a", 1), created("b", 1))
    assert set(tree) == {"a"}
    assert not (layout.seed.images / "a.jpg").is_symlink()
    # A link where a move goes to is none either.
    (layout.data.images / "a.jpg").symlink_to(outside)
    (layout.data.labels / "a.txt").symlink_to(outside)
    apply(layout, messages([validated("a")], 2))
    assert found(layout) == expected([created("a", 1), validated("a")])
    assert not (layout.data.images / "a.jpg").is_symlink()
    assert outside.read_bytes() == b"untouched"


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/b", "..", ".", ".hidden", "", "a\0b", "x" * 201, "a\\b"])
def test_a_name_never_leaves_the_tree(layout: Layout, name: str) -> None:
    before = annotation_trees.content(layout.root.parent)
    events = [created("good"), created(name), validated(name), deleted("good", name)]
    tree = play(layout, *events)
    assert set(tree) == {"good"}
    assert tree["good"].folder == "data-seed"
    assert set(quarantined(layout)) == {"1", "2", "3"}
    new = set(annotation_trees.content(layout.root.parent)) - set(before)
    assert {path.split("/")[1] for path in new} == {"data-seed", "records", "quarantine"}
    assert (layout.quarantine / "1" / "message.bin").read_bytes() == events[1].body


def test_what_is_in_quarantine_stays_as_it_is(layout: Layout) -> None:
    bad = Message(offset=3, status=10, body=b"nonsense")
    apply(layout, [bad])
    before = annotation_trees.content(layout.quarantine)
    apply(layout, [bad])
    assert annotation_trees.content(layout.quarantine) == before
    # Another stream has its own message of that number.
    AnnotationStore(layout).apply([Message(offset=3, status=10, body=b"other")], STREAM + 1)
    assert (layout.quarantine / f"3-{STREAM + 1}" / "message.bin").read_bytes() == b"other"
    assert AnnotationStore(layout).quarantine.count() == 2


def test_something_else_under_the_number_in_quarantine(layout: Layout) -> None:
    (layout.quarantine / "3").mkdir()
    (layout.quarantine / "4").write_text("a file")
    apply(layout, [Message(offset=number, status=10, body=b"nonsense") for number in (3, 4)])
    for number in (3, 4):
        assert (layout.quarantine / f"{number}-{STREAM}" / "message.bin").read_bytes() == b"nonsense"


@pytest.mark.parametrize(
    "step",
    ["store.files.written", "store.file.renamed", "store.file.moved", "store.files.settled", "store.record.renamed"],
)
def test_a_full_disk_loses_nothing(layout: Layout, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    play(layout, created("a", 1))
    events = [created("a", 1), validated("a"), created("b", 2)]

    def full(name: str) -> None:
        if name == step:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "hit", full)
        with pytest.raises(OSError, match="No space"):
            apply(layout, messages(events[1:], 1))
    apply(layout, messages(events[1:], 1))
    assert found(layout) == expected(events)


def test_after_a_failure_files_are_looked_for_everywhere(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the failed group had put further on is not left beside what a smaller one puts where it belongs by now."""
    monkeypatch.setattr(store_module, "_CAREFUL", 0)
    store = AnnotationStore(layout)
    store.survey()
    monkeypatch.undo()
    events = [created("a", 1), validated("a")]

    def refuse(step: str) -> None:
        if step == "store.files.settled":
            raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "hit", refuse)
        with pytest.raises(OSError, match="Input/output"):
            store.apply(messages(events), STREAM)
    store.apply(messages(events[:1]), STREAM)
    assert found(layout) == expected(events[:1])


def test_a_group_of_many_names_is_committed_in_parts(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_MANY_ENTRIES", 3)
    commits = []
    flush = AnnotationStore._flush

    def count(store: AnnotationStore, group: Group) -> None:
        commits.append(len(group.entries))
        flush(store, group)

    monkeypatch.setattr(AnnotationStore, "_flush", count)
    events = [created(f"n{number}", number) for number in range(8)] + [deleted("n1", "n7"), created("n1", 20)]
    assert play(layout, *events) == expected(events)
    assert commits == [3, 3, 3, 1]


def test_only_writes_that_did_not_end_are_cleaned(layout: Layout) -> None:
    play(layout, created("a", 1), Event(CREATED, ("b",), picture=None))
    before = annotation_trees.content(layout.root)
    (layout.quarantine / ".tmp-0").mkdir()
    for path in (layout.data.images, layout.deleted.labels, layout.records, layout.root, layout.quarantine / ".tmp-0"):
        (path / ".tmp-1").write_bytes(b"torn")
    (layout.seed.images / ".tmp-2").symlink_to(layout.data.images)
    AnnotationStore(layout).clean()
    assert annotation_trees.content(layout.root) == before
    assert not (layout.quarantine / ".tmp-0").exists()
    found(layout)
