"""The cache as a wrapper: deltas that were kept, deltas of a call that is under way, or deltas made now.

It wraps the meter, so that an execution is on one record however many read it, and whoever leaves; each of the others
is a call of its own on record, that cost nothing.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal

from apps.cache.entry import CorruptEntry, Facts, delta_of, frame_of
from apps.cache.question import Asked, Question, question, without_last_user_text
from apps.cache.response_cache import Flights, Found, ResponseCache
from apps.core.calls import CallRecord
from apps.core.deltas import CacheNote, Delta
from apps.core.messages import ChatRequest, Message
from apps.models.metering import MeteredModel
from apps.models.recording import ITEMS_A_TURN, Recording
from apps.models.wrapper import WrapperModel

UNSENT = frozenset({"caller", "cache", "messages", "streamed", "record"})
FIELDS = tuple(name for name in ChatRequest.__dataclass_fields__ if name not in UNSENT)
MISS = CacheNote("miss")


class DeltaRecording(Recording[Delta]):
    """An answer as deltas; ``made`` is the record of its execution."""

    made: CallRecord | None = None

    def is_last(self, item: Delta) -> bool:
        return item.finish_reason is not None

    def size_of(self, item: Delta) -> int:
        return len(item.text) + len(item.reasoning)


class CachedModel(WrapperModel):
    """Caches what is deterministic (temperature 0, or a seed), and what a caller asks to be cached."""

    def __init__(self, inner: MeteredModel, cache: ResponseCache) -> None:
        super().__init__(inner)
        self._metered = inner
        self._cache = cache
        self._flights = Flights(cache, DeltaRecording, lambda made: [frame_of(delta) for delta in made.items])

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        asked = self._question(request)
        deltas, note = (self.inner.stream(request), MISS) if asked is None else await self._answer(request, asked)
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta if note is None else replace(delta, cache=note)
                note = None

    async def _answer(
        self, request: ChatRequest, asked: Question
    ) -> tuple[AsyncGenerator[Delta, None], CacheNote | None]:
        async def execute(recording: DeltaRecording) -> Facts | None:
            facts = await self._execute(request, recording)
            return facts if self.revision(request) == asked.revision else None

        answer = await self._flights.answer(asked, execute)
        if isinstance(answer, Found):
            return await self._replay(request, answer)
        made = answer.recording
        if answer.begun_here:
            return made.read(None), MISS
        record = self._free_record(request, "hit")

        def note() -> None:
            if made.made is not None:
                _note(record, _facts(made.made))

        return self._metered.given(record, made.read(None, note)), CacheNote("hit", 0.0)

    async def _replay(self, request: ChatRequest, found: Found) -> tuple[AsyncGenerator[Delta, None], CacheNote | None]:
        try:
            deltas = await _read(found)
        except CorruptEntry:
            self._cache.counts.corrupt += 1
            return self.inner.stream(request), MISS
        record = self._free_record(request, found.use)
        _note(record, found.entry.facts)
        return self._metered.given(record, _replayed(deltas)), CacheNote(found.use, found.age, found.score)

    async def _execute(self, request: ChatRequest, recording: DeltaRecording) -> Facts | None:
        record = self._metered.new_record(request)
        record.cache = "miss"
        recording.made = record
        async with aclosing(self._metered.made(request, record)) as deltas:
            async for delta in deltas:
                recording.add(delta)
        return _facts(record) if recording.whole else None

    def _free_record(self, request: ChatRequest, use: Literal["hit", "semantic"]) -> CallRecord:
        record = self._metered.new_record(request)
        record.cache = use
        record.estimated_tokens, record.estimated_cost, record.cost = 0, 0.0, 0.0
        return record

    def _question(self, request: ChatRequest) -> Question | None:
        """None where the answer is neither looked for nor kept."""
        wishes = request.cache
        deterministic = request.temperature == 0 or request.seed is not None
        if not (wishes.look or wishes.keep) or not (deterministic or wishes.ttl is not None):
            return None
        revision = self.revision(request)
        if revision is None:
            return None
        ttl, route = self._cache.ttl, self._metered.route
        return question(route, _asked(request), revision, request.caller, wishes, ttl, without_last_user_text)


def _facts(made: CallRecord) -> Facts:
    tokens = (made.prompt_tokens, made.completion_tokens, made.cached_tokens, made.estimated)
    return Facts("", made.model, made.provider, *tokens, made.cost)


def _note(record: CallRecord, facts: Facts) -> None:
    """What the answer was and had cost; its usage, where it has one, says the same again."""
    record.model, record.provider, record.saved = facts.model, facts.provider, facts.cost or 0.0
    record.prompt_tokens, record.completion_tokens = facts.prompt_tokens, facts.completion_tokens
    record.cached_tokens, record.estimated = facts.cached_tokens, facts.estimated


async def _read(found: Found) -> list[Delta]:
    """Raises CorruptEntry."""
    deltas = []
    for number, frame in enumerate(found.entry.frames, 1):
        deltas.append(delta_of(frame))
        if number % ITEMS_A_TURN == 0:
            await asyncio.sleep(0)
    if not deltas or deltas[-1].finish_reason is None:
        raise CorruptEntry("not a whole answer")
    return deltas


async def _replayed(deltas: list[Delta]) -> AsyncGenerator[Delta, None]:
    for number, delta in enumerate(deltas, 1):
        if number % ITEMS_A_TURN == 0:
            await asyncio.sleep(0)
        yield delta


def _asked(request: ChatRequest) -> Asked:
    fields: dict[str, Any] = {name: getattr(request, name) for name in FIELDS}
    return {**fields, "messages": [_message(message) for message in request.messages]}


def _message(message: Message) -> dict[str, Any]:
    calls = [[call.id, call.name, call.arguments] for call in message.tool_calls]
    return {
        "role": message.role,
        "content": message.content,
        "tool_calls": calls,
        "tool_call_id": message.tool_call_id,
        "name": message.name,
        "reasoning": message.reasoning,
    }
