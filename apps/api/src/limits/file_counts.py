"""Counts in one file that the processes of a machine map into their memory, where they have no Redis.

A table of as many places as fit: the hash of a key says in which eight of them it may stand, so that a hit reads and
writes a few words under the file's lock, and asks no kernel for more. (SQLite took ten times as long, a twentieth of a
call through the gateway.)

The file is for one life of the service: a machine that fails may lose it, and then windows begin anew. Its clock is the
machine's steady one, which all processes share and none sets; it begins anew when the machine starts, and a window
that ends later than a new one could is of the time before.
"""

import errno
import logging
import mmap
import os
import sys
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from struct import Struct

from apps.api.src.limits.counts import Count, CountingState, WindowCounts

if sys.platform != "win32":
    import fcntl

SCHEME = "file://"
# a hit waits for the other processes' so long at most; each takes some microseconds
LOCK_SECONDS = 0.5
# a hit that has waited is counted in a window that another process began meanwhile, and begins none itself
LATE_SECONDS = 10
MAGIC = b"genai-project counts, version 2\n"
DIGEST_BYTES = 16
PLACE = Struct("=16sQdI")
"""A key's digest, how much its window holds, when that ends, and how many seconds it has."""
WAYS = 8
BUCKETS = 1 << 15
BUCKET_BYTES = WAYS * PLACE.size

log = logging.getLogger(__name__)


class _Table:
    """The mapped file. Raises OSError where it cannot be opened, is no such table, or its lock cannot be had."""

    def __init__(self, path: Path, buckets: int) -> None:
        self._buckets = buckets
        self._bytes = len(MAGIC) + buckets * BUCKET_BYTES
        if sys.platform == "win32":
            raise OSError("this system has no such locks")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock()
            try:
                begun = os.pread(self._file, len(MAGIC), 0)
                # of zeros alone where a process ended while it filled it
                empty = not begun.strip(b"\0")
                if not empty and (begun != MAGIC or os.fstat(self._file).st_size != self._bytes):
                    raise OSError("the file is of something else")
                if empty:
                    self._fill()
            finally:
                self._unlock()
            self._memory = mmap.mmap(self._file, self._bytes)
        except BaseException:
            os.close(self._file)
            raise

    def hit(self, key: str, seconds: int, amount: int, now: float) -> tuple[int, float] | None:
        """What the key's window holds now, and when it ends; None where there is no place for another key."""
        digest = blake2b(key.encode(errors="surrogatepass"), digest_size=DIGEST_BYTES).digest()
        first = len(MAGIC) + int.from_bytes(digest[:4], "big") % self._buckets * BUCKET_BYTES
        self._lock()
        try:
            at = self._memory.find(digest, first, first + BUCKET_BYTES)
            used, ends = 0, 0.0
            if at >= 0:
                _, used, ends, _ = PLACE.unpack_from(self._memory, at)
            elif (free := self._free(first, now)) is not None:
                at = free
            else:
                return None
            if not now < ends <= now + seconds + LATE_SECONDS:
                used, ends = 0, now + seconds
            used += amount
            PLACE.pack_into(self._memory, at, digest, used, ends, seconds)
            return used, ends
        finally:
            self._unlock()

    def close(self) -> None:
        self._memory.close()
        os.close(self._file)

    def _free(self, first: int, now: float) -> int | None:
        """A place of the bucket whose window is over."""
        for at in range(first, first + BUCKET_BYTES, PLACE.size):
            _, _, ends, seconds = PLACE.unpack_from(self._memory, at)
            if not now < ends <= now + seconds + LATE_SECONDS:
                return at
        return None

    def _fill(self) -> None:
        """Write all places: one that the disk had no room for would end the process when it is used."""
        empty = bytes(self._bytes - len(MAGIC))
        if os.pwrite(self._file, empty, len(MAGIC)) != len(empty):
            os.ftruncate(self._file, 0)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.pwrite(self._file, MAGIC, 0)

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        until = 0.0
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                until = until or time.monotonic() + LOCK_SECONDS
                if time.monotonic() > until:
                    raise
                # its holder needs a moment of the core, where it is not on another one
                time.sleep(0)

    def _unlock(self) -> None:
        if sys.platform != "win32":
            fcntl.flock(self._file, fcntl.LOCK_UN)


class FileCounts:
    """Implements Counts. Where the file cannot be used, each of ``processes`` has its share of a limit.

    The file has ``buckets`` of eight places each.
    """

    def __init__(
        self,
        path: Path,
        local: WindowCounts,
        processes: int,
        *,
        steady: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        buckets: int = BUCKETS,
    ) -> None:
        self._buckets = buckets
        self._path = path
        self._local = local
        self._processes = processes
        self._steady, self._wall = steady, wall
        self._table: _Table | None = None
        self._degraded = False
        self._outages = self._local_hits = 0

    async def hit(self, key: str, seconds: int, amount: int = 1) -> Count:
        return self._hit(key, seconds, amount)

    def add(self, key: str, seconds: int, amount: int) -> None:
        self._hit(key, seconds, amount)

    def state(self) -> CountingState:
        return CountingState(True, self._degraded, self._processes, self._local_hits, self._outages)

    async def start(self) -> None:
        """The file is opened at the first hit."""

    async def aclose(self) -> None:
        if self._table is not None:
            self._table.close()
            self._table = None

    def _hit(self, key: str, seconds: int, amount: int) -> Count:
        now = self._steady()
        try:
            table = self._table = self._table or _Table(self._path, self._buckets)
            found = table.hit(key, seconds, amount, now)
        except OSError as error:
            self._lost(error)
            return self._share(key, seconds, amount)
        if self._degraded:
            self._degraded = False
            log.warning("The limits' file can be used again: all processes limit together")
        if found is None:
            # the bucket is full of others that are counted now
            return self._share(key, seconds, amount)
        used, ends = found
        return Count(used, self._wall() + ends - now)

    def _share(self, key: str, seconds: int, amount: int) -> Count:
        self._local_hits += 1
        used, until = self._local.hit(key, seconds, amount)
        return Count(used, until, self._processes)

    def _lost(self, error: OSError) -> None:
        if not self._degraded:
            self._degraded = True
            self._outages += 1
            log.warning(
                "The limits' file cannot be used (%s): each of %d processes has its share",
                error.strerror or error,
                self._processes,
            )
