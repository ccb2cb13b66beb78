"""What ends an answer before its end: the client leaves, or the service shuts down.

SIGTERM starts a grace period, after which every running answer is ended. uvicorn stops accepting and waits for open
connections without a limit of its own; this is the limit. It listens for the signal beside uvicorn's handler, so that
it works under any command that starts the app. ``guarded`` runs the work of an answer while watching for both.
"""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Generic, TypeVar

from starlette.types import Receive

from apps.core.calls import DISCONNECTED, SHUT_DOWN
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

        def on_signal(number: int, frame: FrameType | None) -> None:
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
            signal.signal(number, on_signal)
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
            task.cancel(SHUT_DOWN)


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


Stop = Callable[[Exception], None]
Tick = Callable[[], Awaitable[None]]

WATCH_AFTER = 0.1


class ClientGone(Exception):
    """The client went away before its answer was complete."""


async def guarded(
    work: Awaitable[T], receive: Receive, shutdown: Shutdown, tick: Tick | None = None, every: float = 1.0
) -> T:
    """Run ``work`` to its end, calling ``tick`` about ``every`` seconds meanwhile.

    Work is cancelled a moment after the client disconnects (raises ClientGone), the grace period runs out (raises
    ShuttingDown) or ``tick`` raises (raises that). The request's body must have been read.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("an answer is made in a task")
    reasons: list[Exception] = []

    def stop(reason: Exception) -> None:
        if not reasons:
            reasons.append(reason)
            task.cancel(SHUT_DOWN if isinstance(reason, ShuttingDown) else DISCONNECTED)

    watch = _Watch(receive, stop, tick, every)
    try:
        with shutdown.answering(lambda: stop(ShuttingDown())):
            return await work
    except asyncio.CancelledError:
        if reasons and task.cancelling() == 1:
            raise reasons[0] from None
        raise
    finally:
        if reasons:
            task.uncancel()
        watch.cancel()


class _Watch:
    """The tasks that watch. They cost more than a short answer does, so they begin with what takes longer than that."""

    __slots__ = ("_every", "_receive", "_stop", "_tasks", "_tick", "_timer")

    def __init__(self, receive: Receive, stop: Stop, tick: Tick | None, every: float) -> None:
        self._receive = receive
        self._stop = stop
        self._tick = tick
        self._every = every
        self._tasks: list[asyncio.Task[None]] = []
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._begin)

    def _begin(self) -> None:
        self._tasks.append(asyncio.create_task(_watch_client(self._receive, self._stop)))
        if self._tick:
            self._tasks.append(asyncio.create_task(_keep_ticking(self._tick, self._every, self._stop)))

    def cancel(self) -> None:
        self._timer.cancel()
        for task in self._tasks:
            task.cancel()


async def _watch_client(receive: Receive, stop: Stop) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stop(ClientGone())


async def _keep_ticking(tick: Tick, every: float, stop: Stop) -> None:
    try:
        while True:
            await asyncio.sleep(every)
            await tick()
    except Exception as error:
        stop(error)
