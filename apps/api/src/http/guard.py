"""Runs the work of an answer while watching who waits for it: the client may leave, the server may shut down."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.types import Receive

from apps.api.src.http.shutdown import Shutdown, ShuttingDown

T = TypeVar("T")
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
            task.cancel()

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
