"""How late the event loop is: a timer that should have rung by now says how long everybody else had to wait."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from apps.core.ports import Observation

EVERY = 0.25


REMEMBERED = 60


class LoopLag:
    """An Observed: the longest delay of the last 15 seconds, which two scrapes in a row may both see."""

    def __init__(self) -> None:
        self._delays: deque[float] = deque(maxlen=REMEMBERED)
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure the running loop for the length of the block."""
        self._wait(asyncio.get_running_loop())
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def observations(self) -> Iterable[Observation]:
        longest = max(self._delays, default=0.0)
        yield Observation("genai_event_loop_lag_seconds", "Longest delay of the event loop in the last 15 s", longest)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_at(loop.time() + EVERY, self._rang, loop, loop.time() + EVERY)

    def _rang(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._delays.append(max(0.0, loop.time() - due))
        self._wait(loop)
