"""What a release is, what became of its deploys, and the pure decisions over them."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Final

from supervisor.errors import SupervisorError

#: So many releases stay, beside those that are in use.
KEEP: Final = 3
#: So many deploys are remembered.
REMEMBERED: Final = 200
#: What a folder, a shebang and a shell take without ado.
_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


class ReleaseError(SupervisorError):
    """A release cannot be made, found, put to use or removed."""


class Verdict(StrEnum):
    """What came of a deploy."""

    UNDER_WAY = "under way"
    KEPT = "kept"
    ROLLED_BACK = "rolled back"  # it did not prove itself
    UNDONE = "undone"  # it was cut off before it could
    FAILED = "failed"  # neither could it prove itself nor be taken back


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release that is whole.

    Attributes:
        name: of its folder: the version, and where it comes from.
        version: of the product.
        source: the commit, or the digest of the folder that it was made from.
        made: when, in seconds since 1970.
        schema: of the state database that it reads and writes.
        environment: where its libraries come from: the lock that they were installed by, or a folder.
        commit: what the source says that it is of; None of a folder that was copied out of a checkout, and of releases
            that were made before this was asked.
    """

    name: str
    version: str
    source: str
    made: float
    schema: int
    environment: str
    commit: str | None = None

    @property
    def origin(self) -> str:
        """Where it comes from, for people."""
        return self.commit or self.source

    def record(self) -> dict[str, Any]:
        """As ``release.json`` holds it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A release took over from another one, or was to.

    Attributes:
        began: when, in seconds since 1970.
        origin: the release that was in use before; None at an install.
        target: the one that took over.
        verdict: what came of it.
        reason: why.
        by: who asked for it.
        rollback: somebody went back, so that nothing is rolled back by itself.
        ended: when the verdict was known.
        consumer_away_s: for how long no annotation was taken in; None if nobody knows.
    """

    began: float
    origin: str | None
    target: str
    verdict: Verdict = Verdict.UNDER_WAY
    reason: str = ""
    by: str = ""
    rollback: bool = False
    ended: float | None = None
    consumer_away_s: float | None = None

    def record(self) -> dict[str, Any]:
        """As ``deploys.json`` holds it."""
        return asdict(self)


def release_of(record: Mapping[str, Any]) -> Release:
    """A release from its record; what it says beside is ignored.

    Raises:
        ReleaseError: it is none.
    """
    try:
        told = {field.name: record[field.name] for field in fields(Release) if field.name != "commit"}
        return Release(**told, commit=record.get("commit"))
    except KeyError as error:
        raise ReleaseError(f"the record of a release lacks {error}") from None


def deployment_of(record: Mapping[str, Any]) -> Deployment:
    """A deploy from its record; what it says beside is ignored.

    Raises:
        ReleaseError: it is none.
    """
    try:
        told = {field.name: record[field.name] for field in fields(Deployment) if field.name in record}
        return Deployment(**{**told, "verdict": Verdict(record["verdict"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(f"the record of a deploy cannot be read: {error}") from None


def named(name: str) -> str:
    """The name, if a release may have it.

    Raises:
        ReleaseError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise ReleaseError(f"{name!r} cannot be the name of a release: letters, digits and ._- only, 64 at most")
    return name


def cut_off(deployments: Sequence[Deployment]) -> Deployment | None:
    """The deploy that has no end: whoever made it was killed. None if there is none."""
    return deployments[-1] if deployments and deployments[-1].verdict is Verdict.UNDER_WAY else None


def way_back(deployments: Sequence[Deployment], current: str | None) -> str | None:
    """The release that the current one took over from; None if nobody knows."""
    taken = (each for each in reversed(deployments) if each.target == current and each.verdict is Verdict.KEPT)
    # Who went back does not mean to come forward again by going back once more; who mended a release did not leave it.
    return next((each.origin for each in taken if not each.rollback and each.origin != current), None)


def removable(
    releases: Sequence[Release], deployments: Sequence[Deployment], *, current: str | None, used: Collection[str]
) -> list[str]:
    """The releases that nobody needs, the oldest first.

    Kept are the one in use, the one before it, those that a run was started with for as long as it lives, and `KEEP` of
    the newest.
    """
    by_age = sorted(releases, key=lambda each: (each.made, each.name))
    needed = {current, way_back(deployments, current), *used, *(each.name for each in by_age[-KEEP:])}
    return [each.name for each in by_age if each.name not in needed]
