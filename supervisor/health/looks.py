"""What one look of a check shows, and what a check is."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from azaion.declarations.health import CheckSettings
from supervisor.health.model import Verdict

#: A value must fall below a threshold by this part of it before the verdict is a better one.
MARGIN: Final = 0.02


class UnreadableError(Exception):
    """What a check wanted to read cannot be read; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one look has shown of one thing.

    Attributes:
        subject: what of several it is about; empty where there is only one.
        verdict: how it is by this look alone.
        eased: how it would be with thresholds that are a little kinder to it: only what is well by these, too, is
            better than before.
        text: one line: what is so.
        advice: one line: what to do if it is not well.
        value: what was measured.
        sure: false where a machine that is merely busy looks the same.
    """

    subject: str = ""
    verdict: Verdict
    eased: Verdict | None = None
    text: str
    advice: str = ""
    value: float | None = None
    sure: bool = True


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Thresholds of a value. Where ``critical`` is the smaller one, less is worse.

    Attributes:
        warning: from here on it warns; None if it never does.
        critical: from here on it is critical; the same.
    """

    warning: float | None = None
    critical: float | None = None

    @classmethod
    def of(cls, settings: CheckSettings) -> "Levels":
        """The thresholds of a check."""
        return cls(warning=settings.warning, critical=settings.critical)

    def judge(self, value: float) -> tuple[Verdict, Verdict]:
        """The verdict on a value, and the one by kinder thresholds."""
        falling = self.warning is not None and self.critical is not None and self.critical < self.warning
        sign = -1 if falling else 1

        def verdict(ease: float) -> Verdict:
            for level, name in ((self.critical, Verdict.CRITICAL), (self.warning, Verdict.WARNING)):
                if level is not None and sign * value >= sign * level * (1 - sign * ease):
                    return name
            return Verdict.OK

        return verdict(0.0), verdict(MARGIN)


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check.

    Attributes:
        name: as in ``azaion.yaml``.
        look: looks once; raises `UnreadableError` where that is not possible.
        interval_s: seconds between two looks while all is well.
        again_s: the same while something is not.
        limit_s: how long a look may take, in seconds.
        looks: so many in a row must say so before a verdict becomes a worse one.
    """

    name: str
    look: Callable[[], Awaitable[Sequence[Seen]]]
    interval_s: float
    again_s: float = 15.0
    limit_s: float = 10.0
    looks: int = 1


def worst(seen: Sequence[Seen], subject: str, fine: str, value: float | None = None) -> Seen:
    """One look made of several at the same thing: the worst verdict, and every text that is not ok."""
    bad = sorted((each for each in seen if each.verdict is not Verdict.OK), key=lambda each: -each.verdict.gravity)
    eased = sorted((each for each in seen if each.eased), key=lambda each: -(each.eased or Verdict.OK).gravity)
    return Seen(
        subject=subject,
        verdict=bad[0].verdict if bad else Verdict.OK,
        eased=max((each.eased or each.verdict for each in seen), key=lambda it: it.gravity, default=Verdict.OK),
        text="; ".join(each.text for each in bad) or fine,
        advice=next((each.advice for each in (*bad, *eased)), ""),
        value=value,
        sure=all(each.sure for each in bad),
    )
