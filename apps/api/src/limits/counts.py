"""Where the rate limits count: in this process alone, or in one Redis for all of them.

A call counts and reads the count in one step. What the limits are, and what is refused, is not known here.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from limits.storage import Storage, storage_from_string

from apps.core.process import end_loop

URI = "loop://"
SWEEP_EVERY = 10_000


class WindowCounts(Storage):
    """``loop://`` of the engine's storage URIs.

    Windows are kept by a monotonic clock: one that is set back must not refuse callers until it is there again.
    When a window ends is given by the wall clock, as the engine's contract wants it.
    """

    STORAGE_SCHEME = ["loop"]  # noqa: RUF012 - the engine's registry declares it so

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        *,
        steady: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        **_: float | str | bool,
    ) -> None:
        super().__init__(uri, wrap_exceptions)
        self._steady, self._wall = steady, wall
        self._windows: dict[str, tuple[int, float]] = {}
        self._until_sweep = SWEEP_EVERY

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return self.hit(key, expiry, amount)[0]

    def hit(self, key: str, expiry: int, amount: int = 1) -> tuple[int, float]:
        """Count, and tell the count and when its window ends."""
        now = self._steady()
        count, ends = self._windows.get(key, (0, now))
        if ends <= now:
            count, ends = 0, now + expiry
        count += amount
        self._windows[key] = count, ends
        self._sweep(now)
        return count, self._wall() + ends - now

    def get(self, key: str) -> int:
        now = self._steady()
        count, ends = self._windows.get(key, (0, now))
        return count if ends > now else 0

    def get_expiry(self, key: str) -> float:
        now = self._steady()
        return self._wall() + self._windows.get(key, (0, now))[1] - now

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        size = len(self._windows)
        self._windows.clear()
        return size

    def clear(self, key: str) -> None:
        self._windows.pop(key, None)

    def _sweep(self, now: float) -> None:
        self._until_sweep -= 1
        if self._until_sweep == 0:
            self._until_sweep = SWEEP_EVERY
            self._windows = {key: window for key, window in self._windows.items() if window[1] > now}


REDIS_SECONDS = 0.5
HEARTBEAT_SECONDS = 1.0
SEEN_SECONDS = 5.0
PROCESSES = "processes"
# a window begins with its first hit, and a key that has lost its end gets one again
HIT = """
local count = redis.call('incrby', KEYS[1], ARGV[2])
local left = redis.call('pttl', KEYS[1])
if left < 0 then
  redis.call('pexpire', KEYS[1], ARGV[1])
  left = tonumber(ARGV[1])
end
return {count, left}
"""

log = logging.getLogger(__name__)


class Count(NamedTuple):
    """How much a window holds, and when it ends; ``share`` processes each have that part of the limit."""

    used: int
    ends: float
    share: int = 1


@dataclass(frozen=True, slots=True)
class CountingState:
    """For metrics: ``local_hits`` and ``outages`` only ever grow."""

    shared: bool
    degraded: bool
    processes: int
    local_hits: int
    outages: int


class Counts(Protocol):
    """Fixed windows by key."""

    async def hit(self, key: str, seconds: int, amount: int = 1) -> Count:
        """Count ``amount`` (0: only look) in the key's window of so many seconds."""

    def add(self, key: str, seconds: int, amount: int) -> None:
        """`hit`, soon, for callers that cannot wait."""

    def state(self) -> CountingState: ...

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...


class LocalCounts:
    """In this process's memory."""

    def __init__(self, windows: WindowCounts) -> None:
        self._windows = windows

    async def hit(self, key: str, seconds: int, amount: int = 1) -> Count:
        count, ends = self._windows.hit(key, seconds, amount)
        return Count(count, ends)

    def add(self, key: str, seconds: int, amount: int) -> None:
        self._windows.hit(key, seconds, amount)

    def state(self) -> CountingState:
        return CountingState(False, False, 1, 0, 0)

    async def start(self) -> None:
        """Nothing to connect to."""

    async def aclose(self) -> None:
        """Nothing to close."""


class SharedCounts:
    """In Redis, by the engine's asynchronous storage. While Redis is away each process has its share of a limit.

    One call at most waits for a Redis that does not answer: then a task of its own asks for it, and calls do not. The
    share is the limit divided by the processes that were last seen at work, each of which says so every second.
    ``seconds`` is how long Redis has for an answer.
    """

    def __init__(self, uri: str, windows: WindowCounts, seconds: float = REDIS_SECONDS) -> None:
        self._uri = uri
        self._seconds = seconds
        self._local = windows
        self._name = secrets.token_hex(8)
        self._degraded = False
        self._processes = 1
        self._local_hits = 0
        self._outages = 0
        self._owed: dict[tuple[str, int], int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._beat: asyncio.Task[None] | None = None
        self._redis: Any = None

    async def start(self) -> None:
        """Never waits for Redis, and never fails for want of one."""
        # Redis's client, which a start without it does not need
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        patience: Any = {
            "socket_timeout": self._seconds,
            "socket_connect_timeout": self._seconds,
            "retry": Retry(NoBackoff(), 0),
        }
        storage: Any = storage_from_string("async+" + self._uri, implementation="redispy", **patience)
        self._failures = (*storage.base_exceptions, OSError, TimeoutError)
        self._prefixed = storage.bridge.prefixed_key
        self._redis = storage.bridge.get_connection()
        self._script = self._redis.register_script(HIT)
        self._beat = asyncio.create_task(self._keep_beating())

    async def hit(self, key: str, seconds: int, amount: int = 1) -> Count:
        if not self._degraded:
            try:
                async with asyncio.timeout(self._seconds):
                    count, left = await self._script([self._prefixed(key)], [seconds * 1000, amount])
                return Count(int(count), time.time() + int(left) / 1000)
            except self._failures as error:
                self._lost(error)
        self._local_hits += 1
        count, ends = self._local.hit(key, seconds, amount)
        return Count(count, ends, self._processes)

    def add(self, key: str, seconds: int, amount: int) -> None:
        self._owed[key, seconds] = self._owed.get((key, seconds), 0) + amount
        if not self._tasks:
            task = asyncio.create_task(self._pay())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def state(self) -> CountingState:
        return CountingState(True, self._degraded, self._processes, self._local_hits, self._outages)

    async def aclose(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._beat is not None:
            await end_loop(self._beat)
            self._beat = None
            await self._redis.aclose()

    async def _pay(self) -> None:
        while self._owed:
            (key, seconds), amount = self._owed.popitem()
            await self.hit(key, seconds, amount)

    async def _keep_beating(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._seconds):
                    self._processes = await self._say_hello()
            except self._failures as error:
                self._lost(error)
            else:
                self._regained()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _say_hello(self) -> int:
        """How many processes have been here lately, this one included."""
        key, now = self._prefixed(PROCESSES), time.time()
        await self._redis.zadd(key, {self._name: now})
        await self._redis.zremrangebyscore(key, "-inf", now - SEEN_SECONDS)
        return max(1, int(await self._redis.zcard(key)))

    def _lost(self, error: Exception) -> None:
        if not self._degraded:
            self._degraded = True
            self._outages += 1
            kind, share = type(error).__name__, self._processes
            log.warning("Redis does not answer (%s): each of %d processes limits by its own share", kind, share)

    def _regained(self) -> None:
        if self._degraded:
            self._degraded = False
            log.warning("Redis answers again: all processes limit together")
