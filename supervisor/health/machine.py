"""The clock of the machine, and whether the daemon itself gets to run."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from supervisor.health import words
from supervisor.health.looks import Levels, Seen
from supervisor.health.model import Verdict

#: For so long a jump of the clock is told.
JUMP_S: Final = 3600.0
_TICK_S: Final = 1.0
_KEPT_S: Final = 60.0
#: So late, the machine is busy: what merely took long says nothing.
BUSY_S: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """The clocks at one moment, in seconds: the wall's, and the one since boot that nobody sets."""

    wall: float
    boottime: float


def clocks() -> Clocks:
    """The clocks now."""
    return Clocks(wall=time.time(), boottime=time.clock_gettime(time.CLOCK_BOOTTIME))


class Jumps:
    """Notices that somebody has set the clock."""

    def __init__(self) -> None:
        self._last: Clocks | None = None
        self._jump: tuple[float, float] | None = None

    def judge(self, now: Clocks, levels: Levels) -> Seen:
        """Whether the wall clock has gone another way than time since the last look."""
        if self._last is not None:
            jump = (now.wall - self._last.wall) - (now.boottime - self._last.boottime)
            if levels.judge(abs(jump))[0] is not Verdict.OK:
                self._jump = (now.boottime, jump)
        self._last = now
        if self._jump is None or now.boottime - self._jump[0] >= JUMP_S:
            self._jump = None
            return Seen(verdict=Verdict.OK, text="runs evenly", value=0.0)
        at, jump = self._jump
        way = "forward" if jump > 0 else "back"
        return Seen(
            verdict=levels.judge(abs(jump))[0],
            text=f"jumped {way} by {words.duration(abs(jump))}, {words.duration(now.boottime - at)} ago",
            advice="have it set by NTP: timedatectl; times of jobs and events before it are wrong by as much",
            value=jump,
        )


class Loop:
    """Measures how late the daemon's loop is: it ticks, and looks when it was to and when it could."""

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque()
        self._due = float("inf")

    async def run(self) -> None:
        """Tick for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._due = loop.time() + _TICK_S
            await asyncio.sleep(_TICK_S)
            now = loop.time()
            if (late := now - self._due) > BUSY_S:
                self._late.append((now, late))
            while self._late and now - self._late[0][0] > _KEPT_S:
                self._late.popleft()

    def worst(self, since: float) -> float:
        """The longest that it has been late after a monotonic time, in seconds; 0 if hardly."""
        now = asyncio.get_running_loop().time()
        overdue = now - self._due
        return max((late for at, late in self._late if at >= since), default=max(0.0, overdue))

    def judge(self, levels: Levels) -> Seen:
        """Whether it has been late in the last minute."""
        worst = self.worst(asyncio.get_running_loop().time() - _KEPT_S)
        verdict, eased = levels.judge(worst)
        late = f"was late by {worst:.1f} s in the last minute" if worst > BUSY_S else "is on time"
        return Seen(
            verdict=verdict,
            eased=eased,
            text=f"the daemon {late}",
            advice="the machine is overloaded, or azaiond was stopped; look: top, journalctl -u azaion",
            value=worst,
        )
