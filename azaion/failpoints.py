"""Failpoints: named steps at which a test can make the process die, fail or wait.

Driven by ``AZAION_FAILPOINTS``, a comma-separated list of ``name=nth:action``: at the nth time (from 1) that the step
``name`` is reached, or any step if the name is ``*``, the action happens. Off at the cost of one comparison.

    AZAION_FAILPOINTS=store.submit.committed=3:kill
    AZAION_FAILPOINTS=*=17:kill
"""

import errno
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

VARIABLE: Final = "AZAION_FAILPOINTS"


def _enospc() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _error() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def _gpu_oom() -> None:
    # Whoever asks for it has torch, and this package does not.
    raise sys.modules["torch"].OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")


_ACTIONS: Final[dict[str, Callable[[], None]]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "error": _error,
    "enospc": _enospc,
    "gpu-oom": _gpu_oom,
    "delay": lambda: time.sleep(1.0),
}


def _parse(text: str) -> dict[tuple[str, int], Callable[[], None]]:
    plan = {}
    for entry in filter(None, text.split(",")):
        try:
            name, what = entry.split("=")
            nth, action = what.split(":")
            plan[name, int(nth)] = _ACTIONS[action]
        except (ValueError, KeyError):
            raise SystemExit(
                f"{VARIABLE}: cannot read {entry!r}; write name=nth:action with an action of {', '.join(_ACTIONS)}",
            ) from None
    return plan


_plan = _parse(os.environ.get(VARIABLE, ""))
_count: Counter[str] = Counter()


def hit(name: str) -> None:
    """Reach the step ``name``."""
    if not _plan:
        return
    for each in (name, "*"):
        _count[each] += 1
        if action := _plan.get((each, _count[each])):
            action()
