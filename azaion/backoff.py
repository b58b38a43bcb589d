"""How long to wait before the next attempt."""

import random
from collections.abc import Iterator


def delays(first: float = 0.5, cap: float = 30.0) -> Iterator[float]:
    """Seconds, without end: doubling from ``first`` to ``cap``, each less by up to half of it.

    The jitter keeps those who were thrown out together from coming back together.
    """
    delay = first
    while True:
        yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        delay = min(2 * delay, cap)
