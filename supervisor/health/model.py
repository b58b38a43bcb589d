"""What health is told in: verdicts and findings."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Verdict(StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"

    @property
    def code(self) -> int:
        """The exit code, as monitoring plugins have it: 0, 1, 2, 3 in this order."""
        return _CODES.index(self)

    @property
    def gravity(self) -> int:
        """Larger is worse. What nobody knows is worse than ok, and less than trouble that is known."""
        return _GRAVITY.index(self)


_CODES: Final = (Verdict.OK, Verdict.WARNING, Verdict.CRITICAL, Verdict.UNKNOWN)
_GRAVITY: Final = (Verdict.OK, Verdict.UNKNOWN, Verdict.WARNING, Verdict.CRITICAL)


@dataclass(frozen=True, kw_only=True)
class Mute:
    """Somebody's decision that a check is not to bother anybody for a while.

    Attributes:
        until: seconds since 1970.
        reason: in their words; may be empty.
        by: who has decided.
    """

    until: float
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check has found of one thing.

    Attributes:
        check: the check's name, such as ``disk``.
        subject: what of several it is about, such as a path or ``gpu0``; empty where there is only one.
        verdict: how it is.
        text: one line for people: what is so.
        advice: one line: what to do; empty when all is well.
        since: seconds since 1970 from which on the verdict has been the same.
        value: what was measured, in the check's own unit, for machines; None where there is nothing to measure.
        mute: set while it is not to bother anybody.
    """

    check: str
    subject: str = ""
    verdict: Verdict
    text: str
    advice: str = ""
    since: float
    value: float | None = None
    mute: Mute | None = None

    @property
    def name(self) -> str:
        """``disk /azaion``, or ``broker``: what people call it."""
        return f"{self.check} {self.subject}".rstrip()

    @property
    def bothers(self) -> bool:
        """Whether somebody should look."""
        return self.verdict is not Verdict.OK and self.mute is None


def gravest(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that bother, the worst first and among equals the oldest."""
    bothering = (finding for finding in findings if finding.bothers)
    return sorted(bothering, key=lambda finding: (-finding.verdict.gravity, finding.since, finding.name))


def overall(findings: Iterable[Finding]) -> Verdict:
    """The worst verdict of those that are not muted; unknown where nothing has been looked at yet."""
    known = list(findings)
    if not known:
        return Verdict.UNKNOWN
    return max((each.verdict for each in known if each.mute is None), key=lambda it: it.gravity, default=Verdict.OK)
