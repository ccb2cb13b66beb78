"""Stores: where entries lie. Bytes in, the same bytes out, or nothing; none of them unpickles anything.

``MemoryStore`` keeps them in this process, bounded in bytes; the least recently used go first. (cashews bounds its
memory by the number of entries, whatever their size.) ``DiskStore`` keeps them in a SQLite file, bounded in bytes,
which several processes may share; a thread of its own asks it, and what it has read is answered from memory for as long
as no process writes. (cashews keeps entries on disk by diskcache, which unpickles what a row of its file says is a
pickle.)
"""

import asyncio
import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from apps.core.process import end_loop

PREFIX = "genai:answer:"
# what a store needs for an entry beside its bytes: its key, and its place in an index
OVERHEAD = 300


class StoreError(Exception):
    """The store could not be asked; the message names no address."""


class Store(Protocol):
    """``ttl`` in seconds. ``start`` also connects or opens again after a failure."""

    async def start(self) -> None: ...

    async def get(self, key: bytes) -> bytes | None: ...

    async def set(self, key: bytes, value: bytes, ttl: float) -> None: ...

    async def aclose(self) -> None: ...


class RemoteStore(Store, Protocol):
    """One that may fail: with StoreError and nothing else, or by being silent."""

    async def ping(self) -> None:
        """Raises StoreError where the store cannot be asked."""


class MemoryStore:
    """Implements Store. ``size`` is what the entries take, about; never over ``most_bytes``."""

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_bytes = most_bytes
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    async def start(self) -> None:
        """Nothing to open."""

    async def get(self, key: bytes) -> bytes | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        expires, value = kept
        if self._clock() >= expires:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return value

    async def set(self, key: bytes, value: bytes, ttl: float) -> None:
        if key in self._kept:
            self._drop(key)
        if len(value) + OVERHEAD > self._most_bytes:
            return
        self._kept[key] = (self._clock() + ttl, value)
        self.size += len(value) + OVERHEAD
        while self.size > self._most_bytes:
            self._drop(next(iter(self._kept)))

    async def aclose(self) -> None:
        self._kept.clear()
        self.size = 0

    def _drop(self, key: bytes) -> None:
        _, value = self._kept.pop(key)
        self.size -= len(value) + OVERHEAD


log = logging.getLogger(__name__)

LONGEST = 0.2
# what a store needs may be imported then
STARTING = 2.0
# once a look has waited so long, others do not begin to wait as well
SUSPICIOUS = 0.05
PROBE_EVERY = 0.5


class GuardedStore:
    """``failures`` counts what went wrong, ``skipped`` the looks that were not made; ``broken`` as of now."""

    def __init__(self, inner: RemoteStore, name: str, longest: float = LONGEST) -> None:
        self._inner = inner
        self._name = name
        self._longest = longest
        self._waiting: dict[object, float] = {}
        self._probing: asyncio.Task[None] | None = None
        self.failures = 0
        self.skipped = 0
        self.broken = False

    @property
    def size(self) -> int:
        """Bytes, where the store knows; Redis counts its own."""
        return int(getattr(self._inner, "size", 0))

    async def start(self) -> None:
        """Never fails: a store that is not there yet is let in when it is."""
        try:
            async with asyncio.timeout(STARTING):
                await self._inner.start()
                await self._inner.ping()
        except (StoreError, TimeoutError) as error:
            self._failed(error)

    async def get(self, key: bytes) -> bytes | None:
        """None also where the store cannot be asked."""
        if self.broken or self._is_slow():
            self.skipped += 1
            return None
        mark = object()
        self._waiting[mark] = time.monotonic()
        try:
            async with asyncio.timeout(self._longest):
                return await self._inner.get(key)
        except (StoreError, TimeoutError) as error:
            self._failed(error)
            return None
        finally:
            del self._waiting[mark]

    async def set(self, key: bytes, value: bytes, ttl: float) -> None:
        if self.broken:
            self.skipped += 1
            return
        try:
            async with asyncio.timeout(self._longest):
                await self._inner.set(key, value, ttl)
        except (StoreError, TimeoutError) as error:
            self._failed(error)

    async def aclose(self) -> None:
        if self._probing is not None:
            await end_loop(self._probing)
        try:
            async with asyncio.timeout(self._longest):
                await self._inner.aclose()
        except (StoreError, TimeoutError) as error:
            log.warning("The cache in %s was not closed in good order: %s", self._name, _words(error))

    def _is_slow(self) -> bool:
        return bool(self._waiting) and time.monotonic() - next(iter(self._waiting.values())) > SUSPICIOUS

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        if self.broken:
            return
        self.broken = True
        log.warning(
            "The cache in %s cannot be asked (%s): every call is a miss until it can", self._name, _words(error)
        )
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        while self.broken:
            await asyncio.sleep(PROBE_EVERY)
            try:
                async with asyncio.timeout(self._longest):
                    # connections from before the failure may hold answers to calls that are over
                    await self._inner.start()
                    await self._inner.ping()
            except (StoreError, TimeoutError):
                self.failures += 1
            else:
                self.broken = False
                log.info("The cache in %s is back", self._name)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


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


COPIES_BYTES = 16 * 2**20


class _Copies:
    """Entries as they were read from the file, until any process commits to it: SQLite's own counter says so.

    The counter is in memory that the processes share, so it is read on the event loop. A copy is not used for longer
    than the file may not know that its entry is in use.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._watcher = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        self._kept = MemoryStore(most_bytes, time.time)
        self._version: int | None = None

    def version(self) -> int | None:
        """None where it cannot be read now."""
        try:
            return int(self._watcher.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            return None

    async def get(self, key: bytes) -> bytes | None:
        version = self.version()
        if version is None or version != self._version:
            self._version = version
            await self._kept.aclose()
            return None
        return await self._kept.get(key)

    async def keep(self, version: int | None, key: bytes, value: bytes, ttl: float) -> None:
        """Keep what was read after ``version`` was, where that is still the newest."""
        if version is not None and version == self._version == self.version():
            await self._kept.set(key, value, min(ttl, USED_EVERY))

    def close(self) -> None:
        self._watcher.close()


class DiskStore:
    """Implements RemoteStore. ``size`` is what the entries take, as of the last one that was written here."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._copies: _Copies | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._file: sqlite3.Connection | None = None
        self.size = 0

    async def start(self) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "cache-disk")
        await self._in_thread(self._open)

    async def get(self, key: bytes) -> bytes | None:
        copies = self._copies
        if copies is None:
            raise StoreError("not open")
        if (copy := await copies.get(key)) is not None:
            return copy
        version = copies.version()
        found = await self._in_thread(lambda: self._get(key))
        if found is None:
            return None
        value, expires = found
        await copies.keep(version, key, value, expires - time.time())
        return value

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
        self._copies = _Copies(path, min(COPIES_BYTES, self._most_bytes))

    def _opened(self) -> sqlite3.Connection:
        if self._file is None:
            raise OSError("the file is closed")
        return self._file

    def _close(self) -> None:
        copies, self._copies = self._copies, None
        if copies is not None:
            copies.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _get(self, key: bytes) -> tuple[bytes, float] | None:
        """The entry, and when it expires."""
        now = time.time()
        query = "SELECT value, used, expires FROM answers WHERE key = ? AND expires > ?"
        row = self._opened().execute(query, (key, now)).fetchone()
        if row is None or not isinstance(row[0], bytes):
            return None
        if row[1] < now - USED_EVERY:
            self._opened().execute("UPDATE answers SET used = ? WHERE key = ?", (now, key))
        return row[0], float(row[2])

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
