"""Single flight: identical calls that are under way at the same time are one execution, which all of them read."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, NamedTuple, TypeVar

from apps.models.cache.entry import Entry, Facts
from apps.models.cache.question import Question
from apps.models.cache.response_cache import Found, ResponseCache, Search
from apps.models.recording import Recording

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
