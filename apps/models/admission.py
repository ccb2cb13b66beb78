"""Who may run now, who waits, who is turned away. Counts calls only: it knows no model and no thread.

All of it runs on one event loop, so a step between two awaits cannot be interrupted.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from apps.core.errors import Overloaded

RECENT_CALLS = 32
LONGEST_RETRY_AFTER = 600.0


class Admission:
    """``slots`` calls run, ``queue_size`` more wait in the order they came, for at most ``queue_timeout`` seconds.

    Everyone else gets Overloaded with a Retry-After made from the durations of the last calls.
    """

    def __init__(self, slots: int, queue_size: int, queue_timeout: float) -> None:
        self.slots = slots
        self.queue_size = queue_size
        self.queue_timeout = queue_timeout
        self._running: dict[int, float] = {}
        self._calls = 0
        self._waiters: deque[asyncio.Future[int]] = deque()
        self._durations: deque[float] = deque(maxlen=RECENT_CALLS)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    def check(self) -> None:
        """Raise Overloaded where a call made now would be turned away: before anything is spent on it."""
        if self.running >= self.slots and self.waiting >= self.queue_size:
            raise self._overloaded("All slots are taken and the queue is full")

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None, None]:
        """Hold a slot for the length of the block."""
        call = await self._enter()
        try:
            yield
        finally:
            self._leave(call)

    def retry_after(self) -> float:
        """Whole seconds until the calls that run and wait now should be through, from measured durations."""
        now = time.monotonic()
        # before the first call has ended, what the running ones have taken so far is all there is to go by
        known = self._durations or [now - started for started in self._running.values()]
        mean = sum(known) / len(known) if known else 1.0
        return float(math.ceil(min(LONGEST_RETRY_AFTER, max(1.0, mean * (self.waiting + 1) / self.slots))))

    async def _enter(self) -> int:
        self.check()
        if self.running < self.slots:
            return self._grant()
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await asyncio.wait((waiter,), timeout=self.queue_timeout)
        except asyncio.CancelledError:
            # the slot may have been handed over in the same turn of the loop: it must not be lost
            if waiter.done():
                self._leave(waiter.result(), measured=False)
            else:
                self._waiters.remove(waiter)
            raise
        if waiter.done():
            return waiter.result()
        self._waiters.remove(waiter)
        raise self._overloaded(f"No slot became free within {self.queue_timeout:g} seconds")

    def _grant(self) -> int:
        self._calls += 1
        self._running[self._calls] = time.monotonic()
        return self._calls

    def _leave(self, call: int, *, measured: bool = True) -> None:
        started = self._running.pop(call)
        if measured:
            self._durations.append(time.monotonic() - started)
        if self._waiters:
            self._waiters.popleft().set_result(self._grant())

    def _overloaded(self, reason: str) -> Overloaded:
        return Overloaded(
            f"The local model is busy: {reason}",
            details={"slots": self.slots, "queue_size": self.queue_size, "waiting": self.waiting},
            retry_after=self.retry_after(),
        )
