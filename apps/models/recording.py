"""Recordings: one execution of a call, read by any number of readers from its first item on.

What an item is (a frame of bytes, a delta) and which one is the last, a subclass knows.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Generic, Self, TypeVar

from apps.core.calls import DISCONNECTED, CallRecord
from apps.core.errors import AppError, InternalError, Timeout
from apps.models.metering import outcome_of

T = TypeVar("T")

# a reader that finds all items there leaves other tasks their turn after so many
ITEMS_A_TURN = 32


class Recording(Generic[T]):
    """``record`` is the execution's. ``given_up`` when all readers have left before the end: it is cancelled then."""

    def __init__(self, record: CallRecord) -> None:
        self.record = record
        self.size = 0
        self.done = False
        self.error: Exception | None = None
        self.given_up = False
        self.items: list[T] = []
        self._readers = 0
        # made when the first reader waits
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
        """Run ``work``, which adds the items, in a task of its own; ``ended`` is called at its end."""

        async def run() -> None:
            try:
                await work
            except Exception as error:
                self.error = error

        def end(task: asyncio.Task[None]) -> None:
            # where all readers leave before it begins, it never runs
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

    def read(self, deadline: float | None) -> AsyncGenerator[T, None]:
        """The items from the first on; raises what the execution failed with. The last reader to leave ends it.

        It reads from now on, and must be closed.
        """
        return _Reading(self, deadline)

    def enter(self) -> None:
        """A reader comes."""
        self._readers += 1

    def leave(self, error: BaseException | None = None) -> None:
        """A reader goes, for the first time; ``error`` is what ends it, where anything does."""
        self._readers -= 1
        if not self._readers and not self.whole and self._task is not None:
            self.given_up = True
            self._task.cancel(DISCONNECTED if error is None else outcome_of(error))

    def cancel(self, outcome: str) -> None:
        """End the execution, whoever reads; ``outcome`` is one of CUT_OFF."""
        if self._task is not None:
            self._task.cancel(outcome)

    async def ended(self) -> None:
        """Wait until the execution has ended, well or not."""
        if self._task is not None:
            await asyncio.wait([self._task])

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

    def __init__(self, recording: Recording[T], deadline: float | None) -> None:
        self._recording = recording
        self._deadline = deadline
        self._at = 0
        self._open = True
        recording.enter()

    async def __anext__(self) -> T:
        try:
            return await self._next()
        except BaseException as error:
            self._leave(error)
            raise

    async def asend(self, value: None) -> T:
        return await self.__anext__()

    async def athrow(self, *error: Any) -> T:
        raised = error[0] if len(error) == 1 else error[1]
        self._leave(raised)
        raise raised

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
        return item

    def _leave(self, error: BaseException | None = None) -> None:
        if self._open:
            self._open = False
            self._recording.leave(error)


def own_copy(error: Exception) -> Exception:
    """An error that several readers may raise: each gets its own, since what handles it may write into it."""
    if not isinstance(error, AppError):
        return error
    return error.as_kind(type(error))
