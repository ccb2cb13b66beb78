"""A circuit breaker a target: stops asking one that fails, and finds out with single probes when it is well again."""

import time
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

BreakerState = Literal["closed", "open", "half_open"]

WINDOW_SECONDS = 30.0
FEWEST_CALLS = 10
ERROR_RATE = 0.5
OPEN_SECONDS = 10.0
KEPT_CHANGES = 20


class BreakerChange(NamedTuple):
    """``at`` is Unix time."""

    at: float
    state: BreakerState


class Breaker:
    """Opens when half of at least ten calls in 30 s failed, or were slower to their first token than allowed.

    After 10 s it lets one call through as a probe; the probe's outcome closes it or opens it anew. A call that was
    let through before it opened, and ends after, has no say in this. ``changes`` are its last ones, the oldest first.
    """

    def __init__(
        self, slow_after: float, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self.changes: deque[BreakerChange] = deque(maxlen=KEPT_CHANGES)
        self._wall = wall
        self._slow_after = slow_after
        self._clock = clock
        self._calls: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False

    @property
    def state(self) -> BreakerState:
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._clock() - self._opened_at >= OPEN_SECONDS else "open"

    def allows(self) -> bool:
        """Whether a call may go out now, as `acquire` would say, without taking the probe."""
        if self._opened_at is None:
            return True
        return not self._probing and self.state == "half_open"

    def reopens_in(self) -> float:
        """Seconds until a probe may go out; 0 where one may now."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + OPEN_SECONDS - self._clock())

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

    def broke_off(self) -> None:
        """An answer that had begun well, and was counted so, failed later: the target is not well after all."""
        if self._opened_at is None:
            self._record(ok=False)

    def _record(self, *, ok: bool) -> None:
        now = self._clock()
        if self._opened_at is not None:
            if self._probing:
                self._probing = False
                self._opened_at = None if ok else now
                self._changed("closed" if ok else "open")
            return
        self._calls.append((now, ok))
        self._failures += not ok
        while now - self._calls[0][0] > WINDOW_SECONDS:
            self._failures -= not self._calls.popleft()[1]
        if not ok and len(self._calls) >= FEWEST_CALLS and self._failures >= ERROR_RATE * len(self._calls):
            self._opened_at = now
            self._calls.clear()
            self._failures = 0
            self._changed("open")

    def _changed(self, state: BreakerState) -> None:
        self.changes.append(BreakerChange(self._wall(), state))
