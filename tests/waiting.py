"""Waiting on a condition, never on hope."""

import time
from collections.abc import Callable
from typing import TypeVar

_Value = TypeVar("_Value")


def until(condition: Callable[[], _Value | None], what: str, limit_s: float = 30.0) -> _Value:
    """The first true value of ``condition``; fails after ``limit_s`` with ``what`` was waited for."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {limit_s:g} s in vain: {what}")
        time.sleep(0.01)
    return value
