"""Runs the work of an answer while watching who waits for it: the client may leave, the server may shut down."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from apps.api.src.shutdown import Shutdown, ShuttingDown

T = TypeVar("T")
Stop = Callable[[Exception], None]
Tick = Callable[[], Awaitable[None]]

WATCH_AFTER = 0.1


class ClientGone(Exception):
    """The client went away before its answer was complete; there is nobody to tell."""


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

    # a task costs more than a short answer does, so the watching begins with what takes longer than that
    watchers = [_Watcher(WATCH_AFTER, lambda: _watch_client(receive, stop))]
    if tick:
        watchers.append(_Watcher(every, lambda: _keep_ticking(tick, every, stop)))
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
        for watcher in watchers:
            watcher.cancel()


class _Watcher:
    """A task that begins ``after`` seconds, if it is still wanted then."""

    __slots__ = ("_make", "_task", "_timer")

    def __init__(self, after: float, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._make = make
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(after, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._make())

    def cancel(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


async def _watch_client(receive: Receive, stop: Stop) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stop(ClientGone())


async def _keep_ticking(tick: Tick, every: float, stop: Stop) -> None:
    try:
        while True:
            await tick()
            await asyncio.sleep(every)
    except Exception as error:
        stop(error)
