"""The cache in front of a call: items that are stored, items of an execution under way, or items made now.

An item is a delta, or a frame of bytes on /v1. Identical calls at the same time are one execution, which all of them
read (single flight). An execution is on one record however many read it or leave; each of the others is a
call of its own on record that costs nothing.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from apps.cache.entry import CacheKey, CorruptEntry, Entry, Parameters, cache_key, delta_of, frame_of
from apps.cache.response_cache import Lookup, ResponseCache, Stored
from apps.core.calls import CallRecord
from apps.core.deltas import Delta, Forwarded
from apps.core.messages import ChatRequest, Message
from apps.core.ports import WrapperModel
from apps.models.metering import Meter, MeteredModel
from apps.models.recording import ITEMS_A_TURN, Recording

T = TypeVar("T")


class Codec(Protocol[T]):
    """How the items of one kind of answer are recorded, stored and read again."""

    def recording(self, record: CallRecord) -> Recording[T]: ...

    def may_store(self, recording: Recording[T]) -> bool:
        """Whether the answer is whole, and no failure that looks like one."""

    def encode(self, item: T) -> bytes: ...

    def decode(self, frame: bytes, *, last: bool) -> T:
        """Raises CorruptEntry."""

    def sealed(self, last: T, record: CallRecord) -> T:
        """The last item of an answer, for the call with this record."""


class CacheFront:
    """Answers calls from a response cache, or executes them for all who ask the same at the same time."""

    def __init__(self, cache: ResponseCache, meter: Meter) -> None:
        self.cache = cache
        self._meter = meter
        self._under_way: dict[bytes, Recording[Any]] = {}
        self._ended_flights = 0

    async def answer(
        self,
        key: CacheKey,
        record: CallRecord,
        codec: Codec[T],
        execute: Callable[[], AsyncGenerator[T, None]],
        revision: Callable[[], str | None],
        deadline: float | None = None,
    ) -> list[T] | AsyncGenerator[T, None]:
        """A list where the answer is stored: its call is over then. Else its items as they are made.

        ``execute`` makes them, with ``record``; ``revision`` is the model's as of now. ``deadline`` is a time of the
        loop's clock, for the reading of a flight. What is returned must be closed, where it can be.
        """

        async def run_flight(recording: Recording[T], lookup: Lookup) -> None:
            async with aclosing(execute()) as items:
                async for item in items:
                    recording.add(item)
            if codec.may_store(recording) and revision() == key.revision:
                frames = [codec.encode(item) for item in recording.items]
                entry = Entry(record.model, record.provider, record.usage, frames, time.time())
                await self.cache.put(key, entry, lookup.vector)

        record.cache = "miss"
        lookup, joined = Lookup(), None
        if key.control.lookup:
            lookup, joined = await self._lookup(key)
        if lookup.found is not None:
            items = await self._replayed(lookup.found, record, codec)
            return execute() if items is None else items
        if joined is not None:
            reading = joined.read(deadline)
            record.reuse("hit", 0.0)
            return self._joined(joined, reading, record, codec)
        recording = codec.recording(record)
        if key.control.lookup:
            # an answer that its caller wants made anew is not joined
            self._under_way[key.flight] = recording
        self.cache.counts.misses += 1
        recording.begin(run_flight(recording, lookup), lambda ended: self._end_flight(key.flight, ended))
        return recording.read(deadline)

    async def _lookup(self, key: CacheKey) -> tuple[Lookup, Recording[Any] | None]:
        """The stored answer, or else the recording under way that will have it, or neither."""
        joined = self._join(key)
        if joined is not None:
            return Lookup(), joined
        ended_before = self._ended_flights
        lookup = await self.cache.lookup(key)
        if lookup.found is None and self._ended_flights != ended_before:
            # a flight that ended during the lookup may have stored the answer
            lookup = Lookup(await self.cache.exact(key), lookup.vector)
        # and one may have begun
        return lookup, None if lookup.found is not None else self._join(key)

    def _join(self, key: CacheKey) -> Recording[Any] | None:
        recording = self._under_way.get(key.flight)
        if recording is None or recording.given_up or recording.error is not None:
            return None
        self.cache.counts.joined += 1
        return recording

    def _end_flight(self, flight: bytes, recording: Recording[Any]) -> None:
        self._ended_flights += 1
        if self._under_way.get(flight) is recording:
            del self._under_way[flight]

    async def _replayed(self, stored: Stored, record: CallRecord, codec: Codec[T]) -> list[T] | None:
        """The items of a stored answer, as a call that is over at once; None where the entry is corrupt."""
        frames: Sequence[bytes] = stored.entry.frames
        items: list[T] = []
        try:
            for number, frame in enumerate(frames, 1):
                items.append(codec.decode(frame, last=number == len(frames)))
                if number % ITEMS_A_TURN == 0:
                    await asyncio.sleep(0)
        except CorruptEntry:
            items = []
        if not items:
            self.cache.counts.corrupt += 1
            return None
        record.reuse(stored.use, stored.age, stored.score)
        record.answered_as(stored.entry)
        async with self._meter.call(record) as call:
            if record.streamed:
                call.first_token()
        items[-1] = codec.sealed(items[-1], record)
        return items

    async def _joined(
        self, recording: Recording[T], items: AsyncGenerator[T, None], record: CallRecord, codec: Codec[T]
    ) -> AsyncGenerator[T, None]:
        """The items of another call's execution, as a call of its own."""
        # closed also where the call is refused
        async with Forwarded(items), self._meter.call(record) as call:
            async for item in items:
                if record.streamed:
                    call.first_token()
                if not call.closed:
                    record.answered_as(recording.record)
                if recording.is_last(item):
                    call.finish()
                    item = codec.sealed(item, record)
                yield item


async def replayed(items: list[T]) -> AsyncGenerator[T, None]:
    """The items as a stream that leaves other tasks their turns."""
    for number, item in enumerate(items, 1):
        if number % ITEMS_A_TURN == 0:
            await asyncio.sleep(0)
        yield item


class DeltaRecording(Recording[Delta]):
    """An answer as deltas."""

    def is_last(self, item: Delta) -> bool:
        return item.finish_reason is not None

    def size_of(self, item: Delta) -> int:
        return len(item.text) + len(item.reasoning)


class DeltaCodec:
    """Implements Codec for deltas."""

    def recording(self, record: CallRecord) -> DeltaRecording:
        return DeltaRecording(record)

    def may_store(self, recording: Recording[Delta]) -> bool:
        return bool(recording.items) and recording.is_last(recording.items[-1])

    def encode(self, item: Delta) -> bytes:
        return frame_of(item)

    def decode(self, frame: bytes, *, last: bool) -> Delta:
        delta = delta_of(frame)
        if last != (delta.finish_reason is not None):
            raise CorruptEntry("not a whole answer")
        return delta

    def sealed(self, last: Delta, record: CallRecord) -> Delta:
        return last


DELTAS = DeltaCodec()
UNSENT = frozenset({"caller", "cache", "messages", "streamed", "record"})
FIELDS = tuple(name for name in ChatRequest.__dataclass_fields__ if name not in UNSENT)


class CachedModel(WrapperModel):
    """A ChatModel behind the cache: what is deterministic (temperature 0, or a seed), and what its caller wants cached.

    It wraps the meter, so that each execution is on record once.
    """

    def __init__(self, inner: MeteredModel, front: CacheFront) -> None:
        super().__init__(inner)
        self._metered = inner
        self._front = front

    def new_record(self, request: ChatRequest, route: str = "") -> CallRecord:
        return self._metered.new_record(request, route)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        key = self._key(request)
        record = request.record or self.new_record(request)
        made = replace(request, record=record)
        answer: list[Delta] | AsyncGenerator[Delta, None] = (
            self.inner.stream(made)
            if key is None
            else await self._front.answer(
                key, record, DELTAS, lambda: self.inner.stream(made), lambda: self.revision(request)
            )
        )
        async with Forwarded(replayed(answer) if isinstance(answer, list) else answer) as deltas:
            async for delta in deltas:
                yield delta

    def _key(self, request: ChatRequest) -> CacheKey | None:
        """None where the answer is neither looked up nor stored."""
        control = request.cache
        deterministic = request.temperature == 0 or request.seed is not None
        if not (control.lookup or control.store) or not (deterministic or control.ttl is not None):
            return None
        revision = self.revision(request)
        if revision is None:
            return None
        ttl, route = self._front.cache.ttl, self._metered.route
        return cache_key(route, _parameters(request), revision, request.caller, control, ttl)


def _parameters(request: ChatRequest) -> Parameters:
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
