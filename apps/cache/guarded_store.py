"""A store that may fail or fall silent, behind a breaker: nobody waits for it twice, and nobody sees an error.

While it is broken every look is a miss at once. A task asks it now and then and lets it back in, so that no call has
to be the one who tries.
"""

import asyncio
import logging
import time

from apps.cache.store import RemoteStore, StoreError

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
            self._probing.cancel()
            await asyncio.wait({self._probing})
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
                    # connections from before the failure may hold answers to what nobody waits for any more
                    await self._inner.start()
                    await self._inner.ping()
            except (StoreError, TimeoutError):
                self.failures += 1
            else:
                self.broken = False
                log.info("The cache in %s is back", self._name)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
