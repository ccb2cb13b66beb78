"""Throughput: tokens a second of a model over all its answers together, measured while any of them runs."""

import time
from collections.abc import Callable

WINDOW_SECONDS = 30.0
# of less, a rate would be an accident
SHORTEST = 0.05


class Throughput:
    """Counts tokens and the seconds in which answers ran. All of it runs on one event loop.

    The rate is that of the window of 30 busy seconds under way and of the one before: what is idle does not age it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running = 0
        self._since = 0.0
        self._tokens, self._busy = 0, 0.0
        self._before = (0, 0.0)

    def begin(self) -> None:
        """An answer runs; `end` must follow."""
        self._settle()
        self._running += 1

    def end(self) -> None:
        self._settle()
        self._running -= 1

    def count(self, tokens: int) -> None:
        """Add tokens that have come out."""
        self._settle()
        self._tokens += tokens
        if self._busy >= WINDOW_SECONDS:
            self._before, self._tokens, self._busy = (self._tokens, self._busy), 0, 0.0

    def rate(self) -> float | None:
        """Tokens a second; None where nothing was measured."""
        self._settle()
        tokens, busy = self._tokens + self._before[0], self._busy + self._before[1]
        return tokens / busy if tokens and busy >= SHORTEST else None

    def _settle(self) -> None:
        now = self._clock()
        if self._running:
            self._busy += now - self._since
        self._since = now
