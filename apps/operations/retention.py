"""How long the ledger keeps its rows: beyond that, a task of its own replaces them by sums of their day.

A turn is one short transaction, so that other writers are never held up for long, and a process that is killed has
done a turn or not done it. Any number of processes may do this at once. Usage and budgets count rows and sums alike.

A row that a process writes again, since it never heard whether it was written, is known by its id; so a row must not
be deleted before that. Rows here are a day old at the least, and a process tries again within a second of the
database's being back.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from apps.core.errors import StoreUnavailable
from apps.operations.database import Database, with_statements
from apps.operations.ledger_rows import DAY, day_of

BATCH = 500
TURN_SECONDS = 2.0
# between two turns, for others to write
PAUSE_SECONDS = 0.2
# after the last one, and after one that the database did not take
REST_SECONDS = 600.0
RETRY_SECONDS = 10.0

log = logging.getLogger(__name__)


class Retention:
    """Keeps the rows of today and of ``days`` days before, in UTC."""

    def __init__(
        self,
        database: Database,
        days: int,
        *,
        batch: int = BATCH,
        pause: float = PAUSE_SECONDS,
        rest: float = REST_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if days < 1:
            raise ValueError("rows of a day that is not over cannot be deleted")
        self._database = database
        self._days = days
        self._batch = batch
        self._pause = pause
        self._rest = rest
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self.folded = 0
        """Rows that became sums, by this process; only ever grows."""

    async def start(self) -> None:
        self._task = asyncio.create_task(self._keep_folding())

    async def aclose(self) -> None:
        """A turn under way is rolled back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def turn(self) -> bool:
        """One batch; whether there may be more. Raises StoreUnavailable."""
        before = day_of(self._clock() - self._days * DAY)
        work = with_statements(lambda on: on.ledger.fold(before, self._batch))
        folded = await self._database.write(work, TURN_SECONDS)
        self.folded += folded
        return folded == self._batch

    async def _keep_folding(self) -> None:
        while True:
            try:
                wait = self._pause if await self.turn() else self._rest
            except StoreUnavailable:
                wait = min(RETRY_SECONDS, self._rest)  # the database says so itself
            except Exception as error:
                log.error("Old rows of the ledger cannot be replaced by their sums: %s", type(error).__name__)
                wait = self._rest
            await asyncio.sleep(wait)
