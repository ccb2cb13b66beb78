"""The usage ledger: a Bookkeeper that has one row written for each call, and how long the rows are kept.

One task writes, a moment later and several rows at a time. A batch that may or may not have been written is written
again, which changes nothing the second time. While the database is away rows wait, up to a bound; beyond it the rows of
keys without a budget are lost, counted and said so in the log, and keys with a budget are refused (see budgets.py), so
that none of their rows ever is. Until its row is written a call is in the journal (see journal.py), so that it survives
the process.

Beyond LEDGER_RETENTION_DAYS a task of its own replaces rows by sums of their day. A turn is one short transaction, so
that other writers are never held up for long, and a process that is killed has done a turn or not done it. Any number
of processes may do this at once. Usage and budgets count rows and sums alike. A row that a process writes again, since
it never heard whether it was written, is known by its id; so a row must not be deleted before that. Rows that are
replaced are a day old at the least, and a process tries again within a second of the database's being back.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from apps.core.calls import CallRecord
from apps.core.errors import StoreUnavailable
from apps.operations.database import Database, with_statements
from apps.operations.journal import Journal
from apps.operations.ledger_rows import DAY, Entry, UsageQuestion, UsageReport, day_of, entry_of

MOST_WAITING = 20_000
BATCH = 1_000
# a batch costs some turns of the event loop whatever it holds, and the journal has kept its calls already
GATHER_SECONDS = 0.25
LONGEST_GATHERING = 1.0
RETRY_SECONDS = 0.5
BATCH_SECONDS = 2.0
LEASE_SECONDS = 30.0
CLOSE_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LedgerState:
    """For metrics: rows; ``written`` and ``lost`` only ever grow."""

    waiting: int
    written: int
    lost: int
    reservations: int
    replayed: int = 0
    journal_failures: int = 0


class Ledger:
    """``lease`` is how long a reservation outlives the process that made it; a third of it passes between renewals.

    ``journal_required``: a call that could not be written down there is not made. Of several ``writers`` of a database
    each gathers rows for as much longer, so that all together write no more batches than one.
    """

    def __init__(
        self,
        database: Database,
        *,
        most_waiting: int = MOST_WAITING,
        lease: float = LEASE_SECONDS,
        journal: Journal | None = None,
        journal_required: bool = False,
        writers: int = 1,
    ) -> None:
        self._gather = min(LONGEST_GATHERING, GATHER_SECONDS * writers)
        self._database = database
        self._journal = journal
        self._journal_required = journal_required
        self._most_waiting = most_waiting
        self._lease = lease
        self._waiting: deque[CallRecord] = deque()
        self._held: set[str] = set()
        self._wake = asyncio.Event()
        self._closing = False
        self._closed = False
        self._tasks: list[asyncio.Task[None]] = []
        self._written = 0
        self._lost = 0
        self._losing = False

    async def start(self) -> None:
        if self._journal is not None:
            self._waiting.extend(await asyncio.to_thread(self._journal.open))
            self._wake.set()
        self._tasks = [asyncio.create_task(self._keep_writing()), asyncio.create_task(self._keep_renewing())]

    async def opening(self, call: CallRecord) -> None:
        """Raise NoStorage where its end could not be written down, and must be."""
        if self._journal is not None and self._journal_required:
            self._journal.require()

    def closing(self, call: CallRecord) -> None:
        if self._closed or (self.full and call.caller.budget is None):
            self._lose()
            return
        self._losing = False
        if self._journal is not None:
            self._journal.append(call)
        self._waiting.append(call)
        self._wake.set()

    @property
    def full(self) -> bool:
        """Whether rows are about to be lost."""
        return len(self._waiting) >= self._most_waiting

    def settles(self, key_id: str | None) -> bool:
        """Whether calls of this key have ended whose rows, and so their reservations, are not settled yet."""
        return any(call.caller.key_id == key_id and call.id in self._held for call in self._waiting)

    def hold(self, id: str) -> float:
        """A call has a reservation, which is to be renewed until its row is written; when it would expire."""
        self._held.add(id)
        return time.time() + self._lease

    def release(self, id: str) -> None:
        """No longer: where a reservation was made all the same, it ends by itself."""
        self._held.discard(id)

    def state(self) -> LedgerState:
        journal = self._journal
        replayed, failures = (journal.replayed, journal.failures) if journal is not None else (0, 0)
        return LedgerState(len(self._waiting), self._written, self._lost, len(self._held), replayed, failures)

    async def aclose(self, within: float = CLOSE_SECONDS) -> None:
        """Write what waits. Where that cannot be done in time, say how much is lost."""
        self._closing = True
        self._wake.set()
        if not self._tasks:
            return
        writing, renewing = self._tasks
        await asyncio.wait({writing}, timeout=within)
        for task in (writing, renewing):
            task.cancel()
        await asyncio.wait({writing, renewing})
        self._closed = True
        if self._waiting:
            kept = 0 if self._journal is None else sum(map(self._journal.holds, self._waiting))
            log.error(
                "The database could not be reached at the end: %d calls are not in the ledger, %d of them are in the"
                " journal for the next start",
                len(self._waiting),
                kept,
            )
        if self._journal is not None:
            self._journal.close()

    async def _keep_writing(self) -> None:
        while self._waiting or not self._closing:
            await self._wake.wait()
            self._wake.clear()
            if not self._closing:
                await asyncio.sleep(self._gather)
            while self._waiting:
                calls = list(islice(self._waiting, BATCH))
                # made into rows here and not as each call ends: in a row that takes half of the time
                entries = [entry for call in calls if (entry := _entry(call)) is not None]
                if await self._wrote(entries):
                    self._done(calls, len(calls) - len(entries))
                else:
                    await asyncio.sleep(RETRY_SECONDS)

    async def _wrote(self, batch: list[Entry]) -> bool:
        """Whether it is dealt with. A row that the database refuses for good is lost, and does not stop the rest."""
        if not batch:
            return True
        try:
            await self._put(batch)
        except StoreUnavailable:
            return False
        except Exception as error:
            if len(batch) > 1:
                return all([await self._wrote([entry]) for entry in batch])
            log.error("The ledger cannot write a call: %s", type(error).__name__)
            self._lost += 1
        return True

    async def _put(self, batch: list[Entry]) -> None:
        await self._database.write(with_statements(lambda on: on.ledger.put(batch)), BATCH_SECONDS)

    def _done(self, calls: list[CallRecord], without_row: int) -> None:
        for call in calls:
            self._waiting.popleft()
            self._held.discard(call.id)
        if self._journal is not None:
            self._journal.settle(calls)
        self._written += len(calls) - without_row
        self._lost += without_row

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            try:
                await self._renew(list(self._held))
            except StoreUnavailable:
                continue  # the database says so itself
            except Exception as error:
                log.error("Reservations could not be renewed: %s", type(error).__name__)

    async def _renew(self, held: list[str]) -> None:
        expires_at = time.time() + self._lease
        work = with_statements(lambda on: on.ledger.renew_and_expire(held, expires_at))
        forgotten = await self._database.write(work)
        if forgotten:
            log.warning("Gave back the reservations of %d calls whose process is gone", forgotten)

    def _lose(self) -> None:
        self._lost += 1
        if not self._losing:
            self._losing = True
            log.error("The ledger takes no more rows, since the database takes none: calls are not written down")


def _entry(call: CallRecord) -> Entry | None:
    """None where no row can be made of it, which is said: the calls behind it must not wait for ever."""
    try:
        return entry_of(call)
    except Exception as error:
        log.error("The ledger cannot make a row of a call: %s", type(error).__name__)
        return None


SECONDS = 5.0


async def usage(database: Database, question: UsageQuestion) -> UsageReport:
    """A page of sums. Raises StoreUnavailable."""
    return await database.read(with_statements(lambda on: on.ledger.report(question)), SECONDS)


FOLDING_BATCH = 500
TURN_SECONDS = 2.0
# between two turns, for others to write
PAUSE_SECONDS = 0.2
# after the last one, and after one that the database did not take
REST_SECONDS = 600.0
FOLDING_RETRY_SECONDS = 10.0


class Retention:
    """Keeps the rows of today and of ``days`` days before, in UTC."""

    def __init__(
        self,
        database: Database,
        days: int,
        *,
        batch: int = FOLDING_BATCH,
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
                wait = min(FOLDING_RETRY_SECONDS, self._rest)  # the database says so itself
            except Exception as error:
                log.error("Old rows of the ledger cannot be replaced by their sums: %s", type(error).__name__)
                wait = self._rest
            await asyncio.sleep(wait)
