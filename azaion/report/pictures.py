"""Sample images as they go into the page: the truth, and beside it what was found."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from azaion.report import matching, words
from azaion.report.facts import Box, Sample, Samples

#: A picture with more boxes shows no more of them.
_BOXES: Final = 100
#: In one with more, names would cover what they name.
_NAMED: Final = 20


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One image, ready for the page."""

    name: str
    caption: str
    truth: Markup
    found: Markup


def drawn(samples: Samples) -> list[Drawn]:
    """Each sample as two pictures, and how they compare."""
    return [_drawn(number, sample, samples.classes) for number, sample in enumerate(samples.samples)]


def _drawn(number: int, sample: Sample, classes: Sequence[str]) -> Drawn:
    matched = matching.match(sample.truth, sample.found)
    right, wrong = sum(matched.truth), len(matched.found) - sum(matched.found)
    caption = f"{right} of {len(sample.truth)} {'box' if len(sample.truth) == 1 else 'boxes'} found"
    if not sample.truth:
        caption = "nothing there"
    caption += f", {wrong} found that {'is' if wrong == 1 else 'are'} not there" if wrong else ""
    # The data stands in the page once; the second picture refers to it.
    data = base64.b64encode(sample.jpeg).decode()
    image = Markup('<image id="p{}" width="{}" height="{}" href="data:image/jpeg;base64,{}"/>').format(
        number, sample.width, sample.height, data
    )
    again = Markup('<use href="#p{}"/>').format(number)
    name = words.cut(sample.name, 60)
    return Drawn(
        name=name,
        caption=caption,
        truth=_picture(
            sample,
            image,
            f"{name}, the truth: {_told(sample.truth, classes)}",
            _boxes(sample, sample.truth, ["true" if hit else "missed" for hit in matched.truth], classes),
        ),
        found=_picture(
            sample,
            again,
            f"{name}, as found: {_told(sample.found, classes)}",
            _boxes(sample, sample.found, ["right" if hit else "wrong" for hit in matched.found], classes),
        ),
    )


def _picture(sample: Sample, image: Markup, label: str, boxes: Iterator[Markup]) -> Markup:
    return Markup('<svg class="photo" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>').format(
        sample.width, sample.height, label, image, Markup("").join(boxes)
    )


def _boxes(sample: Sample, boxes: Sequence[Box], kinds: Sequence[str], classes: Sequence[str]) -> Iterator[Markup]:
    width, height = sample.width, sample.height
    # In the picture's own pixels, so that a line is as thick in a small one as in a large one.
    unit = max(width, height) / 320
    for box, kind in list(zip(boxes, kinds, strict=True))[:_BOXES]:
        left, top = box.left * width, box.top * height
        name = _name(classes, box.number)
        sure = "" if box.confidence is None else f" {box.confidence:.2f}"
        title = f"{name}{sure}" + {"missed": ", missed", "wrong": ", not there"}.get(kind, "")
        area = Markup('x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"').format(
            left, top, (box.right - box.left) * width, (box.bottom - box.top) * height
        )
        dashes = Markup(' stroke-dasharray="{:.1f}"').format(5 * unit) if kind in {"missed", "wrong"} else ""
        yield Markup(
            '<g class="box {}"><title>{}</title><rect class="halo" {area} stroke-width="{:.2f}"/>'
            '<rect {area} stroke-width="{:.2f}"{}/>{}</g>'
        ).format(
            kind,
            title,
            3.4 * unit,
            1.8 * unit,
            dashes,
            _words(title, box, sample, unit) if len(boxes) <= _NAMED else "",
            area=area,
        )


def _words(title: str, box: Box, sample: Sample, unit: float) -> Markup:
    """Above the box, or in it where there is no room; from its right edge to the left in the right half."""
    size, top = 11 * unit, box.top * sample.height
    y = top - 3 * unit if top > size + 3 * unit else min(top + size, sample.height - 2 * unit)
    to_the_left = box.left + box.right > 1
    x = box.right * sample.width - unit if to_the_left else box.left * sample.width + unit
    return Markup(
        '<text x="{:.1f}" y="{:.1f}" text-anchor="{}" font-size="{:.1f}" stroke-width="{:.1f}">{}</text>'
    ).format(x, y, "end" if to_the_left else "start", size, 3 * unit, words.cut(title, 24))


def _told(boxes: Sequence[Box], classes: Sequence[str]) -> str:
    """The boxes in words, for those who cannot see them."""
    names = [_name(classes, box.number) for box in boxes]
    return words.cut(", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)), 300) or "no boxes"


def _name(classes: Sequence[str], number: int) -> str:
    return words.cut(classes[number], 40) if 0 <= number < len(classes) else f"class {number}"
