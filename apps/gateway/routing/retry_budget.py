"""The retry budget: extra attempts are a share of the traffic, so that retries cannot multiply an outage.

Envoy's retry budget (``budget_percent``, ``min_retry_concurrency``), counted over a minute: at most a fifth of the
calls, and never fewer than a few, so that a quiet service can retry at all.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

SHARE = 0.2
FEWEST = 10
WINDOW_SECONDS = 60.0
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
        if not self._buckets or now - self._buckets[-1][0] >= WINDOW_SECONDS / BUCKETS:
            self._buckets.append([now, 0, 0])
        return self._buckets[-1]

    def _forget(self) -> float:
        """Drop what is over a minute old; the time."""
        now = self._clock()
        while self._buckets and now - self._buckets[0][0] >= WINDOW_SECONDS:
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
