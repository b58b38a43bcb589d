"""Diagrams as inline SVG. Colours come from the page's style, so that they follow light, dark and print.

Every diagram says in its label what it shows, and lines differ by their dashes too: nothing is told by colour alone.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from markupsafe import Markup, escape

_WIDTH: Final = 420
_HEIGHT: Final = 230
_LEFT: Final = 46
_RIGHT: Final = 12
_TOP: Final = 14
_BOTTOM: Final = 34

#: A line has at most so many points; more cannot be told apart.
_POINTS: Final = 400
#: So few are shown as dots too.
_DOTS: Final = 24

_TICKS: Final = 5
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)

Point = tuple[float, float]

_HATCH: Final = Markup(
    '<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path class="hatch" d="M0 0V5"/></pattern></defs>'
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a diagram.

    Attributes:
        parts: it is interrupted between them.
        lost: parts that were done again, and are drawn faintly.
        style: from 1; decides on the colour and the dashes.
    """

    name: str
    style: int
    parts: tuple[tuple[Point, ...], ...]
    lost: tuple[tuple[Point, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happened at a place of the horizontal axis."""

    at: float
    words: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a diagram has around its lines.

    Attributes:
        bottom, top: limits of the vertical axis; None to take them from the lines.
    """

    title: str
    across: str = "epoch"
    unit: str = ""
    bottom: float | None = None
    top: float | None = None
    first: float | None = None
    last: float | None = None


def curves(frame: Frame, lines: Sequence[Line], marks: Sequence[Mark] = ()) -> Markup:
    """Lines over a common axis, with a legend."""
    points = [point for line in lines for part in (*line.parts, *line.lost) for point in part]
    low, high = _limits([y for _, y in points], frame.bottom, frame.top)
    first = min((x for x, _ in points), default=0.0) if frame.first is None else frame.first
    last = max((x for x, _ in points), default=1.0) if frame.last is None else frame.last
    if last <= first:
        first, last = first - 0.5, last + 0.5
    scale = _Scale(first=first, last=last, low=low, high=high)
    body = [*_axes(scale, frame, whole=all(x == int(x) for x, _ in points))]
    body += [_mark(scale, mark) for mark in marks if first <= mark.at <= last]
    for line in lines:
        body += [_line(scale, part, f"s{line.style} lost") for part in line.lost]
        body += [_line(scale, part, f"s{line.style}", name=line.name) for part in line.parts]
    legend = Markup("").join(
        Markup(
            '<li><svg class="key" viewBox="0 0 24 8" aria-hidden="true"><path class="s{}" d="M0 4H24"/></svg>{}</li>'
        ).format(line.style, line.name)
        for line in lines
    )
    return _figure(frame.title, _label(frame, lines), body, Markup('<ul class="legend">{}</ul>').format(legend))


def bars(frame: Frame, names: Sequence[str], values: Sequence[float]) -> Markup:
    """Upright bars, each with its name below; of many, not every name."""
    scale = _Scale(first=0.0, last=float(max(len(values), 1)), low=0.0, high=_limits(values, 0.0, None)[1])
    body = [*_grid(scale, frame)]
    width = scale.x(1) - scale.x(0)
    every = math.ceil(len(names) / 10) or 1
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        left, top = scale.x(place), scale.y(value)
        body.append(
            Markup(
                '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}: {:g}</title></rect>'
            ).format(left + width * 0.1, top, max(width * 0.8, 0.5), max(scale.y(0) - top, 0.0), name, value)
        )
        if place % every == 0:
            body.append(_text(left + width / 2, _HEIGHT - _BOTTOM + 13, name, "middle"))
    body.append(_text((_WIDTH + _LEFT) / 2, _HEIGHT - 4, frame.across, "middle"))
    told = ", ".join(f"{name}: {value:g}" for name, value in list(zip(names, values, strict=True))[:12])
    return _figure(frame.title, f"{frame.title}, {told}", body, Markup(""))


@dataclass(frozen=True, kw_only=True)
class Span:
    """An attempt on the time axis.

    Attributes:
        until: the end of its last epoch that counts; what comes after was lost, unless it ended well.
    """

    name: str
    begin: datetime
    end: datetime
    until: datetime | None
    ended_well: bool
    title: str
    ends: tuple[datetime, ...] = ()


def timeline(title: str, spans: Sequence[Span]) -> Markup:
    """When each attempt ran, one row each; a tick is the end of an epoch."""
    width, row, left, shown = 860, 26, 84, spans[-30:]
    begin, end = min(span.begin for span in shown), max(span.end for span in shown)
    whole = max((end - begin).total_seconds(), 1.0)
    height = row * len(shown) + 34

    def place(moment: datetime) -> float:
        return left + (width - left - 16) * min(max((moment - begin).total_seconds() / whole, 0.0), 1.0)

    body: list[Markup] = [_HATCH]
    for part in range(5):
        x = left + (width - left - 16) * part / 4
        moment = begin + timedelta(seconds=whole * part / 4)
        body.append(Markup('<path class="grid" d="M{0:.1f} 4V{1}"/>').format(x, height - 26))
        anchor = "start" if part == 0 else "end" if part == 4 else "middle"  # noqa: PLR2004 - the last of the five
        body.append(_text(x, height - 10, _clock(moment, whole), anchor))
    for number, span in enumerate(shown):
        y, x = number * row + 6, place(span.begin)
        until = span.end if span.ended_well else span.until or span.begin
        body.append(_text(0, y + 12, span.name, "start"))
        for at, to, kind in ((x, place(until), "kept"), (place(until), place(span.end), "wasted")):
            if to - at > 0.2 or kind == "kept":  # noqa: PLR2004 - less cannot be seen
                body.append(
                    Markup(
                        '<rect class="{}" x="{:.1f}" y="{}" width="{:.1f}" height="16"><title>{}</title></rect>'
                    ).format(kind, at, y, max(to - at, 1.0), span.title)
                )
        if 0 < len(span.ends) <= _POINTS:
            ticks = Markup("").join(Markup("M{:.1f} {}v6").format(place(moment), y + 10) for moment in span.ends)
            body.append(Markup('<path class="tick" d="{}"/>').format(ticks))
    label = f"{title}: " + "; ".join(span.title for span in shown)
    return Markup('<svg class="wide" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, label, Markup("").join(body)
    )


@dataclass(frozen=True)
class _Scale:
    first: float
    last: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - self.first) / (self.last - self.first)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - self.low) / (self.high - self.low)


def _limits(values: Sequence[float], bottom: float | None, top: float | None) -> tuple[float, float]:
    low = min(values, default=0.0) if bottom is None else bottom
    high = max(values, default=1.0) if top is None else top
    if high <= low:
        high = low + (abs(low) or 1.0)
    if top is None:
        high += (high - low) * 0.05
    if bottom is None:
        # From zero, unless that would squeeze the lines together.
        low = 0.0 if 0 <= low < 0.6 * high else low - (high - low) * 0.05
    return low, high


def ticks(low: float, high: float, number: int = _TICKS, *, whole: bool = False) -> list[float]:
    """About so many round values between two others."""
    rough = (high - low) / max(number, 1)
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in _STEPS if size * factor >= rough * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(scale: _Scale, frame: Frame, *, whole: bool) -> Iterator[Markup]:
    yield from _grid(scale, frame)
    for value in ticks(scale.first, scale.last, 6, whole=whole):
        yield _text(scale.x(value), _HEIGHT - _BOTTOM + 13, f"{value:g}", "middle")
    yield _text((_WIDTH + _LEFT) / 2, _HEIGHT - 4, frame.across, "middle")


def _grid(scale: _Scale, frame: Frame) -> Iterator[Markup]:
    for value in ticks(scale.low, scale.high):
        y = scale.y(value)
        yield Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(_LEFT, y, _WIDTH - _RIGHT)
        yield _text(_LEFT - 5, y + 4, f"{value:.4g}{frame.unit}", "end")


def _mark(scale: _Scale, mark: Mark) -> Markup:
    x = scale.x(mark.at)
    line = Markup('<g class="mark"><title>{}</title><path d="M{:.1f} {}V{}"/>').format(
        mark.title, x, _TOP, _HEIGHT - _BOTTOM
    )
    return line + _text(x, _TOP - 4, mark.words, "middle") + Markup("</g>")


def _line(scale: _Scale, points: Sequence[Point], style: str, *, name: str = "") -> Markup:
    thin = _thinned(points)
    path = "".join(
        f"{'M' if place == 0 else 'L'}{scale.x(x):.1f} {scale.y(y):.1f}" for place, (x, y) in enumerate(thin)
    )
    drawn = Markup('<path class="{}" d="{}"/>').format(style, path)
    if len(thin) <= _DOTS and name:
        for x, y in thin:
            drawn += Markup(
                '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="2.2"><title>{}, {:g}: {:.4g}</title></circle>'
            ).format(style, scale.x(x), scale.y(y), name, x, y)
    elif len(thin) == 1:
        drawn += Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="2.2"/>').format(
            style, scale.x(thin[0][0]), scale.y(thin[0][1])
        )
    return drawn


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most so many points; of those that fall together the lowest and the highest stay, so that no spike is lost."""
    if len(points) <= _POINTS:
        return list(points)
    size = math.ceil(len(points) / (_POINTS // 2))
    kept: list[Point] = []
    for begin in range(0, len(points), size):
        part = points[begin : begin + size]
        kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return kept


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, words)


def _label(frame: Frame, lines: Sequence[Line]) -> str:
    told = []
    for line in lines:
        values = [y for part in line.parts for _, y in part]
        if values:
            told.append(
                f"{line.name} from {values[0]:.4g} to {values[-1]:.4g}, between {min(values):.4g} and {max(values):.4g}"
            )
    return f"{frame.title} over {frame.across}: " + ("; ".join(told) or "no figures")


def _figure(title: str, label: str, body: Sequence[Markup], below: Markup) -> Markup:
    return Markup(
        '<figure><figcaption>{}</figcaption><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>{}</figure>'
    ).format(title, _WIDTH, _HEIGHT, escape(label), Markup("").join(body), below)


def _clock(moment: datetime, whole: float) -> str:
    if whole < 300:  # noqa: PLR2004 - seconds; from there on minutes are enough
        return f"{moment:%H:%M:%S}"
    return f"{moment:%H:%M}" if whole < 86_400 / 2 else f"{moment:%d %b %H:%M}"
