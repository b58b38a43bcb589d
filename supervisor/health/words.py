"""How findings say sizes and times."""

import datetime as dt
import os
import re


def reason(error: OSError) -> str:
    """Why something could not be reached, without what only programmers read."""
    found = re.search(r"\[Errno (\d+)\]", str(error))
    return os.strerror(int(found[1])) if found else error.strerror or str(error)


def duration(seconds: float) -> str:
    """``3 s``, ``12 min``, ``4 h``, ``3 days``."""
    for unit, length, until in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds / length < until:
            return f"{max(0, round(seconds / length))} {unit}"
    return f"{round(seconds / 86400)} days"


def moment(seconds: float) -> str:
    """A wall-clock time in UTC, to the hour's minute: ``Mon 04:20 UTC``."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%a %H:%M UTC")
