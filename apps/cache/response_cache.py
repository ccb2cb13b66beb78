"""The response cache itself: finds an answer that was kept for a question, and keeps one. Executes nothing.

Single flight: identical calls that are under way at the same time are one execution, which all of them read.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from apps.cache.entry import CorruptEntry, Entry, decode, encode
from apps.cache.question import Question
from apps.cache.semantic import SemanticIndex
from apps.cache.store import Store
from apps.core.ports import Observation

if TYPE_CHECKING:
    from apps.cache.semantic import Vector
from collections.abc import Awaitable
from typing import Any, Generic, NamedTuple, TypeVar

from apps.cache.entry import Facts
from apps.models.recording import Recording

log = logging.getLogger(__name__)

LARGEST = 8 * 1024 * 1024
CLOSING_SECONDS = 2.0


@dataclass(slots=True)
class Counts:
    """What the cache did since the start, for whoever reports it."""

    hits: int = 0
    semantic: int = 0
    joined: int = 0
    misses: int = 0
    kept: int = 0
    too_large: int = 0
    corrupt: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """``score`` is the cosine of the two questions, of a semantic hit."""

    entry: Entry
    use: Literal["hit", "semantic"]
    age: float
    score: float | None = None


@dataclass(slots=True)
class Search:
    """What a search came to; the ``vector`` of the question is kept, so that it is made once a call."""

    found: Found | None = None
    vector: "Vector | None" = None


class ResponseCache:
    """``ttl`` seconds is how long an answer is kept where its caller does not say."""

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
        """How often the store could not be asked."""
        return int(getattr(self.store, "failures", 0))

    def observations(self) -> Iterator[Observation]:
        """For whoever scrapes: what `Counts` counts, and how often the store failed."""
        for name, value in asdict(self.counts).items():
            labels = {"event": name}
            yield Observation("genai_cache_events_total", "What the response cache did", value, "counter", labels)
        text = "Times that the store of the response cache could not be asked"
        yield Observation("genai_cache_storage_failures_total", text, self.storage_failures, "counter")

    async def start(self) -> None:
        await self.store.start()

    async def aclose(self) -> None:
        """What is being kept just now may get there."""
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            log.warning("The cache was closed before everything was in it")
        await self.store.aclose()

    async def find(self, question: Question) -> Search:
        """The answer to the same question, or to the nearest one where the caller's key takes those."""
        found = await self.exact(question)
        if found is not None:
            return Search(found)
        if question.alike is None or self.semantic is None:
            return Search()
        vector = await self.semantic.vector_of(question.alike.text)
        return Search() if vector is None else Search(await self._nearest(question, vector), vector)

    async def exact(self, question: Question) -> Found | None:
        """The answer to the same question."""
        entry = await self._entry(question.digest)
        if entry is None or not self._fresh(entry, question):
            return None
        self.counts.hits += 1
        return Found(entry, "hit", self._age(entry))

    async def keep(self, question: Question, entry: Entry, vector: "Vector | None" = None) -> None:
        """Keep a whole answer, unless it is too large."""
        if not question.wishes.keep:
            return
        if sum(map(len, entry.frames)) > self._largest:
            self.counts.too_large += 1
            return
        self._keeping += 1
        self._idle.clear()
        try:
            await self.store.set(question.digest, encode(entry, question.digest), question.ttl)
        finally:
            self._keeping -= 1
            if not self._keeping:
                self._idle.set()
        self.counts.kept += 1
        if self.semantic is not None and question.alike is not None and vector is not None:
            self.semantic.add(question.alike.scope, question.digest, vector, question.alike.text, question.ttl)

    async def _nearest(self, question: Question, vector: "Vector") -> Found | None:
        if self.semantic is None or question.alike is None:
            return None
        alike = question.alike
        for digest, score in self.semantic.nearest(alike.scope, vector, alike.text, alike.least):
            entry = await self._entry(digest)
            if entry is None:
                self.semantic.forget(alike.scope, digest)
            elif self._fresh(entry, question):
                self.counts.semantic += 1
                return Found(entry, "semantic", self._age(entry), score)
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

    def _fresh(self, entry: Entry, question: Question) -> bool:
        return self._age(entry) < question.ttl

    def _age(self, entry: Entry) -> float:
        return max(0.0, self._clock() - entry.made_at)


R = TypeVar("R", bound=Recording[Any])
Frames = Callable[[R], list[bytes]]
# adds the items; tells what is known of the answer, None where it must not be kept
Execute = Callable[[R], Awaitable[Facts | None]]


class Flight(NamedTuple, Generic[R]):
    """An execution that a caller reads: its own (``begun_here``), or one that it has joined."""

    recording: R
    begun_here: bool


class Flights(Generic[R]):
    """``frames`` makes of a whole recording what the cache keeps."""

    def __init__(self, cache: ResponseCache, make: Callable[[], R], frames: Frames[R]) -> None:
        self._cache = cache
        self._make = make
        self._frames = frames
        self._under_way: dict[bytes, R] = {}
        self._ended = 0

    async def answer(self, question: Question, execute: Execute[R]) -> Found | Flight[R]:
        """What was kept, or the flight that makes it: one that is under way, or a new one by ``execute``."""
        if not question.wishes.look:
            return Flight(self._begin(question, Search(), execute, alone=True), begun_here=True)
        joined = self._join(question)
        if joined is not None:
            return joined
        ended = self._ended
        search = await self._cache.find(question)
        if search.found is None and self._ended != ended:
            # one that ended meanwhile may have kept the answer behind our back
            search = Search(await self._cache.exact(question), search.vector)
        if search.found is not None:
            return search.found
        # and one may have begun meanwhile
        return self._join(question) or Flight(self._begin(question, search, execute), begun_here=True)

    def _join(self, question: Question) -> Flight[R] | None:
        recording = self._under_way.get(question.flight)
        if recording is None or recording.given_up or recording.error is not None:
            return None
        self._cache.counts.joined += 1
        return Flight(recording, begun_here=False)

    def _begin(self, question: Question, search: Search, execute: Execute[R], *, alone: bool = False) -> R:
        """``alone``: nobody may join what its caller wants made anew."""
        self._cache.counts.misses += 1
        recording = self._make()
        if not alone:
            self._under_way[question.flight] = recording
        recording.begin(
            self._fly(recording, question, search, execute), lambda ended: self._land(question.flight, ended)
        )
        return recording

    async def _fly(self, recording: R, question: Question, search: Search, execute: Execute[R]) -> None:
        facts = await execute(recording)
        if facts is not None and recording.whole and recording.items:
            entry = Entry(facts, self._frames(recording), time.time())
            await self._cache.keep(question, entry, search.vector)

    def _land(self, name: bytes, recording: R) -> None:
        self._ended += 1
        if self._under_way.get(name) is recording:
            del self._under_way[name]
