"""What keeps an outage small: a circuit breaker a target, and the retry budget.

A breaker stops asking a target that fails, and finds out with single probes when it is well again. Extra attempts are a
share of the traffic, so that retries cannot multiply an outage: Envoy's retry budget (``budget_percent``,
``min_retry_concurrency``), counted over a minute, is at most a fifth of the calls, and never fewer than a few, so that
a quiet service can retry at all.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
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


SHARE = 0.2
FEWEST = 10
BUDGET_SECONDS = 60.0
BUCKETS = 6
MOST_NAMES = 1024


class RetryBudget:
    """In any minute, ``share`` of the calls may have an extra attempt each, or ``fewest`` where that is more."""

    def __init__(self, share: float = SHARE, fewest: int = FEWEST, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._fewest = fewest
        self._clock = clock
        self._calls = self._extra = 0
        self._buckets: deque[list[float]] = deque()  # of [begin, calls, extra attempts]

    def deposit(self) -> None:
        """Count a call."""
        self._bucket()[1] += 1
        self._calls += 1

    def withdraw(self, *, granted: bool = False) -> bool:
        """Take the right to an extra attempt, if there is one; what is ``granted`` anyway is counted too."""
        bucket = self._bucket()
        if not granted and self._extra + 1 > max(self._fewest, self._share * self._calls):
            return False
        bucket[2] += 1
        self._extra += 1
        return True

    def left(self) -> float:
        """Extra attempts that would be granted now."""
        self._forget()
        return max(0.0, max(self._fewest, self._share * self._calls) - self._extra)

    def _bucket(self) -> list[float]:
        now = self._forget()
        if not self._buckets or now - self._buckets[-1][0] >= BUDGET_SECONDS / BUCKETS:
            self._buckets.append([now, 0, 0])
        return self._buckets[-1]

    def _forget(self) -> float:
        """Drop what is over a minute old; the time."""
        now = self._clock()
        while self._buckets and now - self._buckets[0][0] >= BUDGET_SECONDS:
            _, calls, extra = self._buckets.popleft()
            self._calls -= int(calls)
            self._extra -= int(extra)
        return now


class RetryBudgets:
    """One budget a model name, so that one that is down does not use up the others'; of so many names at most."""

    def __init__(self, share: float = SHARE, fewest: int = FEWEST) -> None:
        self._share = share
        self._fewest = fewest
        self._budgets: OrderedDict[str, RetryBudget] = OrderedDict()

    def of(self, name: str) -> RetryBudget:
        budget = self._budgets.get(name)
        if budget is None:
            budget = self._budgets[name] = RetryBudget(self._share, self._fewest)
            if len(self._budgets) > MOST_NAMES:
                self._budgets.popitem(last=False)
        return budget

    def each(self) -> Iterable[tuple[str, RetryBudget]]:
        """The names that were asked for, and their budgets."""
        return self._budgets.items()
