"""Group commit: small writes that wait for the same database share one transaction, in the order of their arrival.

SQLite writes one transaction at a time, and a commit costs as much for one statement as for a hundred.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from apps.core.errors import StoreUnavailable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")
Work = Callable[["AsyncConnection"], Awaitable[T]]
"""A function of the connection that its transaction has."""
# bounds how long a transaction keeps other writers waiting
MOST_TOGETHER = 256


class GroupCommit:
    """Runs works by ``transact``, which commits one work; each may be run again where its group failed."""

    def __init__(self, transact: Callable[[Work[Any]], Awaitable[Any]]) -> None:
        self._transact = transact
        self._waiting: list[tuple[Work[Any], asyncio.Future[Any]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._closed = False

    async def run(self, work: Work[T]) -> T:
        """The result of ``work``, once it is committed.

        Raises what it raised alone, or StoreUnavailable. A work whose caller is cancelled before its turn is not run.
        """
        if self._closed:
            raise StoreUnavailable
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, result))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="group-commit")
        return await result

    async def aclose(self) -> None:
        """What waits is refused, and what is being written ends."""
        self._closed = True
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait({self._writer})
        _refuse(self._waiting)

    async def _write(self) -> None:
        while self._waiting:
            # taken in the transaction, so that works that came while the database was busy are in it
            group: list[tuple[Work[Any], asyncio.Future[Any]]] = []

            async def together(connection: "AsyncConnection", group: list[Any] = group) -> list[Any]:
                if not group:
                    group += [one for one in self._waiting[:MOST_TOGETHER] if not one[1].done()]
                    del self._waiting[:MOST_TOGETHER]
                return [await work(connection) for work, _ in group]

            try:
                results = await self._transact(together)
            except StoreUnavailable:
                # where the database did not even begin, all that waits is refused
                _refuse(group or self._waiting)
                if not group:
                    self._waiting.clear()
            except asyncio.CancelledError:
                _refuse(group)
                raise
            except Exception:
                if not group:
                    # it did not begin, and would fail in the same way at once
                    _refuse(self._waiting)
                    self._waiting.clear()
                for work, result in group:
                    await self._alone(work, result)
            else:
                for (_, result), value in zip(group, results, strict=True):
                    if not result.done():
                        result.set_result(value)

    async def _alone(self, work: Work[Any], result: asyncio.Future[Any]) -> None:
        """One that was in a group that failed: the fault is raised to its own caller alone."""
        if result.done():
            return
        try:
            value = await self._transact(work)
        except asyncio.CancelledError:
            _refuse([(work, result)])
            raise
        except Exception as error:
            if not result.done():
                result.set_exception(error)
        else:
            if not result.done():
                result.set_result(value)


def _refuse(works: list[tuple[Work[Any], asyncio.Future[Any]]]) -> None:
    for _, result in works:
        if not result.done():
            result.set_exception(StoreUnavailable())
