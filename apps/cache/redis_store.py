"""Entries in Redis, by cashews' backend. How many bytes they may take is Redis's own setting (maxmemory).

Only the backend's raw commands are used: its others unpickle what they read, unless every caller sees to it. Imported
where CACHE_STORAGE names Redis, since it imports Redis's client.
"""

from collections.abc import Awaitable
from typing import Any, TypeVar

from cashews.backends.redis import Redis
from cashews.exceptions import CacheBackendInteractionError
from cashews.serialize import NULL_SERIALIZER
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from apps.cache.store import PREFIX, StoreError

T = TypeVar("T")

CONNECTIONS = 64


class RedisStore:
    """Implements RemoteStore. ``seconds`` bounds each answer of Redis's; a lost connection is not tried again here."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url = url
        self._seconds = seconds
        self._pools = _Pools(seconds)
        self._backend: Redis | None = None

    async def start(self) -> None:
        await self.aclose()
        self._backend = _backend(self._url, self._seconds, self._pools)
        await _answered(self._backend.init())  # type: ignore[no-untyped-call]

    async def get(self, key: bytes) -> bytes | None:
        value = await _answered(self._opened().get_raw(_name(key)))
        return value if isinstance(value, bytes) else None

    async def set(self, key: bytes, value: bytes, ttl: float) -> None:
        await _answered(self._opened().set_raw(_name(key), value, px=max(1, int(ttl * 1000))))

    async def ping(self) -> None:
        await _answered(self._opened().ping())

    async def aclose(self) -> None:
        self._backend = None
        pool, self._pools.latest = self._pools.latest, None
        if pool is not None:
            await _answered(pool.aclose())

    def _opened(self) -> Redis:
        if self._backend is None:
            raise StoreError("not connected")
        return self._backend


def _name(key: bytes) -> str:
    return PREFIX + key.hex()


class _Pools:
    """Makes the backend's connections and keeps hold of them: its own way to close them is deprecated in the client."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.latest: BlockingConnectionPool | None = None

    def from_url(self, url: str, **options: Any) -> BlockingConnectionPool:
        self.latest = BlockingConnectionPool.from_url(url, timeout=self._seconds, **options)
        return self.latest


def _backend(url: str, seconds: float, pools: _Pools) -> Redis:
    options: dict[str, Any] = {
        "suppress": False,
        "serializer": NULL_SERIALIZER,
        "max_connections": CONNECTIONS,
        "connection_pool_class": pools,
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
    }
    return Redis(url, **options)


async def _answered(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except (TimeoutError, CacheBackendInteractionError, RedisError, OSError) as error:
        cause = error.__cause__ or error
        # its own words may hold the address
        raise StoreError(type(cause).__name__) from None
