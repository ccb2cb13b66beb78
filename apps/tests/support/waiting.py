"""Waits for what a test expects: the order of events decides, and the bound only ends a hang."""

import asyncio
import time
from collections.abc import Callable

HANG_SECONDS = 90.0


def until(reached: Callable[[], object]) -> bool:
    """Wait until ``reached()`` is true and return whether it became so before HANG_SECONDS were over."""
    end = time.monotonic() + HANG_SECONDS
    while not (found := reached()) and time.monotonic() < end:
        time.sleep(0.01)
    return bool(found)


class Passed:
    """True once ``seconds`` have passed on the running loop.

    A loop runs its timers in the order of their times, so this becomes true before any wait ends that began later and
    is as long or longer, however busy the machine is.
    """

    def __init__(self, seconds: float) -> None:
        self._over = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, self._over.set)

    def __bool__(self) -> bool:
        return self._over.is_set()
