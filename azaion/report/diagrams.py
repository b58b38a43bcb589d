"""Which diagrams and tables a report has, from its facts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from markupsafe import Markup

from azaion.report import charts, course, words
from azaion.report.charts import Frame, Line, Mark, Point, Span
from azaion.report.facts import Balance, Epoch, Facts, JudgedClass, Judgement

#: More lines in one diagram cannot be told apart.
_LINES: Final = 6
#: More classes in one matrix cannot be read.
_CLASSES: Final = 20
_SIDES: Final = {"train": "to learn from", "valid": "to choose the best epoch by", "test": "to judge the model by"}


def timeline(facts: Facts) -> Markup | None:
    """When what ran; None if nobody knows."""
    now = facts.job.ended or facts.made
    kept = {line.attempt: line.kept for line in course.lines(facts)}
    spans = []
    for attempt in facts.attempts:
        if attempt.started is None:
            continue
        end = max(attempt.ended or now, attempt.started)
        ends = tuple(epoch.ended for epoch in attempt.epochs if epoch.ended is not None)
        counted = [epoch.ended for epoch in kept.get(attempt.number, ()) if epoch.ended is not None]
        running = attempt.ended is None
        why = "it still runs" if running and not facts.job.over else course.cause(attempt.cause) or "done"
        spans.append(
            Span(
                name=f"attempt {attempt.number}",
                begin=attempt.started,
                end=end,
                until=counted[-1] if counted else None,
                ended_well=running or not attempt.cause,
                title=f"attempt {attempt.number}: {words.moment(attempt.started)}, ran for "
                f"{words.duration(end - attempt.started)}, {words.plural(len(attempt.epochs), 'epoch')}, {why}",
                ends=ends,
            )
        )
    return charts.timeline("Attempts over time, UTC", spans) if spans else None


def curves(facts: Facts) -> list[Markup]:
    """The curves over the epochs; none if no epoch is known."""
    lines = course.lines(facts)
    every = [epoch for line in lines for epoch in (*line.kept, *line.lost)]
    if not every:
        return []
    marks = [
        Mark(at=epoch + 0.5, words=f"▾{number}", title=f"attempt {number} went on after epoch {epoch}")
        for number, epoch in course.resumes(facts)
    ]
    names = list(dict.fromkeys(name for epoch in every for name in epoch.metrics))
    drawn = [
        _chart(Frame(title="Mean average precision", bottom=0.0), lines, ("mAP50", "mAP50-95"), marks),
        _chart(Frame(title="Precision and recall", bottom=0.0), lines, ("precision", "recall"), marks),
    ]
    for loss in [name.removeprefix("train/") for name in names if name.startswith("train/")]:
        title = f"{loss.removesuffix('_loss').capitalize()} loss"
        both = {f"train/{loss}": "training", f"val/{loss}": "validation"}
        drawn.append(_chart(Frame(title=title), lines, tuple(both), marks, shown=both))
    rates = _distinct([name for name in names if name.startswith("lr/")], every)
    groups = {name: name.replace("lr/pg", "group ") for name in rates}
    drawn.append(_chart(Frame(title="Learning rate", bottom=0.0), lines, rates, marks, shown=groups))
    drawn.append(
        _drawn(
            Frame(title="Time of an epoch", unit=" s", bottom=0.0),
            [_parts("seconds", 1, lines, lambda epoch: epoch.seconds)],
            marks,
        )
    )
    return [chart for chart in drawn if chart is not None]


def _chart(
    frame: Frame,
    lines: Sequence[course.Line],
    names: Sequence[str],
    marks: Sequence[Mark],
    shown: Mapping[str, str] | None = None,
) -> Markup | None:
    wanted = [
        _parts((shown or {}).get(name, name), place, lines, partial(_metric, name))
        for place, name in enumerate(names, 1)
    ]
    return _drawn(frame, wanted, marks)


def _drawn(frame: Frame, lines: Sequence[Line], marks: Sequence[Mark]) -> Markup | None:
    having = [line for line in lines if line.parts or line.lost]
    return charts.curves(frame, having, marks) if having else None


def _metric(name: str, epoch: Epoch) -> float | None:
    return epoch.metrics.get(name)


def _parts(name: str, style: int, lines: Sequence[course.Line], read: Callable[[Epoch], float | None]) -> Line:
    def points(epochs: Sequence[Epoch]) -> tuple[Point, ...]:
        pairs = ((float(epoch.number), read(epoch)) for epoch in epochs)
        return tuple((x, y) for x, y in pairs if y is not None and math.isfinite(y))

    kept = tuple(point for line in lines for point in points(line.kept))
    lost = tuple(part for line in lines if (part := points(line.lost)))
    return Line(name=name, style=style, parts=(kept,) if kept else (), lost=lost)


def _distinct(names: Sequence[str], epochs: Sequence[Epoch]) -> tuple[str, ...]:
    """One of those that are always the same, as most groups' learning rates are."""
    seen: dict[tuple[float | None, ...], str] = {}
    for name in names:
        seen.setdefault(tuple(epoch.metrics.get(name) for epoch in epochs), name)
    return tuple(seen.values())[:_LINES]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a confusion matrix; ``part`` is its part of the row."""

    count: int
    part: float
    right: bool
    title: str


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A judgement, ready for the page.

    Attributes:
        matrix: for each true class its name and its cells; the last row is what was found where nothing is.
        columns: what it was taken for.
        left_out: how many classes have no row.
        classes: those with the most boxes come first.
    """

    matrix: tuple[tuple[str, tuple[Cell, ...]], ...]
    columns: tuple[str, ...]
    left_out: int
    curves: Markup
    curves_note: str
    classes: tuple[tuple[str, JudgedClass], ...]


def judged(judgement: Judgement) -> Judged:
    """The confusion matrix, precision over recall, and the classes of a judgement."""
    ordered = sorted(judgement.per_class, key=lambda each: (-each.boxes, each.number))
    names, background = judgement.classes, len(judgement.classes)
    counts = {(true, found): count for found, true, count in judgement.confusion}
    known = [each.number for each in ordered]
    stray = sorted({number for pair in counts for number in pair} - {*known, background})
    shown = sorted([*known, *stray][:_CLASSES])
    columns = (*shown, background)
    rows = []
    for true in columns:
        whole = sum(count for (row, _), count in counts.items() if row == true)
        what = _name(names, true) if true != background else "nothing there"
        cells = tuple(_cell(names, counts.get((true, found), 0), whole, what, true, found) for found in columns)
        rows.append((what, cells))
    every = range(len(judgement.per_class[0].curve)) if judgement.per_class else range(0)
    lines = [
        Line(
            name=f"{_name(names, each.number)} {words.share(each.ap50)}",
            style=place,
            parts=(tuple(zip((point / max(every[-1], 1) for point in every), each.curve, strict=False)),),
        )
        for place, each in enumerate(ordered[:_LINES], 1)
    ]
    left = len(ordered) - len(lines)
    return Judged(
        matrix=tuple(rows),
        columns=(*(_name(names, number) for number in shown), "missed"),
        left_out=len(known) + len(stray) - len(shown),
        curves=charts.curves(
            Frame(title="Precision over recall, IoU 0.5", across="recall", bottom=0.0, top=1.0, first=0.0, last=1.0),
            lines,
        ),
        curves_note=f"The {_LINES} classes with the most boxes; {left} more are in the table." if left > 0 else "",
        classes=tuple((_name(names, each.number), each) for each in ordered),
    )


def _cell(names: Sequence[str], count: int, whole: int, what: str, true: int, found: int) -> Cell:
    part = count / whole if whole else 0.0
    nothing = true == len(names)
    taken = "missed" if found == len(names) else f"taken for {_name(names, found)}"
    # Of nothing there is no whole that it could be a part of.
    title = f"{what}, {taken}: {count}" + ("" if nothing else f" of {whole} ({part:.0%})")
    return Cell(count=count, part=0.0 if nothing else part, right=true == found and not nothing, title=title)


def _name(names: Sequence[str], number: int) -> str:
    return words.cut(names[number], 40) if 0 <= number < len(names) else f"class {number}"


@dataclass(frozen=True, kw_only=True)
class Shares:
    """A balance, ready for the page.

    Attributes:
        classes: of each the name, its boxes on each side, and its part of all boxes.
        charts: boxes per image and their sizes; none where no label was read.
    """

    sides: tuple[tuple[str, str, int, int, int], ...]
    classes: tuple[tuple[str, tuple[int, ...], float], ...]
    charts: tuple[Markup, ...]
    left_out: int


def balance(given: Balance, rows: int = 60) -> Shares:
    """What a dataset is made of, the largest class first."""
    totals = {name: sum(side.counts.get(name, 0) for side in given.sides) for name in given.classes}
    whole = sum(totals.values()) or 1
    ordered = sorted(totals, key=lambda name: -totals[name])
    drawn = []
    if given.per_image:
        most = min(max(given.per_image), 15)
        rest = sum(images for number, images in given.per_image.items() if number > most)
        names = [str(number) for number in range(most + 1)] + ([f">{most}"] if rest else [])
        values = [float(given.per_image.get(number, 0)) for number in range(most + 1)] + ([float(rest)] if rest else [])
        drawn.append(charts.bars(Frame(title="Boxes per image", across="boxes"), names, values))
    if any(given.sizes):
        steps = len(given.sizes)
        names = [f"{place * 100 // steps}" for place in range(steps)]
        frame = Frame(title="Sizes of boxes", across="edge in % of the image's")
        drawn.append(charts.bars(frame, names, [float(value) for value in given.sizes]))
    return Shares(
        sides=tuple(
            (side.name, _SIDES.get(side.name, ""), side.images, side.boxes, side.background) for side in given.sides
        ),
        classes=tuple(
            (words.cut(name, 40), tuple(side.counts.get(name, 0) for side in given.sides), totals[name] / whole)
            for name in ordered[:rows]
        ),
        charts=tuple(drawn),
        left_out=max(len(ordered) - rows, 0),
    )
