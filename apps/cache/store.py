"""Stores: where entries lie. Bytes in, the same bytes out, or nothing; none of them unpickles anything.

Entries in this process's memory, bounded in bytes; the least recently used are forgotten first.

cashews bounds its memory by the number of entries, whatever their size.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

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
