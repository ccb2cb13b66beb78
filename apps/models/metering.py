"""The meter: every call for a model opens and closes its record here, once, whatever becomes of it."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType

from apps.core.calls import DISCONNECTED, Bookkeeper, CallRecord
from apps.core.deltas import Delta, Usage
from apps.core.errors import AppError, InternalError
from apps.core.messages import ChatRequest
from apps.core.ports import ChatModel
from apps.core.pricing import ASSUMED_ANSWER, Price, cost
from apps.models.wrapper import WrapperModel

CHARACTERS_PER_TOKEN = 4
# the most that a call of a model may cost, by the name that its caller gave; None where nobody knows
PriceOf = Callable[[str | None], Price | None]
# what is answered in these ways has been paid for already
PAID_BEFORE = frozenset({"hit", "semantic", "replay"})

log = logging.getLogger(__name__)


class Meter:
    """Tells the bookkeepers of each call, in their order at its beginning and in the reverse order at its end."""

    def __init__(self, books: Sequence[Bookkeeper] = ()) -> None:
        self._books = tuple(books)

    def call(self, record: CallRecord) -> "MeteredCall":
        """``async with meter.call(record) as call``: the block is the call."""
        return MeteredCall(self._books, record)


class MeteredCall:
    """The span of one call. An error that leaves the block becomes the record's outcome."""

    __slots__ = ("_books", "_open", "_started", "record")

    def __init__(self, books: Sequence[Bookkeeper], record: CallRecord) -> None:
        self._books = books
        self._open: list[Bookkeeper] = []
        self._started = time.perf_counter()
        self.record = record

    async def __aenter__(self) -> "MeteredCall":
        try:
            for book in self._books:
                await book.opening(self.record)
                self._open.append(book)
        except BaseException as error:
            self._close(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(error)

    def first_token(self) -> None:
        """Note the time; later tokens change nothing."""
        if self.record.first_token is None:
            self.record.first_token = time.perf_counter() - self._started

    @property
    def closed(self) -> bool:
        """Whether the record is as it will be."""
        return not self._open

    def finish(self) -> None:
        """The answer is whole: close the record now, whatever may still happen to those who carry it away."""
        self._close(None)

    def _close(self, error: BaseException | None) -> None:
        if not self._open:
            return
        self.record.duration = time.perf_counter() - self._started
        if error is not None:
            self.record.outcome = outcome_of(error)
        books, self._open = self._open, []
        for book in reversed(books):
            try:
                book.closing(self.record)
            except Exception:
                log.exception("A bookkeeper failed at the end of a call: %s", type(book).__name__)


def outcome_of(error: BaseException) -> str:
    """A code of the error tree; a call that was cancelled or closed early lost its client."""
    if isinstance(error, AppError):
        return error.code
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return DISCONNECTED
    return InternalError.code


class MeteredModel(WrapperModel):
    """A ChatModel each call of which is on record under ``route``; ``price`` is for what tells no cost of its own."""

    def __init__(self, inner: ChatModel, meter: Meter, route: str, price: PriceOf | None = None) -> None:
        super().__init__(inner)
        self.route = route
        self._meter = meter
        self._price = price or (lambda _: None)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        async with aclosing(self.made(request, self.new_record(request))) as deltas:
            async for delta in deltas:
                yield delta

    async def made(self, request: ChatRequest, record: CallRecord) -> AsyncGenerator[Delta, None]:
        """The deltas of a call that is made now, with this record."""
        pieces = 0
        asked = replace(request, record=record)
        async with self._meter.call(record) as call, aclosing(self.inner.stream(asked)) as deltas:
            try:
                async for delta in deltas:
                    if delta.text or delta.tool_calls:
                        pieces += 1
                        call.first_token()
                    if not call.closed:
                        note_delta(record, delta)
                    if delta.finish_reason is not None:
                        self._reckon(record, request, pieces)
                        call.finish()
                    yield delta
            finally:
                if not call.closed:
                    self._reckon(record, request, pieces)

    async def given(self, record: CallRecord, source: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
        """Deltas that were made before, as a call with a record of its own; they are closed with it."""
        # closed also where the call is refused
        async with aclosing(source) as deltas, self._meter.call(record) as call:
            async for delta in deltas:
                if delta.text or delta.tool_calls:
                    call.first_token()
                if not call.closed:
                    note_delta(record, delta)
                if delta.finish_reason is not None:
                    call.finish()
                yield delta

    def new_record(self, request: ChatRequest) -> CallRecord:
        """The record of a call that is about to be made, or to be answered without being made."""
        prompt = _prompt_tokens(request)
        record = CallRecord(
            request.caller,
            self.route,
            request.model or "",
            streamed=request.streamed,
            estimated_tokens=prompt + (request.max_tokens or 0),
        )
        if request.caller.budget is not None:
            price = self._price(request.model)
            most = request.max_tokens or ASSUMED_ANSWER
            record.estimated_cost = None if price is None else cost(price, prompt, most)
        return record

    def _reckon(self, record: CallRecord, request: ChatRequest, pieces: int) -> None:
        """Tokens that nobody told are the prompt's length and the pieces that came; so is a cost."""
        if record.prompt_tokens is None and pieces:
            record.prompt_tokens, record.completion_tokens = _prompt_tokens(request), pieces
            record.estimated = True
        if record.cost is None and record.prompt_tokens is not None:
            price = self._price(request.model)
            record.cost = None if price is None else cost(price, record.prompt_tokens, record.completion_tokens or 0)


def _prompt_tokens(request: ChatRequest) -> int:
    return sum(len(m.content) for m in request.messages if isinstance(m.content, str)) // CHARACTERS_PER_TOKEN


def note_delta(record: CallRecord, delta: Delta) -> None:
    """Take from a delta what it tells of the call as a whole."""
    if delta.model is not None:
        record.model = delta.model
    if delta.usage is not None:
        note_usage(record, delta.usage)


def note_usage(record: CallRecord, usage: Usage) -> None:
    record.prompt_tokens, record.completion_tokens = usage.prompt_tokens, usage.completion_tokens
    record.cached_tokens = usage.cached_tokens
    if record.cache in PAID_BEFORE:
        record.cost = 0.0
        record.saved = record.saved if usage.cost is None else usage.cost
    else:
        record.cost = usage.cost
