"""Memory: how much there is left, whether the machine waits for it, and whom the kernel has killed for it."""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from azaion.words import size
from supervisor.health import words
from supervisor.health.looks import Levels, Seen, UnreadableError
from supervisor.health.model import Verdict

#: For so long a kill is told.
KILL_S: Final = 3600.0
#: So full a swap is no help any more.
_SWAP_FULL: Final = 0.9

_PROC: Final = Path("/proc")
_ADVICE: Final = "see who has it: ps -eo pid,rss,comm --sort=-rss | head; give jobs a limit: submit --memory"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """In bytes.

    Attributes:
        available: what can be had without swapping, by the kernel's own estimate.
        pressure: percent of the last minute in which nobody could work for want of memory; None without PSI.
        killed: how many processes the kernel has killed for want of memory since it started; None if it does not tell.
    """

    total: int
    available: int
    swap: int
    swap_free: int
    pressure: float | None
    killed: int | None


def read(proc: Path = _PROC) -> Memory:
    """What the kernel tells.

    Raises:
        UnreadableError: it does not.
    """
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
        told = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
        found = re.search(r"^oom_kill (\d+)$", (proc / "vmstat").read_text(encoding="ascii"), re.MULTILINE)
        return Memory(
            total=told["MemTotal"],
            available=told["MemAvailable"],
            swap=told.get("SwapTotal", 0),
            swap_free=told.get("SwapFree", 0),
            pressure=_pressure(proc / "pressure" / "memory"),
            killed=int(found[1]) if found else None,
        )
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UnreadableError(f"{proc} cannot be read: {error!r}") from None


def _pressure(path: Path) -> float | None:
    try:
        found = re.search(r"^full .*\bavg60=([0-9.]+)", path.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return float(found[1]) if found else None


def judge(memory: Memory, levels: Levels) -> Seen:
    """How much is left."""
    percent = 100 * (1 - memory.available / memory.total)
    verdict, eased = levels.judge(percent)
    text = f"{percent:.0f} % of {size(memory.total)} in use, {size(memory.available)} available"
    if memory.swap:
        used = 1 - memory.swap_free / memory.swap
        text += f", swap {100 * used:.0f} % used"
        if verdict is Verdict.OK and used >= _SWAP_FULL:
            verdict = eased = Verdict.WARNING
    if memory.pressure is None:
        text += " (this kernel does not measure pressure)"
    return Seen(verdict=verdict, eased=eased, text=text, advice=_ADVICE, value=percent)


def judge_pressure(memory: Memory, levels: Levels) -> Seen | None:
    """Whether the machine waits for memory; None where the kernel does not tell."""
    if memory.pressure is None:
        return None
    verdict, eased = levels.judge(memory.pressure)
    return Seen(
        verdict=verdict,
        eased=eased,
        text=f"everything has waited for memory in {memory.pressure:.0f} % of the last minute",
        advice=_ADVICE,
        value=memory.pressure,
    )


class Kills:
    """Counts whom the kernel kills for want of memory."""

    def __init__(self) -> None:
        self._known: int | None = None
        self._recent: list[tuple[float, int]] = []

    def __call__(self, memory: Memory, levels: Levels) -> Seen | None:
        """What there was within the last hour."""
        return self.judge(memory.killed, levels, time.monotonic())

    def judge(self, killed: int | None, levels: Levels, monotonic: float) -> Seen | None:
        """The same, of the kernel's count at a monotonic time."""
        if killed is None:
            return None
        if self._known is not None and killed > self._known:
            self._recent.append((monotonic, killed - self._known))
        self._known = killed
        self._recent = [each for each in self._recent if monotonic - each[0] < KILL_S]
        count = sum(number for _, number in self._recent)
        verdict, eased = levels.judge(count)
        ago = f", the last {words.duration(monotonic - self._recent[-1][0])} ago" if self._recent else ""
        return Seen(
            verdict=verdict,
            eased=eased,
            text=f"{count or 'no'} processes killed for want of memory in the last hour{ago}",
            advice="see which: journalctl -k -g 'Killed process'; give jobs a limit: submit --memory",
            value=count,
        )
