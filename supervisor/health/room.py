"""The room that looks: each check in a task of its own, and what is thought of what they have seen."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from supervisor.health import steadiness
from supervisor.health.looks import Check, Seen, UnreadableError
from supervisor.health.machine import BUSY_S, Loop
from supervisor.health.model import Finding, Mute, Verdict
from supervisor.health.steadiness import Opinion

#: The first looks are spread over so many seconds, so that a start is not made slower by all of them at once.
_SPREAD_S: Final = 2.0
#: What one look has shown to be bad is looked at again so soon, in seconds.
DOUBT_S: Final = 15.0

_log = structlog.get_logger("azaion.health")


@dataclass(kw_only=True)
class _Desk:
    """What is known by one check, by subject; in the order in which it was told."""

    check: Check
    opinions: dict[str, Opinion] = field(default_factory=dict)


class HealthRoom:
    """Looks at everything for as long as `run` does.

    Args:
        checks: in the order in which people read them.
        loop: tells whether the machine is merely busy.
        mutes: what is not to bother anybody now, by its name.
        clock: the wall clock.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        loop: Loop,
        mutes: Callable[[], Mapping[str, Mute]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._desks = {check.name: _Desk(check=check) for check in checks}
        self._loop = loop
        self._mutes = mutes
        self._clock = clock
        self._listeners: list[Callable[[], None]] = []

    def findings(self) -> Sequence[Finding]:
        """The latest of every check; none of those that have not looked yet."""
        mutes, now = self._mutes(), self._clock()
        mutes = {name: mute for name, mute in mutes.items() if mute.until > now}
        return [
            _finding(desk.check.name, opinion, mutes)
            for desk in self._desks.values()
            for opinion in desk.opinions.values()
        ]

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each change of a verdict."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Look for ever. What hangs holds up nothing else, not even the end of the daemon."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._loop.run())
            for place, desk in enumerate(self._desks.values()):
                delay = _SPREAD_S * place / len(self._desks)
                tasks.create_task(self._watch(desk, delay), name=f"health {desk.check.name}")

    async def _watch(self, desk: _Desk, delay: float) -> None:
        await asyncio.sleep(delay)
        while True:
            seen = await look(desk.check, self._loop, tuple(desk.opinions))
            self._think(desk, seen)
            await asyncio.sleep(pause(desk.check, desk.opinions.values()))

    def _think(self, desk: _Desk, seen: Sequence[Seen]) -> None:
        now, monotonic = self._clock(), time.monotonic()
        changes = []
        opinions: dict[str, Opinion] = {}
        for each in seen:
            before = desk.opinions.get(each.subject)
            if before is None:
                opinion = steadiness.first(each, desk.check.looks, now, monotonic)
            else:
                opinion = steadiness.after(before, each, desk.check.looks, now, monotonic)
            opinions[each.subject] = opinion
            if opinion.verdict is not (before.verdict if before is not None else Verdict.OK):
                changes.append(opinion)
        gone = any(
            opinion.verdict is not Verdict.OK for subject, opinion in desk.opinions.items() if subject not in opinions
        )
        desk.opinions = opinions
        for opinion in changes:
            level = _log.info if opinion.verdict is Verdict.OK else _log.warning
            name = f"{desk.check.name} {opinion.seen.subject}".rstrip()
            level("health", check=name, verdict=str(opinion.verdict), detail=opinion.seen.text)
        if changes or gone:
            for listener in self._listeners:
                listener()


async def look(check: Check, loop: Loop, subjects: Sequence[str] = ()) -> list[Seen]:
    """Look once, within the check's time limit. A look that fails, or that a busy machine may have spoilt, is unknown.

    Args:
        check: the check.
        loop: tells whether the machine is busy.
        subjects: what it has told of before, of which nobody knows anything if it fails.
    """
    began = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(check.limit_s):
            seen = list(await check.look())
    except TimeoutError:
        return _unknown(f"no answer within {check.limit_s:g} s", subjects)
    except UnreadableError as error:
        return _unknown(str(error), subjects)
    except Exception as error:  # noqa: BLE001 - one check must not end the others, and must not pass in silence
        _log.exception("a check failed", check=check.name)
        return _unknown(f"the check itself has failed: {type(error).__name__}: {error}", subjects)
    busy = loop.worst(began)
    return [_unless_busy(each, busy) for each in seen]


def _unless_busy(seen: Seen, busy: float) -> Seen:
    if seen.sure or busy < BUSY_S or seen.verdict is Verdict.OK:
        return seen
    return Seen(
        subject=seen.subject,
        verdict=Verdict.UNKNOWN,
        text=f"the machine is busy (azaiond was late by {busy:.1f} s), and so: {seen.text}",
        advice=seen.advice,
    )


def _unknown(reason: str, subjects: Sequence[str]) -> list[Seen]:
    advice = "it looks again by itself; if this lasts: journalctl -u azaion"
    return [
        Seen(subject=subject, verdict=Verdict.UNKNOWN, text=f"not known: {reason}", advice=advice)
        for subject in subjects or ("",)
    ]


def pause(check: Check, opinions: Iterable[Opinion]) -> float:
    """Seconds until the next look: sooner while something is not well, or not certain yet."""
    known = list(opinions)
    if any(opinion.doubtful for opinion in known):
        return min(check.interval_s, check.again_s, DOUBT_S)
    return check.interval_s if all(opinion.settled for opinion in known) else min(check.interval_s, check.again_s)


def _finding(check: str, opinion: Opinion, mutes: Mapping[str, Mute]) -> Finding:
    subject, seen = opinion.seen.subject, opinion.seen
    name = f"{check} {subject}".rstrip()
    fine = opinion.verdict is Verdict.OK
    again = "; looking again" if opinion.verdict is Verdict.UNKNOWN and opinion.candidate is not None else ""
    return Finding(
        check=check,
        subject=subject,
        verdict=opinion.verdict,
        text=f"{seen.text}{again}",
        advice="" if fine else seen.advice,
        since=opinion.since,
        value=seen.value,
        mute=mutes.get(name) or mutes.get(check),
    )
