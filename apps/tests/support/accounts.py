"""What the ledger's tests share: calls of a key with a budget, and what the database holds in the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from apps.core.callers import Budget, Caller
from apps.core.calls import DISCONNECTED, Bookkeeper, CallRecord, Usage
from apps.operations.database import Database
from apps.operations.ledger import Ledger
from apps.operations.tables import budgets, calls, reservations

TEN = Budget(10, "day")
BILLION = 1_000_000_000


def key(budget: Budget | None = TEN, id: str = "k") -> Caller:
    return Caller("t", id, budget=budget)


def call(caller: Caller | None = None, estimated: float | None = 1.0, cost: float | None = None) -> CallRecord:
    return CallRecord(caller or key(), "/generate", "m", estimated_cost=estimated, usage=Usage(1, 1, cost=cost))


class Meter:
    """Tells the bookkeepers of a call, as the real one does, which is on another floor."""

    def __init__(self, books: list[Bookkeeper]) -> None:
        self._books = books

    @asynccontextmanager
    async def call(self, record: CallRecord) -> AsyncIterator[None]:
        open_: list[Bookkeeper] = []
        try:
            for book in self._books:
                await book.opening(record)
                open_.append(book)
            yield
        except BaseException as error:
            cut_off = isinstance(error, asyncio.CancelledError)
            record.outcome = str(*error.args or (DISCONNECTED,)) if cut_off else "INTERNAL_ERROR"
            raise
        finally:
            for book in reversed(open_):
                book.closing(record)


async def written(ledger: Ledger) -> None:
    async with asyncio.timeout(90):
        while ledger.state().waiting:  # noqa: ASYNC110 - another task's work
            await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Books:
    """Billionths of a dollar, and numbers of rows."""

    rows: int
    cost: int
    spent: int
    reserved: int
    reservations: int
    held: int

    @property
    def consistent(self) -> bool:
        """Every charge has its row, and every row its charge; what is reserved is reserved by somebody."""
        return self.cost == self.spent and self.reserved == self.held


async def books(database: Database) -> Books:
    async def read(connection: AsyncConnection) -> Books:
        async def one(what: object) -> int:
            return int((await connection.execute(select(what))).scalar_one() or 0)  # type: ignore[call-overload]

        return Books(
            await one(func.count(calls.c.id)),
            await one(func.sum(calls.c.cost)),
            await one(func.sum(budgets.c.spent)),
            await one(func.sum(budgets.c.reserved)),
            await one(func.count(reservations.c.id)),
            await one(func.sum(reservations.c.amount)),
        )

    return await database.read(read)
