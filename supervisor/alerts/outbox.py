"""What waits to be sent to one channel, and how that has gone. Pure."""

from dataclasses import dataclass, replace
from typing import Final

from supervisor.alerts.model import Level

#: Older messages make way for newer ones.
MAX_PARCELS: Final = 30
#: So many failures in a row, and a channel is dead until it takes a message.
DEAD: Final = 3
#: Several that have waited go as one, of at most so many characters.
MAX_BODY: Final = 6000


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A message for one channel.

    Attributes:
        time: when it was written, in seconds since 1970.
    """

    title: str
    body: str
    level: Level
    time: float


@dataclass(frozen=True, kw_only=True)
class Outbox:
    """One channel's messages.

    Attributes:
        parcels: the oldest first.
        dropped: how many were given up since the channel is known.
        failures: in a row.
        error: of the last failure.
        last_success: when it has taken a message last, in seconds since 1970; None if it never has.
        last_failure: the same of the last that it has not taken.
    """

    parcels: tuple[Parcel, ...] = ()
    dropped: int = 0
    failures: int = 0
    error: str = ""
    last_success: float | None = None
    last_failure: float | None = None

    @property
    def dead(self) -> bool:
        """Whether it can be counted on no more."""
        return self.failures >= DEAD

    def filed(self, parcel: Parcel) -> "Outbox":
        """The same with one more message."""
        kept = (*self.parcels, parcel)[-MAX_PARCELS:]
        return replace(self, parcels=kept, dropped=self.dropped + len(self.parcels) + 1 - len(kept))

    def sent(self, parcels: tuple[Parcel, ...], now: float) -> "Outbox":
        """The same after these were taken."""
        left = tuple(each for each in self.parcels if each not in parcels)
        return replace(self, parcels=left, failures=0, error="", last_success=now)

    def failed(self, error: str, now: float) -> "Outbox":
        """The same after a message was not taken."""
        return replace(self, failures=self.failures + 1, error=error, last_failure=now)


def together(parcels: tuple[Parcel, ...]) -> Parcel:
    """One message made of several, so that a channel that comes back is not flooded."""
    first, *others = parcels
    if not others:
        return first
    worst = max(parcels, key=lambda parcel: parcel.level.gravity)
    body = "\n\n".join(f"{parcel.title}\n{parcel.body}" for parcel in reversed(parcels))
    cut = body if len(body) <= MAX_BODY else f"{body[:MAX_BODY]}\n...; azaionctl alerts, and azaionctl events"
    return replace(worst, title=f"{worst.title} (and {len(others)} more that could not be sent before)", body=cut)
