"""Counts in one SQLite file, for the processes of one machine that have no Redis: each hit is one short transaction.

The file is for one life of the service: a machine that fails may lose it, and then windows begin anew. Its clock is the
machine's steady one, which all processes share and none sets; it begins anew when the machine starts, and a window
that ends later than a new one could is of the time before.
"""

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from apps.api.src.limits.counts import Count, CountingState, WindowCounts

SCHEME = "sqlite://"
# a hit waits for the other processes' so long at most; each takes some tens of microseconds
LOCK_SECONDS = 0.5
# a hit that has waited is counted in a window that another process began meanwhile, and begins none itself
LATE_SECONDS = 10
SWEEP_EVERY = 10_000
TABLE = """
CREATE TABLE IF NOT EXISTS windows (key TEXT PRIMARY KEY, used INTEGER NOT NULL, ends REAL NOT NULL) WITHOUT ROWID
"""
HIT = """
INSERT INTO windows (key, used, ends) VALUES (:key, :amount, :now + :seconds)
ON CONFLICT (key) DO UPDATE SET
    used = CASE WHEN ends <= :now OR ends > :now + :seconds + :late THEN :amount ELSE used + :amount END,
    ends = CASE WHEN ends <= :now OR ends > :now + :seconds + :late THEN :now + :seconds ELSE ends END
RETURNING used, ends
"""
SWEEP = "DELETE FROM windows WHERE ends <= ?"

log = logging.getLogger(__name__)


class FileCounts:
    """Implements Counts. Where the file cannot be used, each of ``processes`` has its share of a limit."""

    def __init__(
        self,
        path: Path,
        local: WindowCounts,
        processes: int,
        *,
        steady: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._local = local
        self._processes = processes
        self._steady, self._wall = steady, wall
        self._database: sqlite3.Connection | None = None
        self._degraded = False
        self._outages = self._local_hits = 0
        self._until_sweep = SWEEP_EVERY

    async def hit(self, key: str, seconds: int, amount: int = 1) -> Count:
        return self._hit(key, seconds, amount)

    def add(self, key: str, seconds: int, amount: int) -> None:
        self._hit(key, seconds, amount)

    def state(self) -> CountingState:
        return CountingState(True, self._degraded, self._processes, self._local_hits, self._outages)

    async def start(self) -> None:
        """The file is opened at the first hit."""

    async def aclose(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _hit(self, key: str, seconds: int, amount: int) -> Count:
        now = self._steady()
        try:
            database = self._database or self._open()
            row = {"key": key, "amount": amount, "now": now, "seconds": seconds, "late": LATE_SECONDS}
            # read to its end, which ends the transaction
            ((used, ends),) = database.execute(HIT, row).fetchall()
            self._sweep(database, now)
        except sqlite3.Error as error:
            self._lost(error)
            self._local_hits += 1
            used, until = self._local.hit(key, seconds, amount)
            return Count(used, until, self._processes)
        if self._degraded:
            self._degraded = False
            log.warning("The limits' file can be used again: all processes limit together")
        return Count(int(used), self._wall() + ends - now)

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        # what a crash of the machine takes are counts of minutes
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=OFF", TABLE):
            database.execute(statement)
        self._database = database
        return database

    def _sweep(self, database: sqlite3.Connection, now: float) -> None:
        self._until_sweep -= 1
        if self._until_sweep <= 0:
            self._until_sweep = SWEEP_EVERY
            database.execute(SWEEP, (now,))

    def _lost(self, error: sqlite3.Error) -> None:
        if not self._degraded:
            self._degraded = True
            self._outages += 1
            kind = type(error).__name__
            log.warning(
                "The limits' file cannot be used (%s): each of %d processes has its share", kind, self._processes
            )
