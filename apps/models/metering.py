"""The meter: every call for a model opens and closes its record here, once, whatever becomes of it."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TypeVar

import anyio

from apps.core.calls import ASSUMED_ANSWER, CUT_OFF, DISCONNECTED, Bookkeeper, CallRecord, Price, Usage, cost, priced
from apps.core.deltas import Delta, Forwarded
from apps.core.errors import AppError, InternalError
from apps.core.messages import ChatRequest
from apps.core.ports import ChatModel, WrapperModel

CHARACTERS_PER_TOKEN = 4
# the highest price of a model, by the name that its caller gives; None where it is not known
PriceOf = Callable[[str | None], Price | None]

T = TypeVar("T")
log = logging.getLogger(__name__)


class Meter:
    """Opens and closes each call with the bookkeepers, in their order at its beginning and in reverse at its end."""

    def __init__(self, bookkeepers: Sequence[Bookkeeper] = ()) -> None:
        self._bookkeepers = tuple(bookkeepers)

    def call(self, record: CallRecord) -> "MeteredCall":
        """``async with meter.call(record) as call``: the block is the call."""
        return MeteredCall(self._bookkeepers, record)


class MeteredCall:
    """The span of one call. An error that leaves the block becomes the record's outcome."""

    __slots__ = ("_bookkeepers", "_open", "_started", "record")

    def __init__(self, bookkeepers: Sequence[Bookkeeper], record: CallRecord) -> None:
        self._bookkeepers = bookkeepers
        self._open: list[Bookkeeper] = []
        self._started = time.perf_counter()
        self.record = record

    async def __aenter__(self) -> "MeteredCall":
        try:
            for bookkeeper in self._bookkeepers:
                await bookkeeper.opening(self.record)
                self._open.append(bookkeeper)
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
        """Whether the record is final."""
        return not self._open

    def finish(self) -> None:
        """Close the record: the answer is whole, whatever may still happen on its way to the client."""
        self._close(None)

    def _close(self, error: BaseException | None) -> None:
        if not self._open:
            return
        self.record.duration = time.perf_counter() - self._started
        if error is not None:
            self.record.outcome = outcome_of(error)
            if not self.record.queued and self.record.usage is None:
                # no queue has let it in, so it never came as far as a model and nobody bills it
                self.record.estimated_cost = 0.0
        bookkeepers, self._open = self._open, []
        for bookkeeper in reversed(bookkeepers):
            try:
                bookkeeper.closing(self.record)
            except Exception:
                log.exception("A bookkeeper failed at the end of a call: %s", type(bookkeeper).__name__)


def outcome_of(error: BaseException) -> str:
    """A code of the error tree; of a call that was cancelled or closed early, one of CUT_OFF.

    The cancellation's message says which: ``task.cancel(SHUT_DOWN)``. Without one the call lost its client.
    """
    if isinstance(error, AppError):
        return error.outcome or error.code
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        message = error.args[0] if error.args else None
        return message if isinstance(message, str) and message in CUT_OFF else DISCONNECTED
    return InternalError.code


async def cut_off_with(work: Awaitable[T], outcome: Callable[[asyncio.CancelledError], str | None]) -> T:
    """The result of ``work``, in a task of its own that a cancellation ends with ``outcome``, one of CUT_OFF.

    For what runs beneath cancel scopes of anyio: they cancel without a word of what ended them.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError as error:
        task.cancel(outcome(error))
        # a scope would cancel again in each turn of the loop
        with anyio.CancelScope(shield=True):
            while not task.done():
                try:
                    await asyncio.wait([task])
                except asyncio.CancelledError as another:
                    task.cancel(outcome(another))
        if not task.cancelled():
            task.exception()
        raise
    return task.result()


class MeteredModel(WrapperModel):
    """A ChatModel each call of which is on record, under the record's route or else ``route``.

    ``price`` is for answers that report no cost. ``provider`` is noted where no gateway notes who answers: each call
    is one attempt then.
    """

    def __init__(
        self, inner: ChatModel, meter: Meter, route: str, price: PriceOf | None = None, provider: str = ""
    ) -> None:
        super().__init__(inner)
        self.route = route
        self.meter = meter
        self._price = price or (lambda _: None)
        self._provider = provider

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        record = request.record
        if record is None:
            record = self.new_record(request)
            request = replace(request, record=record)
        pieces = 0
        async with self.meter.call(record) as call:
            record.attempts += bool(self._provider)
            async with Forwarded(self.inner.stream(request)) as deltas:
                try:
                    async for delta in deltas:
                        if self._provider:
                            record.provider = self._provider
                        if delta.text or delta.tool_calls:
                            pieces += 1
                            call.first_token()
                        if not call.closed:
                            note_delta(record, delta)
                        if delta.finish_reason is not None:
                            self._settle(record, request, pieces)
                            call.finish()
                        yield delta
                finally:
                    if not call.closed:
                        self._settle(record, request, pieces)

    def new_record(self, request: ChatRequest, route: str = "") -> CallRecord:
        """The record of a call that is about to be made, or to be answered without being made."""
        prompt = _prompt_tokens(request)
        record = CallRecord(
            request.caller,
            route or self.route,
            request.model or "",
            streamed=request.streamed,
            estimated_tokens=prompt + (request.max_tokens or 0),
        )
        if request.caller.budget is not None:
            price = self._price(request.model)
            most = request.max_tokens or ASSUMED_ANSWER
            record.estimated_cost = None if price is None else cost(price, prompt, most)
        return record

    def _settle(self, record: CallRecord, request: ChatRequest, pieces: int) -> None:
        """Estimate what the answer does not report: tokens by the prompt's length and the pieces, cost by the price."""
        usage = record.usage
        if usage is None and pieces:
            usage = Usage(_prompt_tokens(request), pieces, estimated=True)
        if usage is not None and usage.cost is None:
            usage = priced(usage, self._price(request.model))
        record.usage = usage


def _prompt_tokens(request: ChatRequest) -> int:
    return sum(len(m.content) for m in request.messages if isinstance(m.content, str)) // CHARACTERS_PER_TOKEN


def note_delta(record: CallRecord, delta: Delta) -> None:
    """Take from a delta what it says of the call as a whole."""
    if delta.model is not None:
        record.model = delta.model
    if delta.usage is not None:
        record.usage = delta.usage
