"""The end of the service: SIGTERM starts a grace period, after which every running answer is ended.

uvicorn stops accepting and waits for open connections without a limit of its own; this is the limit. It listens
for the signal beside uvicorn's handler, so that it works under any command that starts the app.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Generic, TypeVar

from apps.core.errors import ModelUnavailable

T = TypeVar("T")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
FORCED_AFTER = 2.0
ABANDONED_AFTER = 3.5


class ShuttingDown(ModelUnavailable):
    """The grace period ran out before the answer was complete."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down; try again", retry_after=5)


class Shutdown:
    """Knows the requests under way; ends their answers ``grace`` seconds after the signal.

    For ``announce`` seconds the server listens on, so that those who share out calls learn that it drains.
    """

    def __init__(self, grace: float, announce: float = 0.0) -> None:
        self.draining = False
        """From the signal on: what is under way is answered, and new calls should go elsewhere."""
        self.forced = False
        self._grace = grace
        self._announce = announce
        self._answers: set[Callable[[], None]] = set()
        self._requests: set[asyncio.Task[Any]] = set()

    def answering(self, stop: Callable[[], None]) -> "_Listed[Callable[[], None]]":
        """Call ``stop`` when the grace period runs out, if the block still runs then."""
        return _Listed(self._answers, stop)

    def request(self) -> "_Listed[asyncio.Task[Any]]":
        """Cancel the current task a moment after its answers, whatever it is stuck in (a body half sent, say)."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request runs in a task")
        return _Listed(self._requests, task)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen for the signals, and hand each on to the handler before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def heard(number: int, frame: FrameType | None) -> None:
            handler = before[signal.Signals(number)]
            waits = self._announce > 0 and not self.draining
            loop.call_soon_threadsafe(self.begin)
            if not callable(handler):
                return
            if waits:
                loop.call_soon_threadsafe(loop.call_later, self._announce, handler, number, frame)
            else:
                handler(number, frame)

        for number in SIGNALS:
            signal.signal(number, heard)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def begin(self) -> None:
        """Start the grace period, once."""
        if self.draining:
            return
        self.draining = True
        loop = asyncio.get_running_loop()
        loop.call_later(self._grace, self._expire)
        loop.call_later(self._grace + FORCED_AFTER, self._force)
        loop.call_later(self._grace + ABANDONED_AFTER, _abandon)

    def _expire(self) -> None:
        for stop in list(self._answers):
            stop()

    def _force(self) -> None:
        self.forced = True
        for task in list(self._requests):
            task.cancel()


class _Listed(Generic[T]):
    """In a set as long as a block runs. `contextmanager` would cost more than all else that a request does here."""

    __slots__ = ("_among", "_one")

    def __init__(self, among: set[T], one: T) -> None:
        self._among = among
        self._one = one

    def __enter__(self) -> None:
        self._among.add(self._one)

    def __exit__(self, *_: object) -> None:
        self._among.discard(self._one)


def _abandon() -> None:
    """Leave the connections of clients that do not read: uvicorn's second signal, which is what ends its wait."""
    signal.raise_signal(signal.SIGINT)
