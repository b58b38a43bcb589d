from datetime import timedelta
from itertools import permutations

import pytest

from azaion.annotations import rules
from azaion.annotations.message import Annotation, Bulk, decode
from azaion.annotations.record import Folder, Place, Record
from azaion.annotations.rules import Change
from tests.annotation_messages import BIRTH, OPERATOR, VALIDATOR, Event, created, deleted, edited, validated

ADMIN, API_ADMIN, COMPANION = 40, 1000, 30
SEED, DATA, DELETED = Folder.SEED, Folder.DATA, Folder.DELETED


def apply(event: Event, offset: int, known: Record | None, stream: int = 1) -> Change:
    said = decode(event.status, event.body)
    place = Place(stream, offset)
    if isinstance(said, Bulk):
        return rules.apply_bulk(said, "a", place, known)
    return rules.apply_annotation(said, place, known)


def after(*events: Event) -> Record | None:
    record = None
    for offset, event in enumerate(events):
        record = apply(event, offset, record).record
    return record


def folder(*events: Event) -> Folder:
    record = after(*events)
    assert record is not None
    return record.folder


@pytest.mark.parametrize(
    ("events", "where"),
    [
        ([created("a", role=VALIDATOR)], DATA),
        ([created("a", role=ADMIN)], DATA),
        ([created("a", role=API_ADMIN)], DATA),
        ([created("a", role=OPERATOR)], SEED),
        ([created("a", role=COMPANION)], SEED),
        ([edited("a", 1, VALIDATOR)], DATA),
        ([edited("a", 1, OPERATOR)], SEED),
        ([created("a"), edited("a")], SEED),
        ([created("a"), edited("a", None, VALIDATOR)], DATA),
        ([created("a", role=VALIDATOR), edited("a")], DATA),
        ([created("a"), validated("a")], DATA),
        ([created("a", role=VALIDATOR), validated("a")], DATA),
        ([created("a"), validated("a"), edited("a", 2)], DATA),
        ([created("a"), deleted("a")], DELETED),
        ([created("a", role=VALIDATOR), deleted("a")], DELETED),
        ([created("a"), deleted("a"), validated("a")], DELETED),
        ([created("a"), deleted("a"), edited("a", 2, VALIDATOR)], DELETED),
        ([created("a"), deleted("a"), created("a", 2)], SEED),
        ([created("a", role=VALIDATOR), created("a", 2)], SEED),
        ([created("a"), validated("a"), created("a", 2)], SEED),
        ([created("a"), deleted("a"), created("a")], DELETED),
        # Of names that nobody has seen yet.
        ([validated("a"), edited("a", 1)], DATA),
        ([deleted("a"), edited("a", 1, VALIDATOR)], DELETED),
        ([deleted("a"), created("a")], SEED),
    ],
)
def test_the_table(events: list[Event], where: Folder) -> None:
    assert folder(*events) is where


def test_a_repeated_creation_changes_nothing() -> None:
    before = after(created("a"), edited("a", 2), validated("a"))
    change = apply(created("a", role=VALIDATOR, kind=5), 3, before)
    assert (change.record, change.image, change.label) == (before, None, None)


def test_another_date_or_another_image_is_another_creation() -> None:
    before = after(created("a"))
    other = decode(10, created("a").body)
    assert isinstance(other, Annotation)
    again = Annotation(**{name: getattr(other, name) for name in other.__slots__} | {"created": BIRTH + timedelta(9)})
    assert rules.apply_annotation(again, Place(1, 1), before).label is not None
    assert apply(created("a", 2), 1, before).image is not None


def test_what_an_edit_keeps() -> None:
    before = after(created("a", 1, extension=".png"))
    change = apply(edited("a", kind=4, extension=".jpg"), 1, before)
    assert (change.image, change.label) == (None, "4 0.5 0.5 0.25 0.25\n")
    assert change.record.extension == ".png"
    assert before is not None
    assert (change.record.image_sha256, change.record.created) == (before.image_sha256, before.created)


def test_an_edit_of_nothing_is_a_problem_and_counts_all_the_same() -> None:
    change = apply(edited("a", None, VALIDATOR), 4, None)
    assert change.problem is not None
    assert "without an image" in change.problem
    assert (change.image, change.label, change.record.folder) == (None, None, DATA)
    assert apply(edited("a", 1), 5, change.record).record.folder is DATA


STORIES = [
    [created("a"), validated("a")],
    [created("a"), deleted("a")],
    [created("a"), edited("a", 2, VALIDATOR), deleted("a")],
    [created("a"), edited("a", None, OPERATOR), validated("a")],
    [created("a"), deleted("a"), created("a", 2, VALIDATOR)],
    [created("a"), validated("a"), edited("a", 3, OPERATOR), deleted("a")],
    [edited("a", 1, VALIDATOR), created("a", 2), validated("a"), edited("a", 3)],
]


@pytest.mark.parametrize("story", STORIES)
def test_every_order_ends_in_the_same(story: list[Event]) -> None:
    """Out of quarantine comes late what was early; what it needed is tried again after it."""
    ends = set()
    for order in permutations(range(len(story))):
        record, image, label = None, None, None
        for offset in (*order, *order):
            change = apply(story[offset], offset, record)
            record = change.record
            image = image if change.image is None else bytes(change.image)
            label = label if change.label is None else change.label
        assert record is not None
        ends.add((record.folder, record.image_sha256, image, label, record.offset, record.status))
    assert len(ends) == 1
    assert next(iter(ends))[0] is folder(*story)


@pytest.mark.parametrize("event", [created("a", 2), edited("a", 2, VALIDATOR), validated("a"), deleted("a")])
def test_an_event_that_comes_again_changes_nothing(event: Event) -> None:
    once = apply(event, 5, after(created("a"))).record
    again = apply(event, 5, once)
    assert (again.record, again.image, again.label) == (once, None, None)


def test_a_stream_made_later_comes_after_every_offset_of_the_earlier() -> None:
    old = apply(created("a"), 900, None, stream=1).record
    new = apply(deleted("a"), 0, old, stream=2).record
    assert (new.folder, new.incarnation, new.offset) == (DELETED, 2, 0)
    assert apply(created("a", 2), 1000, new, stream=1).record.folder is DELETED


def test_a_late_creation_of_a_deleted_name_stays_deleted_and_keeps_its_content() -> None:
    tombstone = apply(deleted("a"), 7, None).record
    assert tombstone.image_at is None
    late = apply(created("a", role=VALIDATOR), 3, tombstone)
    assert late.record.folder is DELETED
    assert late.image == created("a").image
    assert (late.record.offset, late.record.status) == (7, "DELETED")
