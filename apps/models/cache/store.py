"""Stores: where entries lie. Bytes in, the same bytes out, or nothing; none of them unpickles anything."""

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
