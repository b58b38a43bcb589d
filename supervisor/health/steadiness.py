"""From looks to a verdict that does not flap. Pure: what was thought before, a look and the time are all it knows."""

from dataclasses import dataclass, replace
from typing import Final

from supervisor.health.looks import Seen
from supervisor.health.model import Verdict

#: So many looks in a row must have failed before a verdict is given up for "unknown".
LOST_LOOKS: Final = 3
#: Whatever worsened again within this time is better only after twice as many looks each time, so many times at most.
FLAP_S: Final = 3600.0
MAX_DOUBLINGS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What is thought of one thing.

    Attributes:
        seen: the look that tells best how it is.
        verdict: how it is.
        since: the wall-clock time from which on the verdict has been this.
        candidate: what it is about to become; None if it is settled.
        count: so many looks in a row have said so.
        worsened: the (monotonic) times at which it became worse, of the last while.
    """

    seen: Seen
    verdict: Verdict
    since: float
    candidate: Verdict | None = None
    count: int = 0
    worsened: tuple[float, ...] = ()

    @property
    def doubtful(self) -> bool:
        """Whether it is about to become worse, or known."""
        if self.candidate is None:
            return False
        return self.verdict is Verdict.UNKNOWN or self.candidate.gravity > self.verdict.gravity

    @property
    def settled(self) -> bool:
        """Whether it is well and nothing speaks against it."""
        return self.verdict is Verdict.OK and self.candidate is None


def first(seen: Seen, looks: int, now: float, monotonic: float) -> Opinion:
    """What is thought after the first look. One look may lie: then nobody knows yet."""
    if looks > 1 and seen.verdict not in {Verdict.OK, Verdict.UNKNOWN}:
        return Opinion(seen=seen, verdict=Verdict.UNKNOWN, since=now, candidate=seen.verdict, count=1)
    worsened = (monotonic,) if seen.verdict not in {Verdict.OK, Verdict.UNKNOWN} else ()
    return Opinion(seen=seen, verdict=seen.verdict, since=now, worsened=worsened)


def after(opinion: Opinion, seen: Seen, looks: int, now: float, monotonic: float) -> Opinion:
    """What is thought after another look.

    Args:
        opinion: what was thought before.
        seen: the look.
        looks: so many in a row it takes to worsen.
        now: the wall-clock time.
        monotonic: the time that never jumps.
    """
    # Where the clock has gone back, nothing lies in the future.
    opinion = replace(opinion, since=min(opinion.since, now))
    target = _target(opinion.verdict, seen)
    if target is opinion.verdict:
        return replace(opinion, seen=seen, candidate=None, count=0)
    recent = tuple(moment for moment in opinion.worsened if monotonic - moment < FLAP_S)
    worse = target.gravity > opinion.verdict.gravity
    if opinion.candidate is None or (opinion.candidate.gravity > opinion.verdict.gravity) != worse:
        candidate, count = target, 1
    else:
        # Several looks agree on the mildest of what they say.
        candidate, count = min(opinion.candidate, target, key=lambda verdict: verdict.gravity), opinion.count + 1
        if not worse:
            candidate = max(opinion.candidate, target, key=lambda verdict: verdict.gravity)
    if count < _needed(opinion.verdict, target, looks, len(recent)):
        return replace(opinion, candidate=candidate, count=count)
    return Opinion(
        seen=seen,
        verdict=candidate,
        since=now,
        worsened=(*recent, monotonic) if worse and candidate is not Verdict.UNKNOWN else recent,
    )


def _target(verdict: Verdict, seen: Seen) -> Verdict:
    if Verdict.UNKNOWN in {verdict, seen.verdict} or seen.verdict.gravity > verdict.gravity:
        return seen.verdict
    eased = seen.eased or seen.verdict
    return min(verdict, eased, key=lambda each: each.gravity)


def _needed(verdict: Verdict, target: Verdict, looks: int, recent: int) -> int:
    """How many looks in a row it takes."""
    least = max(looks, LOST_LOOKS) if target is Verdict.UNKNOWN else looks
    if target.gravity > verdict.gravity:
        return least
    doublings = min(max(0, recent - 1), MAX_DOUBLINGS)
    return max(least, looks << doublings)
