"""The response cache: looks answers up, by their question or by one that is near in meaning, and stores them.

It executes nothing. Which kept question is nearest in meaning is said by vectors by scope, in this process's memory,
bounded in bytes.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from apps.cache.entry import CacheKey, CorruptEntry, Entry, decode, encode
from apps.cache.store import Store
from apps.cache.wording import in_latin_script, may_mean_the_same
from apps.core.errors import AppError, InvalidValue
from apps.core.ports import Embedder, KnowsWords, Observation
from apps.core.process import import_once

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

log = logging.getLogger(__name__)

MOST_BYTES = 32 * 1024 * 1024
BYTES_A_VALUE = 4
# a vector has its digest and its places in two containers beside it; a text has at most four bytes a character
OVERHEAD = 400
BYTES_A_CHARACTER = 4
# the embedder works on one call after another, and a long one must not keep a chat waiting
LONGEST = 0.5
MOST_CHARACTERS = 2_000
# two texts take up to a millisecond or so, on the event loop
MOST_COMPARED = 20


@dataclass(slots=True)
class _Kept:
    text: str
    expires: float
    vector: "Vector"


@dataclass(slots=True)
class _Scope:
    kept: OrderedDict[bytes, _Kept] = field(default_factory=OrderedDict)
    digests: list[bytes] = field(default_factory=list)
    matrix: Any = None


class SemanticIndex:
    """Knows digests of questions, never answers. ``size`` in bytes, about; ``too_slow`` counts texts given up on."""

    def __init__(
        self, embedder: Embedder, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._embedder = embedder
        self._most_bytes = most_bytes
        self._clock = clock
        self._scopes: OrderedDict[bytes, _Scope] = OrderedDict()
        self._warned = False
        self._each = embedder.dimensions * BYTES_A_VALUE * 2 + OVERHEAD
        self.size = 0
        self.too_slow = 0

    async def vector_of(self, text: str) -> "Vector | None":
        """Off the event loop. None where there is none to be had, soon: then only exact matches count."""
        if len(text) > MOST_CHARACTERS or not text.strip() or not self._has_embedder():
            return None
        try:
            async with asyncio.timeout(LONGEST):
                if await self._is_blind_to(text):
                    return None
                vectors = await self._embedder.embed([text])
        except InvalidValue:
            return None
        except TimeoutError:
            self.too_slow += 1
            return None
        except AppError as error:
            self._warn(error.message)
            return None
        vector: Vector = import_once(load_numpy).asarray(vectors[0], dtype="float32")
        return vector

    def nearest(self, scope: bytes, vector: "Vector", text: str, least: float) -> list[tuple[bytes, float]]:
        """Digests of kept questions that are at least so near, the nearest first."""
        np = import_once(load_numpy)
        known = self._scopes.get(scope)
        if known is None:
            return []
        self._scopes.move_to_end(scope)
        if known.matrix is None:
            known.digests = list(known.kept)
            known.matrix = np.stack([kept.vector for kept in known.kept.values()])
        cosines, now = known.matrix @ vector, self._clock()
        near = [(known.digests[i], min(1.0, float(cosines[i]))) for i in np.flatnonzero(cosines >= least)]
        near = sorted(near, key=lambda pair: -pair[1])[:MOST_COMPARED]
        return [(digest, score) for digest, score in near if self._may_answer(known.kept[digest], text, now)]

    def add(self, scope: bytes, digest: bytes, vector: "Vector", text: str, ttl: float) -> None:
        self.forget(scope, digest)
        known = self._scopes.setdefault(scope, _Scope())
        self._scopes.move_to_end(scope)
        known.kept[digest] = _Kept(text, self._clock() + ttl, vector)
        known.matrix = None
        self.size += self._each + BYTES_A_CHARACTER * len(text)
        while self.size > self._most_bytes:
            oldest = next(iter(self._scopes))
            self.forget(oldest, next(iter(self._scopes[oldest].kept)))

    def forget(self, scope: bytes, digest: bytes) -> None:
        """Its answer is gone."""
        known = self._scopes.get(scope)
        kept = known.kept.pop(digest, None) if known is not None else None
        if known is None or kept is None:
            return
        self.size -= self._each + BYTES_A_CHARACTER * len(kept.text)
        known.matrix = None
        if not known.kept:
            del self._scopes[scope]

    async def _is_blind_to(self, text: str) -> bool:
        """Whether the embedder has a vocabulary, and the text has letters or signs that are not in it."""
        if not isinstance(self._embedder, KnowsWords):
            return False
        if not in_latin_script(text):
            return True
        [unknown] = await self._embedder.unknown_shares([text])
        return unknown > 0

    def _may_answer(self, kept: _Kept, text: str, now: float) -> bool:
        return kept.expires > now and may_mean_the_same(text, kept.text)

    def _has_embedder(self) -> bool:
        readiness = self._embedder.readiness()
        if readiness.state != "ready":
            self._warn(readiness.reason)
        return readiness.state == "ready"

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("A key asks for the semantic cache and gets exact matches only: %s", reason)


def load_numpy() -> ModuleType:
    """With the first vector: a cache of exact matches does not need it."""
    import numpy

    return numpy


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
    vector: "Vector | None" = None


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

    async def put(self, key: CacheKey, entry: Entry, vector: "Vector | None" = None) -> None:
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

    async def _nearest(self, key: CacheKey, vector: "Vector") -> Stored | None:
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
