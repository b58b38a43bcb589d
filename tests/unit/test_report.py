"""The report's page, from facts that are made up."""

import io
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from azaion import report
from azaion.dataset import Snapshot
from azaion.layout import JobFolder, Layout, RunFolder
from azaion.report import course, matching
from azaion.report.facts import (
    Absent,
    Attempt,
    Balance,
    Box,
    Epoch,
    Facts,
    Job,
    JudgedClass,
    Judgement,
    Model,
    OnTest,
    Sample,
    Samples,
    Side,
)
from azaion.report.page import headline, summary
from workers.reporting import labels, predictions
from workers.reporting.sources import Sources
from workers.reporting.sources import facts as facts_of

BEGAN = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
EVIL = "<script>alert('x')</script>\"'><img src=http://evil.example/a.png onerror=alert(1)>{{ 7*7 }}"
GONE = Absent(why="It is gone for a reason.")


def epochs(first: int, last: int, *, start: datetime = BEGAN) -> tuple[Epoch, ...]:
    return tuple(
        Epoch(
            number=number,
            ended=start + timedelta(minutes=number - first + 1),
            seconds=60.0,
            metrics={"mAP50": number / 100, "mAP50-95": number / 200, "train/box_loss": 3 / number, "lr/pg0": 0.01},
        )
        for number in range(first, last + 1)
    )


def attempts() -> tuple[Attempt, ...]:
    """Ten epochs; the power fails; a checkpoint is damaged, so that two of them are done again; it goes on to 20."""
    again = BEGAN + timedelta(minutes=30)
    return (
        Attempt(
            number=1,
            started=BEGAN,
            ended=BEGAN + timedelta(minutes=10, seconds=30),
            cause="lost:reboot",
            epochs=epochs(1, 10),
            surroundings={"torch": "2.12", "gpus": [{"name": "Old GPU", "memory": 1 << 34}]},
        ),
        Attempt(
            number=2,
            started=again,
            ended=again + timedelta(minutes=12),
            exit_code=0,
            resumed_from=8,
            epochs=epochs(9, 20, start=again),
            surroundings={"torch": "2.13", "gpus": [{"name": "Old GPU", "memory": 1 << 34}]},
        ),
    )


def facts(**changes: Any) -> Facts:
    made = Facts(
        made=BEGAN + timedelta(hours=1),
        release="1.2.3",
        job=Job(
            id=42,
            name="tree crowns",
            state="succeeded",
            owner="alice",
            created=BEGAN,
            started=BEGAN,
            ended=BEGAN + timedelta(minutes=42),
            epochs=20,
            wished={"epochs": 20, "lr0": 0.01},
        ),
        attempts=attempts(),
        model=Model(name="azaion-2026-03-01", in_use=True, best_epoch=19, epochs=20, metrics={"mAP50-95": 0.512}),
        judgement=judgement(("oak", "fir")),
        tested=(OnTest(dataset="azaion-2026-03-01", images=40, scores={"mAP50-95": (0.5, 0.45, 0.55)}),),
        samples=samples(sample("1.jpg")),
        balance=balance(("oak", "fir")),
        arguments={"epochs": 20, "seed": 0},
    )
    return replace(made, **changes)


def nothing(**changes: Any) -> Facts:
    """A job of which nothing is known but its record."""
    return facts(
        attempts=(), model=GONE, judgement=GONE, tested=GONE, samples=GONE, balance=GONE, arguments=GONE, **changes
    )


def judgement(classes: tuple[str, ...]) -> Judgement:
    return Judgement(
        images=100,
        confidence=0.25,
        overlap=0.45,
        classes=classes,
        confusion=(*((number, number, 10 + number) for number in range(len(classes))), (1, 0, 3), (2, 0, 4)),
        per_class=tuple(
            JudgedClass(
                number=number,
                boxes=number + 17,
                images=9,
                precision=0.9,
                recall=0.8,
                ap50=0.7,
                ap=0.6,
                curve=tuple(1 - point / 100 for point in range(101)),
            )
            for number in range(len(classes))
        ),
    )


def balance(classes: tuple[str, ...]) -> Balance:
    counts = {name: number + 1 for number, name in enumerate(classes)}
    return Balance(
        name="azaion-2026-03-01",
        sides=(Side(name="train", images=70, boxes=300, background=2, counts=counts),),
        classes=classes,
        per_image={0: 2, 1: 30, 40: 1},
        sizes=(0, 5, 9, *([0] * 17)),
        looked_at=70,
        images=70,
    )


def samples(*given: Sample) -> Samples:
    return Samples(side="test", model="azaion-2026-03-01", classes=("oak", "fir"), confidence=0.25, samples=given)


def sample(name: str, *, edge: int = 64) -> Sample:
    data = io.BytesIO()
    Image.new("RGB", (edge, edge), "green").save(data, "JPEG")
    truth = (
        Box(number=0, left=0.1, top=0.1, right=0.4, bottom=0.4),
        Box(number=1, left=0.6, top=0.6, right=1, bottom=1),
    )
    found = (
        Box(number=0, left=0.1, top=0.1, right=0.4, bottom=0.42, confidence=0.9),
        Box(number=1, left=0.0, top=0.6, right=0.2, bottom=0.9, confidence=0.5),
    )
    return Sample(name=name, width=edge, height=edge, jpeg=data.getvalue(), truth=truth, found=found)


class Page(HTMLParser):
    """What a browser makes of a page: elements, their attributes, the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "br"}:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_outcome_stands_at_the_top() -> None:
    assert summary(facts()) == (
        "The model is azaion-2026-03-01, which is in use (its best epoch was 19). It was interrupted once; "
        "2 epochs had to be done again."
    )
    assert [(figure.name, figure.value) for figure in headline(facts())] == [
        ("mAP50-95", "0.512"),
        ("epochs", "20 of 20"),
        ("trained", "22 min 30 s"),
    ]
    failed = replace(facts().job, state="failed", cause="oom:gpu", reason="CUDA out of memory")
    assert summary(facts(job=failed, model=GONE)).startswith("It ended: out of GPU memory.")


def test_an_epoch_that_was_done_again_counts_once_and_is_seen_twice() -> None:
    first, second = course.lines(facts())
    assert [epoch.number for epoch in first.lost] == [9, 10]
    assert [epoch.number for epoch in (*first.kept, *second.kept)] == list(range(1, 21))
    html = report.render(facts())
    assert html.count('class="s1 lost"') == 4  # mAP, box loss, learning rate, time
    assert "attempt 2 went on after epoch 8" in html
    assert "the machine went down" in Page(html).words


def test_what_an_attempt_went_on_from_counts_before_it_has_done_an_epoch() -> None:
    later = replace(attempts()[1], epochs=(), ended=None)
    running = facts(attempts=(attempts()[0], later), job=replace(facts().job, state="running", ended=None))
    assert course.redone(running) == 2
    assert "Running: a report so far" in Page(report.render(running)).words


def test_what_is_missing_is_said_in_its_place() -> None:
    words = Page(report.render(nothing())).words
    assert words.count(GONE.why) == 5
    assert "It has not begun yet." in words
    assert "No epoch is done yet." in words
    note = "The folders of its attempts are gone."
    assert note in Page(report.render(nothing(older=epochs(1, 5), epochs_note=note))).words
    assert "Mean average precision" in Page(report.render(nothing(older=epochs(1, 5), epochs_note=note))).words


def test_no_name_of_a_user_becomes_anything_but_text() -> None:
    classes = (EVIL, f"{EVIL} 2")
    surroundings = ({"host": EVIL, EVIL: EVIL},)
    hostile = facts(
        job=replace(facts().job, name=EVIL, owner=EVIL, state="failed", cause=EVIL, reason=EVIL, wished={EVIL: EVIL}),
        attempts=tuple(replace(each, cause=EVIL, surroundings=surroundings[0]) for each in attempts()),
        model=Model(name=EVIL, in_use=True, best_epoch=1, epochs=1, metrics={EVIL: 1.0}, base=EVIL, previous=EVIL),
        judgement=judgement(classes),
        tested=(OnTest(dataset=EVIL, images=1, scores={EVIL: (0.1, 0.1, 0.1)}),),
        samples=Samples(side="test", model=EVIL, classes=classes, confidence=0.25, samples=(sample(EVIL),), note=EVIL),
        balance=replace(balance(classes), name=EVIL),
        arguments={EVIL: [EVIL, {EVIL: EVIL}]},
    )
    page = Page(report.render(hostile))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "form"}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src", "xlink:href"):
            assert re.match(r"#|data:", attributes.get(name) or "#"), attributes
    assert "{{ 7*7 }}" in page.words
    assert "alert('x')" in page.words


def test_a_page_stays_small_whatever_it_tells_of() -> None:
    classes = tuple(f"class number {number}" for number in range(3000))
    many = tuple(
        Attempt(
            number=number, started=BEGAN, ended=BEGAN, cause="preempted", epochs=epochs(number * 50, number * 50 + 49)
        )
        for number in range(1, 200)
    )
    # As many pictures, and as large ones, as the worker takes at the most.
    crowded = replace(
        sample("1.jpg", edge=640),
        jpeg=bytes(2_100_000 // 24),
        truth=sample("1.jpg").truth * 150,
        found=sample("1.jpg").found * 60,
    )
    large = facts(
        attempts=many,
        judgement=judgement(classes),
        balance=balance(classes),
        samples=samples(*((crowded,) * 24)),
    )
    html = report.render(large)
    assert len(html.encode()) < 5_000_000
    assert "2980 classes with fewer boxes are left out." in html


@pytest.mark.parametrize("change", [{"per_class": ()}, {"classes": ()}, {"confusion": ((9, 9, 1),)}])
def test_a_judgement_that_does_not_fit_together_is_shown_all_the_same(change: dict[str, Any]) -> None:
    assert "What is taken for what" in report.render(facts(judgement=replace(judgement(("oak", "fir")), **change)))


def test_a_box_is_found_once_and_the_surest_finds_it() -> None:
    true = Box(number=0, left=0, top=0, right=0.5, bottom=0.5)
    poor = Box(number=0, left=0, top=0, right=0.5, bottom=0.4, confidence=0.3)
    sure = replace(poor, confidence=0.9)
    other = replace(poor, number=1, confidence=0.99)
    matched = matching.match([true, replace(true, left=0.9, right=1.0)], [poor, sure, other])
    assert matched.truth == (True, False)
    assert matched.found == (False, True, False)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """A training that has run, with a dataset of ten images to learn from and be judged by."""
    snapshot = Snapshot(path=tmp_path / "dataset", name="azaion-2026-03-01", manifest={"classes": ["oak"]})
    side = snapshot.folder.annotations("valid")
    for folder in (side.images, side.labels):
        folder.mkdir(parents=True)
    for number in range(10):
        Image.new("RGB", (32, 32)).save(side.images / f"{number}.png")
        (side.labels / f"{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    job = JobFolder(path=tmp_path / "jobs" / "1-abc")
    best = RunFolder(path=job.run).best
    best.parent.mkdir(parents=True)
    best.touch()
    layout = Layout(root=tmp_path, state=tmp_path, spool=tmp_path, socket=tmp_path)
    return Sources(record={}, layout=layout, folder=job, model=None, snapshot=snapshot)


def finds_nothing(_weights: Path, _imgsz: int) -> predictions.Predict:
    return lambda _image: []


def test_as_many_samples_are_looked_at_as_there_is_time_for(sources: Sources) -> None:
    seconds = iter(range(0, 10_000, 25))
    looked = predictions.look(sources, 8, finds_nothing, clock=lambda: float(next(seconds)))
    assert isinstance(looked, Samples)
    assert looked.note == "Of 8 images that were chosen, 3 could be shown within the limits."
    assert (looked.side, looked.model) == ("validation", "the best checkpoint so far")
    same = predictions.look(sources, 8, finds_nothing, clock=lambda: 0.0)
    assert isinstance(same, Samples)
    assert len(same.samples) == 8
    assert same.samples[:3] == looked.samples


def test_weights_that_cannot_be_loaded_cost_the_samples_only(sources: Sources) -> None:
    def fails(_weights: Path, _imgsz: int) -> predictions.Predict:
        raise RuntimeError("it is no model")

    assert predictions.look(sources, 8, fails) == Absent(why="best.pt cannot be loaded: RuntimeError: it is no model")
    RunFolder(path=sources.folder.run).best.unlink()
    missing = predictions.look(sources, 8, fails)
    assert isinstance(missing, Absent)
    assert missing.why.startswith("There are no weights to look with")


def test_an_image_that_cannot_be_read_or_is_too_crowded_is_left_out(sources: Sources) -> None:
    assert not isinstance(sources.snapshot, Absent)
    side = sources.snapshot.folder.annotations("valid")
    (side.images / "3.png").write_bytes(b"no picture")
    (side.labels / "4.txt").write_text("0 0.5 0.5 0.5 0.5\n" * 1001)
    looked = predictions.look(sources, 10, finds_nothing)
    assert isinstance(looked, Samples)
    assert [each.name for each in looked.samples] == [f"{number}.png" for number in range(10) if number not in (3, 4)]


def test_a_line_of_metrics_that_a_crash_has_torn_is_left_out(sources: Sources) -> None:
    attempt = sources.folder.attempt(1)
    attempt.path.mkdir()
    whole = '{"epoch": 1, "time": 1.0, "epoch_s": 2.0, "metrics": {"mAP50": 0.5, "bad": NaN}}'
    attempt.metrics.write_text(f'{whole}\n[]\n{{"epoch": 2, "time": 1e300}}\n{{"epoch": 3, "met')
    record = {"started": None, "ended": None, "exit_code": None, "cause": None, "resumed_from_epoch": None, "n": 1}
    job = {"id": 1, "name": "x", "state": "failed", "cause": "", "reason": "", "removed": {}, "attempts": [record]}
    told = facts_of(replace(sources, record=job | dict.fromkeys(("created", "started", "ended"))), GONE)
    assert [epoch.metrics for epoch in told.attempts[0].epochs] == [{"mAP50": 0.5}]


def test_a_label_that_cannot_be_read_is_no_label(tmp_path: Path) -> None:
    label = tmp_path / "a.txt"
    label.write_text("1 0.5 0.5 0.2 0.4\n\n")
    (box,) = labels.read(label) or [pytest.fail("it was not read")]
    assert (box.number, round(box.left, 3), round(box.top, 3)) == (1, 0.4, 0.3)
    label.write_text("1 0.5 0.5\n")
    assert labels.read(label) is None
    assert labels.read(tmp_path / "none.txt") is None
