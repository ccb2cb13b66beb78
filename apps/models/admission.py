"""Who may run now, who waits, who is turned away. Counts calls only: it knows no model and no thread.

All of it runs on one event loop, so a step between two awaits cannot be interrupted.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol, runtime_checkable

from apps.core.errors import Overloaded

RECENT_CALLS = 32
LONGEST_RETRY_AFTER = 600.0


class Admission:
    """``slots`` calls run, ``queue_size`` more wait in the order they came, for at most ``queue_timeout`` seconds.

    Everyone else gets Overloaded with a Retry-After made from the durations of the last calls; ``who`` is busy then.
    """

    def __init__(self, slots: int, queue_size: int, queue_timeout: float, who: str = "The local model") -> None:
        self._who = who
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

    def bound(self, slots: int, queue_size: int, queue_timeout: float) -> None:
        """Put other bounds in force; calls that run or wait already stay."""
        self.slots, self.queue_size, self.queue_timeout = slots, queue_size, queue_timeout
        self._hand_over()

    def check(self) -> None:
        """Raise Overloaded where a call made now would be turned away: before anything is spent on it."""
        if self.running >= self.slots and self.waiting >= self.queue_size:
            raise self._overloaded("All slots are taken and the queue is full")

    @asynccontextmanager
    async def slot(self, *, joins: bool = False) -> AsyncGenerator[None, None]:
        """Hold a slot for the length of the block; ``joins`` as of `enter`."""
        call = await self.enter(joins=joins)
        try:
            yield
        finally:
            self.leave(call)

    def predicted_wait(self) -> float:
        """Seconds that a call made now should wait for its slot; 0 where nothing has been measured yet."""
        if self.running < self.slots or not self._durations:
            return 0.0
        return sum(self._durations) / len(self._durations) * (self.waiting + 1) / self.slots

    def retry_after(self) -> float:
        """Whole seconds until the calls that run and wait now should be through, from measured durations."""
        now = time.monotonic()
        # before the first call has ended, what the running ones have taken so far is all there is to go by
        known = self._durations or [now - started for started in self._running.values()]
        mean = sum(known) / len(known) if known else 1.0
        return float(math.ceil(min(LONGEST_RETRY_AFTER, max(1.0, mean * (self.waiting + 1) / self.slots))))

    async def enter(self, *, joins: bool = False) -> int:
        """Take a slot, waiting for one where that is allowed; `leave` must be called once with what is returned.

        ``joins``: it belongs to a call that was let in, and waits however long the queue is.
        """
        if len(self._running) < self.slots:
            return self._grant()
        if not joins:
            self.check()
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await asyncio.wait((waiter,), timeout=self.queue_timeout)
        except asyncio.CancelledError:
            # the slot may have been handed over in the same turn of the loop: it must not be lost
            if waiter.done():
                self.leave(waiter.result(), measured=False)
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

    def leave(self, call: int, *, measured: bool = True) -> None:
        """Give the slot back, to the first of those who wait; ``measured`` where it was used."""
        started = self._running.pop(call)
        if measured:
            self._durations.append(time.monotonic() - started)
        self._hand_over()

    def _hand_over(self) -> None:
        while self._waiters and self.running < self.slots:
            self._waiters.popleft().set_result(self._grant())

    def _overloaded(self, reason: str) -> Overloaded:
        return Overloaded(
            f"{self._who} is busy: {reason}",
            details={"slots": self.slots, "queue_size": self.queue_size, "waiting": self.waiting},
            retry_after=self.retry_after(),
        )


@runtime_checkable
class OwnQueue(Protocol):
    """A model that admits its calls by itself, whichever way they come."""

    admission: Admission
