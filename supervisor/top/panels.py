"""Below the table: the selected job, and the machine over time."""

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from rich.cells import cell_len
from rich.text import Text

from supervisor.commands import text
from supervisor.top.lines import STATES, clean, cut, fit
from supervisor.top.plots import Series, over_time, plot, plot_room
from supervisor.top.source import Look
from supervisor.top.table import done

#: A plot needs so many lines before it says more than a line of blocks.
_TALL: Final = 3
_TALLEST: Final = 6
#: Of the room, the least part that is for the log, and the least lines.
_LOG_SHARE: Final = 4
_LOG_LINES: Final = 3
#: What aligns the columns of a log on a wide screen hides them on a narrow one.
_WIDE_GAP: Final = re.compile(r"[ \t]{3,}")


def title(job: Mapping[str, Any] | None) -> str:
    """What the lower part is about."""
    return "no job" if job is None else clean(f"job {job['id']}  {job['kind']}  {job['name']}")


def details(look: Look | None, width: int, height: int) -> list[Text]:
    """The selected job: how far it is, its curves, the end of its log."""
    if look is None or look.job is None:
        return [Text("There are no jobs yet: azaionctl submit-train, azaionctl submit", style="dim")] if look else []
    job = look.job
    lines = [*_progress(job, width), *(Text(fit(line, width)) for line in _facts(job))]
    series = _curves(look.curves, (job["progress"] or {}).get("epochs") or 0, width)
    room = height - len(lines) - (max(_LOG_LINES, height // _LOG_SHARE) if look.lines else 0)
    lines += [Text(line) for line in plots(series, width, room)]
    log = [Text(fit(_WIDE_GAP.sub("  ", line), width), style="dim") for line in look.lines]
    return lines + log[-(height - len(lines)) :] if height > len(lines) else lines[:height]


def _progress(job: Mapping[str, Any], width: int) -> list[Text]:
    told, attempts = job["progress"], job["attempts"]
    # Its own words, as everything of its progress.
    phase = clean(str(told["phase"] or "")) if told else ""
    since = f"attempt {attempts[-1]['n']}, " if len(attempts) > 1 else ""
    since += (
        f"started {text.since(job['started'])} ago" if job["started"] else f"filed {text.since(job['created'])} ago"
    )
    if not told or not told["epochs"]:
        state = Text.assemble((job["state"], STATES.get(job["state"], "")), f"  {since}")
        state.append(f"  {phase}" if phase else "")
        if job["ended"] and job["started"]:
            took = dt.datetime.fromisoformat(job["ended"]) - dt.datetime.fromisoformat(job["started"])
            state.append(f"  took {text.duration(took.total_seconds())}")
        return [cut(state, width)]
    share = done(told)
    words = (
        f" {100 * share:.0f} %  {phase}, epoch {told['epoch']}/{told['epochs']}"
        f", batch {told['batch']}/{told['batches']}  ETA {text.duration(told['eta_s'])}  {since}"
    )
    room = max(10, min(40, width - cell_len(words)))
    filled = round(room * share)
    return [cut(Text.assemble(("█" * filled, "green"), "░" * (room - filled), words), width)]


def _facts(job: Mapping[str, Any]) -> list[str]:
    """Why it is as it is, and what it has made."""
    facts = [job["reason"]] if job["reason"] and job["state"] != "running" else []
    facts += [f"after job {job['after']}"] if job["after"] and job["state"] in {"held", "queued"} else []
    chain = job.get("chain") or []
    facts += [f"chain of jobs {', '.join(map(str, chain))}"] if len(chain) > 1 else []
    facts += [", ".join(f"{name} {value}" for name, value in job["artifacts"].items())] if job["artifacts"] else []
    return [clean(str(fact)) for fact in facts]


def _curves(told: Mapping[str, Any], epochs: int, width: int) -> list[Series]:
    """Losses and precision. The parts of a loss are added: they fall together, and there is little room.

    An epoch is as many columns wide as lets all that there will be fit.
    """
    metrics, known = told.get("metrics", {}), told.get("epochs", [])
    if not known:
        return []
    wide = max(1, round(plot_room(width) // (len(known) * max(1.0, epochs / known[-1]))))
    found = []
    for name, prefix in (("loss", "train/"), ("val loss", "val/")):
        if values := _sums([metrics[key] for key in metrics if key.startswith(prefix) and "loss" in key]):
            found.append(Series(name=name, values=values, digits=3))
    found += [
        Series(name=name, values=metrics[name], low=0.0, digits=3) for name in ("mAP50", "mAP50-95") if name in metrics
    ]
    return [replace(each, values=[value for value in each.values for _ in range(wide)]) for each in found]


def _sums(columns: Sequence[Sequence[float | None]]) -> list[float | None]:
    rows = zip(*columns, strict=True)
    return [None if None in row else sum(value for value in row if value is not None) for row in rows]


def machine(look: Look | None, width: int, height: int, now: float) -> list[Text]:
    """The machine over time."""
    if look is None or not look.history.get("times"):
        return [Text("no samples yet", style="dim")]
    room = plot_room(width)
    times, series, start = look.history["times"], look.history["series"], now - look.wish.span_s
    found = [
        Series(
            name=name,
            values=over_time(times, series[key], start=start, end=now, room=room),
            low=0.0,
            high=high,
            unit=unit,
            digits=digits,
        )
        for key, name, high, unit, digits in _wanted(series)
    ]
    # The newest of a few is the last that was known: the one for this moment may not be there yet.
    found = [_without_tail(each) for each in found]
    return [Text(line) for line in plots(found, width, height)]


def _wanted(names: Iterable[str]) -> list[tuple[str, str, float, str, int]]:
    """Key, name, the least value that fills the height, unit and digits, the most telling first."""
    gpus = list(dict.fromkeys(name.partition(".")[0] for name in names if "." in name))
    found: list[tuple[str, str, float, str, int]] = []
    for gpu in gpus:
        found += [
            (f"{gpu}.busy_percent", f"{gpu} busy", 100.0, " %", 0),
            (f"{gpu}.memory_percent", f"{gpu} mem", 100.0, " %", 0),
        ]
    found += [
        ("lag", "lag", 100.0, "", 0),
        ("rate", "rate", 10.0, "/s", 1),
        ("memory_percent", "memory", 100.0, " %", 0),
    ]
    found += [(f"{gpu}.celsius", f"{gpu} temp", 100.0, " °C", 0) for gpu in gpus]
    return [*found, ("loop_late_s", "loop late", 1.0, " s", 2)]


def _without_tail(series: Series) -> Series:
    values = list(series.values)
    while values and values[-1] is None:
        values.pop()
    return replace(series, values=values)


def plots(series: Sequence[Series], width: int, room: int) -> list[str]:
    """As many as fit, each as high as there is room for."""
    if room <= 0 or not series:
        return []
    each = room // len(series)
    height = min(_TALLEST, each) if each >= _TALL else 1
    return [line for one in series for line in plot(one, width, height)][:room]
