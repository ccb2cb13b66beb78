"""Runs the work of an answer while watching who waits for it: the client may leave, the server may shut down."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

from starlette.types import Receive

from apps.api.src.shutdown import Shutdown, ShuttingDown

T = TypeVar("T")
Tick = Callable[[], Awaitable[None]]


class ClientGone(Exception):
    """The client went away before its answer was complete; there is nobody to tell."""


async def guarded(
    work: Coroutine[None, None, T], receive: Receive, shutdown: Shutdown, tick: Tick | None = None, every: float = 1.0
) -> T:
    """Run ``work`` to its end, calling ``tick`` about ``every`` seconds meanwhile.

    Work is cancelled, and waited for, as soon as the client disconnects (raises ClientGone), the grace period
    runs out (raises ShuttingDown) or ``tick`` raises. The request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        with shutdown.answering(task):
            while not task.done():
                await asyncio.wait({task, gone}, timeout=every if tick else None, return_when=asyncio.FIRST_COMPLETED)
                if gone.done() and not task.done():
                    raise ClientGone
                if tick and not task.done():
                    await tick()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.wait({task, gone})
    if task.cancelled() and shutdown.expired:
        raise ShuttingDown
    return task.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
