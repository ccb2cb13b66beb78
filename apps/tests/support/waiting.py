"""Waits for what a test expects: the order of events decides, and the bound only ends a hang."""

import time
from collections.abc import Callable

HANG_SECONDS = 90.0


def until(reached: Callable[[], object]) -> bool:
    """Wait until ``reached()`` is true and return whether it became so before HANG_SECONDS were over."""
    end = time.monotonic() + HANG_SECONDS
    while not (found := reached()) and time.monotonic() < end:
        time.sleep(0.01)
    return bool(found)
