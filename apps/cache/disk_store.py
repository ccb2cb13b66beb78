"""Entries in a SQLite file, bounded in bytes, asked in a thread of its own; several processes may share it.

cashews keeps entries on disk by diskcache, which unpickles what a row of its file says is a pickle.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from apps.cache.store import OVERHEAD, StoreError

T = TypeVar("T")

FILE = "answers.db"
BUSY_SECONDS = 0.2
# that an entry is in use is written down at most so often
USED_EVERY = 60.0
SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
PRAGMA journal_size_limit = 4194304;
CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY, expires REAL NOT NULL, used REAL NOT NULL, size INTEGER NOT NULL, value BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_use ON answers (used, size);
CREATE INDEX IF NOT EXISTS by_expiry ON answers (expires);
"""


class DiskStore:
    """Implements RemoteStore. ``size`` is what the entries take, as of the last one that was written here."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._pool: ThreadPoolExecutor | None = None
        self._file: sqlite3.Connection | None = None
        self.size = 0

    async def start(self) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "cache-disk")
        await self._in_thread(self._open)

    async def get(self, key: bytes) -> bytes | None:
        return await self._in_thread(lambda: self._get(key))

    async def set(self, key: bytes, value: bytes, ttl: float) -> None:
        if len(value) + OVERHEAD <= self._most_bytes:
            await self._in_thread(lambda: self._set(key, value, ttl))

    async def ping(self) -> None:
        await self._in_thread(lambda: self._opened().execute("SELECT 1 FROM answers LIMIT 1").fetchone())

    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.get_running_loop().run_in_executor(pool, self._close)
            pool.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._pool is None:
            raise StoreError("not open")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(type(error).__name__) from error

    def _open(self) -> None:
        self._close()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / FILE
        # other users of this machine must not read what callers ask and get
        path.touch(mode=0o600)
        self._file = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._file.executescript(SCHEMA)
        self._make_room()

    def _opened(self) -> sqlite3.Connection:
        if self._file is None:
            raise OSError("the file is closed")
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _get(self, key: bytes) -> bytes | None:
        now = time.time()
        query = "SELECT value, used FROM answers WHERE key = ? AND expires > ?"
        row = self._opened().execute(query, (key, now)).fetchone()
        if row is None or not isinstance(row[0], bytes):
            return None
        if row[1] < now - USED_EVERY:
            self._opened().execute("UPDATE answers SET used = ? WHERE key = ?", (now, key))
        return row[0]

    def _set(self, key: bytes, value: bytes, ttl: float) -> None:
        now = time.time()
        row = (key, now + ttl, now, len(value) + OVERHEAD, value)
        file = self._opened()
        file.execute("BEGIN IMMEDIATE")
        try:
            file.execute("INSERT OR REPLACE INTO answers (key, expires, used, size, value) VALUES (?, ?, ?, ?, ?)", row)
            self._make_room()
            file.execute("COMMIT")
        except BaseException:
            # a full disk has rolled back already; a commit that failed has not
            if file.in_transaction:
                file.execute("ROLLBACK")
            raise

    def _make_room(self) -> None:
        """Forget what has expired, then what was used least recently, until the rest fits."""
        file = self._opened()
        file.execute("DELETE FROM answers WHERE expires <= ?", (time.time(),))
        size = int(file.execute("SELECT COALESCE(SUM(size), 0) FROM answers").fetchone()[0])
        while size > self._most_bytes:
            oldest = file.execute("SELECT key, size FROM answers ORDER BY used LIMIT 16").fetchall()
            for key, bytes_of_it in oldest:
                if size > self._most_bytes:
                    file.execute("DELETE FROM answers WHERE key = ?", (key,))
                    size -= bytes_of_it
        self.size = size
