"""A circuit breaker a target: stops asking one that fails, and finds out with single probes when it is well again."""

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

BreakerState = Literal["closed", "open", "half_open"]

WINDOW_SECONDS = 30.0
FEWEST_CALLS = 10
ERROR_RATE = 0.5
OPEN_SECONDS = 10.0


class Breaker:
    """Opens when half of at least ten calls in 30 s failed, or were slower to their first token than allowed.

    After 10 s it lets one call through as a probe; the probe's outcome closes it or opens it anew.
    """

    def __init__(self, slow_after: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._slow_after = slow_after
        self._clock = clock
        self._calls: deque[tuple[float, bool]] = deque()
        self._opened_at: float | None = None
        self._probing = False

    @property
    def state(self) -> BreakerState:
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._clock() - self._opened_at >= OPEN_SECONDS else "open"

    def allows(self) -> bool:
        """Whether a call may go out now, as `acquire` would say, without taking the probe."""
        state = self.state
        return state == "closed" or (state == "half_open" and not self._probing)

    def acquire(self) -> bool:
        """Take the right to one call; `succeeded`, `failed` or `abandoned` must follow where it is given."""
        if not self.allows():
            return False
        self._probing = self._opened_at is not None
        return True

    def succeeded(self, first_token_seconds: float) -> None:
        self._record(ok=first_token_seconds <= self._slow_after)

    def failed(self) -> None:
        self._record(ok=False)

    def abandoned(self) -> None:
        """The call ended without a verdict (the client left): a probe's place is free again."""
        self._probing = False

    def _record(self, *, ok: bool) -> None:
        now = self._clock()
        if self._opened_at is not None:
            if self._probing:
                self._probing = False
                self._opened_at = None if ok else now
                self._calls.clear()
            return
        self._calls.append((now, ok))
        while now - self._calls[0][0] > WINDOW_SECONDS:
            self._calls.popleft()
        failures = 0 if ok else sum(not good for _, good in self._calls)
        if len(self._calls) >= FEWEST_CALLS and failures >= ERROR_RATE * len(self._calls):
            self._opened_at = now
            self._calls.clear()
