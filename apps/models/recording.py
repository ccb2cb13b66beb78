"""Recordings: one execution of a call, read by any number of callers from its first item on.

What an item is (a frame of bytes, a delta) and which one is the last, a subclass knows. Keeps nothing beyond itself:
who may join a recording, and for how long, is decided elsewhere.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic, Self, TypeVar

from apps.core.errors import AppError, InternalError, Timeout

T = TypeVar("T")

# a reader that finds everything there already lets others have their turn after so many items
ITEMS_A_TURN = 32


class Recording(Generic[T]):
    """``given_up`` when all readers have left before the end: the execution is being cancelled then."""

    def __init__(self) -> None:
        self.size = 0
        self.done = False
        self.error: Exception | None = None
        self.given_up = False
        self.items: list[T] = []
        self._readers = 0
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def is_last(self, item: T) -> bool:
        """Whether the answer is whole with this item."""
        raise NotImplementedError

    def size_of(self, item: T) -> int:
        """Bytes, about."""
        raise NotImplementedError

    @property
    def whole(self) -> bool:
        """The last item is there, or the execution has ended, well or not."""
        return self.done or (bool(self.items) and self.is_last(self.items[-1]))

    def begin(self, work: Awaitable[None], ended: Callable[[Self], None]) -> None:
        """Run ``work``, which adds the items, in a task of its own; ``ended`` hears of its end."""

        async def run() -> None:
            try:
                await work
            except Exception as error:
                self.error = error
            except asyncio.CancelledError:
                self.error = InternalError("The call was given up")
                raise
            finally:
                self.done = True
                self._wake()
                ended(self)

        self._task = asyncio.create_task(run())

    def add(self, item: T) -> None:
        self.items.append(item)
        self.size += self.size_of(item)
        self._wake()

    async def read(self, deadline: float | None) -> AsyncGenerator[T, None]:
        """The items from the first on; raises what the execution failed with. The last reader to leave ends it."""
        self._readers += 1
        at = 0
        try:
            while True:
                while at < len(self.items):
                    at += 1
                    if at % ITEMS_A_TURN == 0:
                        await asyncio.sleep(0)
                    yield self.items[at - 1]
                if self.whole:
                    break
                await self._change(deadline)
            if self.error is not None:
                raise own_copy(self.error)
        finally:
            self._readers -= 1
            if not self._readers and not self.whole and self._task is not None:
                self.given_up = True
                self._task.cancel()

    async def _change(self, deadline: float | None) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._more.wait()
        except TimeoutError:
            raise Timeout("The deadline ran out") from None

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()


def own_copy(error: Exception) -> Exception:
    """An error that several readers may raise: each gets its own, since what handles it may write into it."""
    if not isinstance(error, AppError):
        return error
    copy = type(error).__new__(type(error))
    AppError.__init__(
        copy,
        error.message,
        field=error.field,
        details=error.details,
        headers=error.headers,
        retry_after=error.retry_after,
    )
    return copy
