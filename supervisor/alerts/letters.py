"""How notices are written to people."""

from collections.abc import Sequence
from typing import Final

from azaion.redaction import Redaction
from supervisor.alerts.model import Level, Notice, What
from supervisor.alerts.outbox import Parcel

#: A message has so many of its notices, the worst ones.
_SHOWN: Final = 20
_WIDTH: Final = 300
_REDACTION: Final = Redaction()


def line(notice: Notice) -> str:
    """One line: ``CRITICAL disk /azaion: 96.2 % used``."""
    return f"{_word(notice)} {notice.name}: {_plain(notice.text)}"


def _word(notice: Notice) -> str:
    match notice.what:
        case What.RESOLVED:
            return "ok again"
        case What.STILL:
            return f"still {notice.level.upper()}"
        case What.EASED:
            return f"no longer {notice.level.upper()}"
        case What.FLAPPING:
            return f"{notice.level.upper()} flapping"
        case _:
            return notice.level.upper() if notice.level is not Level.INFO else "info"


def letter(notices: Sequence[Notice], left_out: int, host: str, now: float) -> Parcel:
    """A message that tells all of these; there is one at least."""
    worst, rows = notices[0], []
    for notice in notices[:_SHOWN]:
        rows.append(line(notice))
        if notice.advice:
            rows.append(f"  -> {_plain(notice.advice)}")
    if (more := len(notices) - _SHOWN) > 0:
        rows.append(f"and {more} more: azaionctl alerts")
    if left_out:
        rows.append(f"and {left_out} more events of jobs: azaionctl events")
    title = line(worst) if len(notices) == 1 else f"{_word(worst)} {worst.name}, and {len(notices) - 1} more"
    better = all(notice.what is What.RESOLVED for notice in notices)
    return Parcel(
        title=f"[azaion {host}] {title[:120]}",
        body="\n".join(rows),
        level=Level.OK if better else worst.level,
        time=now,
    )


def _plain(text: str) -> str:
    clean = "".join(character if character.isprintable() else " " for character in _REDACTION.text(text))
    return clean if len(clean) <= _WIDTH else f"{clean[: _WIDTH - 3]}..."
