"""Room on every filesystem that is in use: bytes and files, and when it will be full."""

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Final

from azaion.layout import Layout
from azaion.words import size
from supervisor.health import words
from supervisor.health.looks import Levels, Seen
from supervisor.health.model import Verdict

#: Over so many seconds it is looked how fast a disk fills, and after so many it is said.
WINDOW_S: Final = 6 * 3600.0
_ENOUGH_S: Final = 3600.0
#: One that will be full so soon is worth a warning, however empty it is.
SOON_S: Final = 6 * 3600.0
#: So many samples at the most: the slope is made of every pair of them.
_SAMPLES: Final = 72

_ADVICE: Final = "make room: azaionctl retention shows what could go"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """A filesystem.

    Attributes:
        path: of what lies on it, the first that was asked for.
        total: bytes that ordinary users may have in all.
        used: bytes that are taken of them.
        files: how many files it can hold; 0 where there is no limit.
        files_used: how many it holds.
        problem: why it is out of reach; empty if it is not.
    """

    path: Path
    total: int = 0
    used: int = 0
    files: int = 0
    files_used: int = 0
    problem: str = ""


def paths(layout: Layout, *, spool: bool) -> tuple[Path, ...]:
    """Every folder in use, those first that people know best."""
    inner = tuple(path for path in layout.folders() if path.parent in {layout.root, layout.state})
    return (layout.root, layout.state, *inner, *([layout.spool] if spool else []))


def usages(wanted: Sequence[Path]) -> list[Usage]:
    """One for each filesystem."""
    found: dict[int | Path, Usage] = {}
    for path in wanted:
        try:
            device = path.stat().st_dev
            if device not in found:
                found[device] = _usage(path)
        except FileNotFoundError:
            # What is below a folder that is there is made when it is needed.
            if not path.parent.exists() or path in wanted[:2]:
                found[path] = Usage(path=path, problem="it is not there; is its disk mounted?")
        except OSError as error:
            found[path] = Usage(path=path, problem=error.strerror or str(error))
    return list(found.values())


def _usage(path: Path) -> Usage:
    told = os.statvfs(path)
    used = (told.f_blocks - told.f_bfree) * told.f_frsize
    return Usage(
        path=path,
        # As `df` counts: what is kept for root is nobody's.
        total=used + told.f_bavail * told.f_frsize,
        used=used,
        files=told.f_files,
        files_used=told.f_files - told.f_ffree,
    )


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """How fast something grows, by the second: the median over all pairs, which a burst does not move."""
    return median((later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in combinations(samples, 2))


class Filling:
    """How fast each filesystem fills."""

    def __init__(self) -> None:
        self._samples: dict[Path, deque[tuple[float, float]]] = {}

    def full_in(self, usage: Usage, monotonic: float) -> float | None:
        """After how many seconds it will be full at the pace of the last hours; None if it does not fill."""
        samples = self._samples.setdefault(usage.path, deque(maxlen=_SAMPLES))
        if not samples or monotonic - samples[-1][0] >= WINDOW_S / _SAMPLES:
            samples.append((monotonic, usage.used))
        while monotonic - samples[0][0] > WINDOW_S:
            samples.popleft()
        if samples[-1][0] - samples[0][0] < _ENOUGH_S or (pace := slope(samples)) <= 0:
            return None
        return max(0.0, usage.total - usage.used) / pace


def judge(usage: Usage, levels: Levels, full_in: float | None, now: float) -> Seen:
    """How full one filesystem is."""
    subject = str(usage.path)
    if usage.problem:
        return Seen(
            subject=subject,
            verdict=Verdict.CRITICAL,
            text=f"out of reach: {usage.problem}",
            advice=f"mount it or mend it; look: findmnt -T {usage.path}",
        )
    percent = 100 * usage.used / usage.total if usage.total else 0.0
    verdict, eased = levels.judge(percent)
    text = f"{percent:.1f} % used, {size(usage.total - usage.used)} free"
    if full_in is not None and full_in < 7 * 86400:
        text += f", full at about {words.moment(now + full_in)}"
        if full_in < SOON_S and verdict is Verdict.OK:
            verdict = eased = Verdict.WARNING
    return Seen(subject=subject, verdict=verdict, eased=eased, text=text, advice=_ADVICE, value=percent)


def judge_files(usage: Usage, levels: Levels) -> Seen | None:
    """How many of its files a filesystem has used up; None where it has no limit."""
    if usage.problem or not usage.files:
        return None
    percent = 100 * usage.files_used / usage.files
    verdict, eased = levels.judge(percent)
    return Seen(
        subject=str(usage.path),
        verdict=verdict,
        eased=eased,
        text=f"{percent:.1f} % of {usage.files} inodes used",
        advice="remove small files: azaionctl retention shows what could go",
        value=percent,
    )


class DiskLook:
    """The look at bytes."""

    def __init__(self, levels: Levels) -> None:
        self._levels = levels
        self._filling = Filling()

    def __call__(self, found: Sequence[Usage]) -> list[Seen]:
        """One for each filesystem."""
        monotonic, now = time.monotonic(), time.time()
        return [
            judge(usage, self._levels, None if usage.problem else self._filling.full_in(usage, monotonic), now)
            for usage in found
        ]
