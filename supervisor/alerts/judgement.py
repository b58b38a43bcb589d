"""Who hears of a change, and when. Pure: what was known, how things are and the time are all it knows.

People are told the difference between what they believe and what is so. That makes a flood impossible: however often
something changes, a message holds one line for it, and the gaps between messages grow.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from supervisor.alerts.model import Condition, Known, Level, Notice, Rules, State, What

HOUR_S: Final = 3600.0
#: So many changes within an hour are a flapping,
FLAPS: Final = 6
#: which is over when there has been none for so long.
CALM_S: Final = 1800.0
#: Between two messages lies at most so much, if one of what they tell is at least a warning, and if none is.
MAX_GAP_S: Final = 300.0
MAX_IDLE_GAP_S: Final = 600.0
#: The longest of them is reached before.
_MAX_DOUBLINGS: Final = 30
#: No more news than this are kept until the next message; the rest is counted.
MAX_NEWS: Final = 100


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What comes of a look.

    Attributes:
        state: for the next decision.
        notices: the message that is to be sent now, the worst first; empty if there is none.
        left_out: how many news it leaves out.
        pending: whether something waits for its message.
    """

    state: State
    notices: tuple[Notice, ...] = ()
    left_out: int = 0
    pending: bool = False


def decide(
    state: State,
    conditions: Mapping[str, Condition],
    now: float,
    rules: Rules,
    *,
    news: Iterable[Notice] = (),
    settled: bool = True,
) -> Decision:
    """What people are to be told now.

    Args:
        state: what came of the last decision.
        conditions: how things are, by their names.
        now: seconds since 1970. It may jump.
        rules: how often people are told.
        news: what has happened since the last decision.
        settled: whether what is not among the conditions is well; else nobody knows yet.
    """
    known = _seen(state, conditions, now, settled=settled)
    # As with what is known: where the clock has gone back, nothing lies in the future.
    waiting = tuple(replace(notice, time=min(notice.time, now)) for notice in (*state.news, *news))
    left_out = state.left_out + max(0, len(waiting) - MAX_NEWS)
    waiting = waiting[:MAX_NEWS]
    sent = tuple(min(moment, now) for moment in state.sent if moment > now - HOUR_S)
    due = {name: notice for name, each in known.items() if (notice := _due(name, each, now, rules)) is not None}
    message = [*due.values(), *waiting]
    ready = bool(message) and _ripe(message, sent, now, rules)
    if ready:
        known |= {name: _told(known[name], now) for name in due}
        sent, waiting = (*sent, now), ()
    return Decision(
        state=State(
            known={name: each for name, each in known.items() if not _forgettable(each)},
            news=waiting,
            left_out=0 if ready else left_out,
            sent=sent,
        ),
        notices=tuple(sorted(message, key=lambda notice: (-notice.level.gravity, notice.time))) if ready else (),
        left_out=left_out if ready else 0,
        pending=bool(message) and not ready,
    )


def _seen(state: State, conditions: Mapping[str, Condition], now: float, *, settled: bool) -> dict[str, Known]:
    found: dict[str, Known] = {}
    for name in {**state.known, **conditions}:
        before, condition = state.known.get(name), conditions.get(name)
        level = condition.level if condition is not None else Level.OK if settled else None
        if before is not None:
            found[name] = _after(_by(before, now), condition, level, now)
        elif condition is not None and level not in {None, Level.OK}:
            fresh = Known(kind=condition.kind, level=Level.OK, since=now)
            found[name] = _after(fresh, condition, level, now)
    return found


def _by(known: Known, now: float) -> Known:
    """The same where the clock has gone back: nothing lies in the future."""
    return replace(
        known,
        since=min(known.since, now),
        told_at=min(known.told_at, now),
        changes=tuple(min(moment, now) for moment in known.changes if moment > now - HOUR_S),
    )


def _after(known: Known, condition: Condition | None, level: Level | None, now: float) -> Known:
    if condition is not None:
        known = replace(known, quiet=condition.quiet)
    if condition is not None and level is not None:
        known = replace(known, text=condition.text, advice=condition.advice)
    if level is not None and level is not known.level:
        known = replace(known, level=level, since=now, changes=(*known.changes, now)[-FLAPS:])
    if not known.flapping and len(known.changes) >= FLAPS:
        # It may be well just now; that it was not is what people are told, and is what is resolved in the end.
        known = replace(known, flapping=True, told_flapping=False, worst=_worse(known.told, Level.WARNING))
    elif known.flapping and now - known.since >= CALM_S:
        known = replace(known, flapping=False, told_flapping=False, worst=Level.OK, changes=())
    if known.flapping:
        known = replace(known, worst=_worse(known.worst, known.level))
    return known


def _due(name: str, known: Known, now: float, rules: Rules) -> Notice | None:
    """What is to be said of a condition, if anything. Its time is the one from which on it has been due."""
    again = rules.remind_critical_s if known.told is Level.CRITICAL else rules.remind_warning_s
    level, text, time = known.level, known.text, known.since
    if known.flapping:
        again = rules.remind_warning_s
        worse = known.worst.gravity > known.told.gravity
        if known.quiet or (known.told_flapping and not worse and now - known.told_at < again):
            return None
        what, level = What.FLAPPING, _worse(known.worst, known.told)
        text = f"changes again and again, now {known.level}: {text}"
        time = known.told_at + again if known.told_flapping and not worse else known.since
    elif known.level is Level.OK and known.told is not Level.OK:
        what, level = What.RESOLVED, known.told
    elif known.quiet or known.level is Level.OK:
        return None
    elif known.told is Level.OK:
        what = What.RAISED
    elif known.level is not known.told:
        what = What.WORSE if known.level.gravity > known.told.gravity else What.EASED
        level = _worse(known.level, known.told)
    elif now - known.told_at >= again:
        what, time = What.STILL, known.told_at + again
    else:
        return None
    advice = "" if what is What.RESOLVED else known.advice
    return Notice(name=name, kind=known.kind, what=what, level=level, text=text, advice=advice, time=time)


def _told(known: Known, now: float) -> Known:
    believed = _worse(known.worst, known.told) if known.flapping else known.level
    return replace(known, told=believed, told_at=now, told_flapping=known.flapping)


def _ripe(message: Iterable[Notice], sent: tuple[float, ...], now: float, rules: Rules) -> bool:
    """Whether a message has waited for long enough."""
    notices = list(message)
    if now - min(notice.time for notice in notices) < rules.gather_s:
        return False
    grave = max(notice.level.gravity for notice in notices) >= Level.WARNING.gravity
    doublings = min(max(0, len(sent) - 1), _MAX_DOUBLINGS)
    gap = min(rules.gap_s * 2.0**doublings, MAX_GAP_S if grave else MAX_IDLE_GAP_S)
    return not sent or now - sent[-1] >= gap


def _forgettable(known: Known) -> bool:
    return known.level is Level.OK and known.told is Level.OK and not known.flapping and not known.changes


def _worse(one: Level, other: Level) -> Level:
    return max(one, other, key=lambda level: level.gravity)
