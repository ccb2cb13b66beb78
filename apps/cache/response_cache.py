"""The response cache: looks answers up and stores them. Executes nothing."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from apps.cache import semantic
from apps.cache.entry import CacheKey, CorruptEntry, Entry, decode, encode
from apps.cache.semantic import SemanticIndex
from apps.cache.store import Store
from apps.core.ports import Observation

log = logging.getLogger(__name__)

LARGEST = 8 * 1024 * 1024
CLOSING_SECONDS = 2.0


@dataclass(slots=True)
class Counts:
    """What the cache did since the start, for metrics."""

    hits: int = 0
    semantic: int = 0
    joined: int = 0
    misses: int = 0
    kept: int = 0
    too_large: int = 0
    corrupt: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored answer; ``score`` is the cosine of the two questions, of a semantic hit."""

    entry: Entry
    use: Literal["hit", "semantic"]
    age: float
    score: float | None = None


@dataclass(slots=True)
class Lookup:
    """The result of a lookup; with the ``vector`` of the question, so that it is computed once a call."""

    found: Stored | None = None
    vector: "semantic.Vector | None" = None


class ResponseCache:
    """``ttl`` seconds is how long an answer is stored where its caller sets no other time."""

    def __init__(
        self,
        store: Store,
        ttl: float,
        semantic: SemanticIndex | None = None,
        largest: int = LARGEST,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.ttl = ttl
        self.semantic = semantic
        self.counts = Counts()
        self._largest = largest
        self._clock = clock
        self._keeping = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def storage_failures(self) -> int:
        """How often the storage failed."""
        return int(getattr(self.store, "failures", 0))

    def observations(self) -> Iterator[Observation]:
        """What `Counts` counts, and how often the storage failed."""
        for name, value in asdict(self.counts).items():
            labels = {"event": name}
            yield Observation("genai_cache_events_total", "What the response cache did", value, "counter", labels)
        text = "Times that the store of the response cache could not be asked"
        yield Observation("genai_cache_storage_failures_total", text, self.storage_failures, "counter")

    async def start(self) -> None:
        await self.store.start()

    async def aclose(self) -> None:
        """Close the storage, after what is being stored."""
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            log.warning("The cache was closed before everything was in it")
        await self.store.aclose()

    async def lookup(self, key: CacheKey) -> Lookup:
        """The answer under this key, or the one to the most similar question where the caller allows those."""
        found = await self.exact(key)
        if found is not None:
            return Lookup(found)
        if key.similar is None or self.semantic is None:
            return Lookup()
        vector = await self.semantic.vector_of(key.similar.text)
        return Lookup() if vector is None else Lookup(await self._nearest(key, vector), vector)

    async def exact(self, key: CacheKey) -> Stored | None:
        """The answer under this key."""
        entry = await self._entry(key.digest)
        if entry is None or not self._fresh(entry, key):
            return None
        self.counts.hits += 1
        return Stored(entry, "hit", self._age(entry))

    async def put(self, key: CacheKey, entry: Entry, vector: "semantic.Vector | None" = None) -> None:
        """Store a whole answer, unless it is too large."""
        if not key.control.store:
            return
        if sum(map(len, entry.frames)) > self._largest:
            self.counts.too_large += 1
            return
        self._keeping += 1
        self._idle.clear()
        try:
            await self.store.set(key.digest, encode(entry, key.digest), key.ttl)
        finally:
            self._keeping -= 1
            if not self._keeping:
                self._idle.set()
        self.counts.kept += 1
        if self.semantic is not None and key.similar is not None and vector is not None:
            self.semantic.add(key.similar.scope, key.digest, vector, key.similar.text, key.ttl)

    async def _nearest(self, key: CacheKey, vector: "semantic.Vector") -> Stored | None:
        if self.semantic is None or key.similar is None:
            return None
        alike = key.similar
        for digest, score in self.semantic.nearest(alike.scope, vector, alike.text, alike.least):
            entry = await self._entry(digest)
            if entry is None:
                self.semantic.forget(alike.scope, digest)
            elif self._fresh(entry, key):
                self.counts.semantic += 1
                return Stored(entry, "semantic", self._age(entry), score)
        return None

    async def _entry(self, digest: bytes) -> Entry | None:
        raw = await self.store.get(digest)
        if raw is None:
            return None
        try:
            return decode(raw, digest)
        except CorruptEntry:
            self.counts.corrupt += 1
            return None

    def _fresh(self, entry: Entry, key: CacheKey) -> bool:
        return self._age(entry) < key.ttl

    def _age(self, entry: Entry) -> float:
        return max(0.0, self._clock() - entry.made_at)
