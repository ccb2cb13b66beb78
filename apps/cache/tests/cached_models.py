"""A model with the cache in front of it, and a bookkeeper that remembers."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from apps.cache.front import CachedModel, CacheFront
from apps.cache.response_cache import ResponseCache
from apps.cache.store import MemoryStore
from apps.core.callers import Caller
from apps.core.calls import CallRecord, Usage
from apps.core.deltas import Delta
from apps.core.messages import ChatRequest, user_message
from apps.models.metering import Meter, MeteredModel
from apps.models.scripted import ScriptedModel, Step

A = Caller("a", "key-1")
END = Delta(finish_reason="stop", usage=Usage(5, 2, 1, 0.25), model="m")
ANSWER: list[Step] = [Delta("one", model="m"), 0.02, Delta(" two\r\n", model="m"), END]


@dataclass(slots=True)
class Books:
    """A bookkeeper that remembers."""

    opened: list[CallRecord] = field(default_factory=list)
    closed: list[CallRecord] = field(default_factory=list)

    async def opening(self, call: CallRecord) -> None:
        self.opened.append(replace(call))

    def closing(self, call: CallRecord) -> None:
        self.closed.append(call)


@dataclass(slots=True)
class Rig:
    model: ScriptedModel
    books: Books
    cache: ResponseCache
    cached: CachedModel

    async def ask(self, **fields: Any) -> list[Delta]:
        return [delta async for delta in self.cached.stream(request(**fields))]

    async def ask_and_settle(self, **fields: Any) -> list[Delta]:
        """`ask`, and wait until the answer has been kept, where it is."""
        answer = await self.ask(**fields)
        await asyncio.sleep(0.01)
        return answer


def request(text: str = "hi", **fields: Any) -> ChatRequest:
    return ChatRequest(user_message(text), **{"temperature": 0.0, "caller": A, **fields})


def rig(
    script: Sequence[Step] = ANSWER,
    store: MemoryStore | None = None,
    largest: int = 10_000,
    books: Books | None = None,
) -> Rig:
    model, books = ScriptedModel(lambda request: script), books or Books()
    cache = ResponseCache(MemoryStore(1_000_000) if store is None else store, 60, largest=largest)
    return Rig(model, books, cache, cached_model(MeteredModel(model, Meter([books]), "/generate"), cache))


def cached_model(metered: MeteredModel, cache: ResponseCache) -> CachedModel:
    return CachedModel(metered, CacheFront(cache, metered.meter))


def len_of(cache: ResponseCache) -> int:
    assert isinstance(cache.store, MemoryStore)
    return len(cache.store)
