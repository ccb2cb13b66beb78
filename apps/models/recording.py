"""Recordings: one execution of a call, read by any number of callers from its first item on.

What an item is (a frame of bytes, a delta) and which one is the last, a subclass knows. Keeps nothing beyond itself:
who may join a recording, and for how long, is decided elsewhere.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Generic, Self, TypeVar

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
        # made by the first who waits
        self._more: asyncio.Event | None = None
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

    def begin(self, work: Coroutine[Any, Any, None], ended: Callable[[Self], None]) -> None:
        """Run ``work``, which adds the items, in a task of its own; ``ended`` hears of its end."""

        async def run() -> None:
            try:
                await work
            except Exception as error:
                self.error = error

        def end(task: asyncio.Task[None]) -> None:
            # where all have left before it began, it has never run
            work.close()
            if task.cancelled():
                self.error = InternalError("The call was given up")
            self.done = True
            self._wake()
            ended(self)

        self._task = asyncio.create_task(run())
        self._task.add_done_callback(end)

    def add(self, item: T) -> None:
        self.items.append(item)
        self.size += self.size_of(item)
        self._wake()

    def read(self, deadline: float | None, at_end: Callable[[], None] | None = None) -> AsyncGenerator[T, None]:
        """The items from the first on; raises what the execution failed with. The last reader to leave ends it.

        Whoever calls this is a reader from now on, and must close what is returned. ``at_end`` is called before the
        last item is given.
        """
        return _Reading(self, deadline, at_end)

    def enter(self) -> None:
        """A reader comes."""
        self._readers += 1

    def leave(self) -> None:
        """A reader goes, for the first time."""
        self._readers -= 1
        if not self._readers and not self.whole and self._task is not None:
            self.given_up = True
            self._task.cancel()

    async def change(self, deadline: float | None) -> None:
        """Wait for an item or the end. Raises Timeout."""
        if self._more is None:
            self._more = asyncio.Event()
        if deadline is None:
            await self._more.wait()
            return
        try:
            async with asyncio.timeout_at(deadline):
                await self._more.wait()
        except TimeoutError:
            raise Timeout("The deadline ran out") from None

    def _wake(self) -> None:
        if self._more is not None:
            self._more.set()
            self._more = None


class _Reading(AsyncGenerator[T, None]):
    """One reader. A generator would be none before its first item, and lose the execution to others who leave."""

    def __init__(self, recording: Recording[T], deadline: float | None, at_end: Callable[[], None] | None) -> None:
        self._recording = recording
        self._deadline = deadline
        self._at_end = at_end
        self._at = 0
        self._open = True
        recording.enter()

    async def __anext__(self) -> T:
        try:
            return await self._next()
        except BaseException:
            self._leave()
            raise

    async def asend(self, value: None) -> T:
        return await self.__anext__()

    async def athrow(self, *error: Any) -> T:
        self._leave()
        raise error[0] if len(error) == 1 else error[1]

    async def aclose(self) -> None:
        self._leave()

    async def _next(self) -> T:
        recording = self._recording
        while self._open and self._at >= len(recording.items):
            if not recording.whole:
                await recording.change(self._deadline)
            elif recording.error is not None:
                raise own_copy(recording.error)
            else:
                self._leave()
        if not self._open:
            raise StopAsyncIteration
        item = recording.items[self._at]
        self._at += 1
        if self._at % ITEMS_A_TURN == 0:
            await asyncio.sleep(0)
        if self._at_end is not None and recording.is_last(item):
            self._at_end()
        return item

    def _leave(self) -> None:
        if self._open:
            self._open = False
            self._recording.leave()


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
