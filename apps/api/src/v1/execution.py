"""One execution of a call of /v1: on record, by whichever target the gateway finds, with a receipt."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, fields
from typing import Self

from apps.api.src.http.streaming import LastFrame
from apps.core.calls import CacheUse, CallRecord
from apps.core.errors import AppError, Timeout
from apps.gateway.gateway import Gateway
from apps.gateway.protocol import Blocks, Receipt, WireCall, WireReply
from apps.gateway.routing.attempts import Opened
from apps.gateway.routing.estimates import expected_use
from apps.gateway.routing.router import Needs
from apps.gateway.upstream.event_blocks import find_done
from apps.gateway.upstream.receipts import cost_of
from apps.gateway.upstream.response_blocks import END as RESPONSE_END
from apps.models.metering import Meter, MeteredCall

RECEIPT_FIELDS = tuple(one.name for one in fields(Receipt))


class SealedFrame(LastFrame):
    """The last frame of a relayed stream, with the receipt in it; it remembers what stands around that."""

    before: bytes
    after: bytes

    @classmethod
    def sealed(cls, before: bytes, receipt: Receipt, after: bytes) -> Self:
        frame = cls(b"".join((before, receipt_comment(receipt), after)))
        frame.before, frame.after = before, after
        return frame


@dataclass(slots=True)
class Execution:
    """``deadline`` is a time of the loop's clock. Run either `whole` or `frames`, once.

    ``cache``: whether the cache was asked first.
    """

    gateway: Gateway
    meter: Meter
    call: WireCall
    deadline: float | None = None
    receipt: Receipt = field(default_factory=Receipt)
    cache: CacheUse = "off"
    _opened: Opened[WireReply] | None = None
    _pieces: int = 0

    async def whole(self) -> WireReply:
        """The whole answer; nothing is left to close."""
        async with self.meter.call(new_record(self.call, self.cache, gateway=self.gateway)) as metered:
            try:
                self._opened = await self.gateway.open(self.call, self.receipt, self.deadline)
                return self._opened.value
            finally:
                self._note(metered.record)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The upstream's blocks as they are; the receipt goes out as a comment just before the end."""
        async with self.meter.call(new_record(self.call, self.cache, gateway=self.gateway)) as metered:
            try:
                opened = self._opened = await self.gateway.open(self.call, self.receipt, self.deadline)
                metered.first_token()
                try:
                    yield self._accounted(opened.value.body, metered)
                    blocks = opened.value.rest
                    while blocks is not None and (block := await self._next(blocks)) is not None:
                        yield self._accounted(block, metered)
                except AppError as error:
                    if not isinstance(error, Timeout) or "upstream_status" in error.details:
                        opened.broke_off(error)
                    raise
                finally:
                    await opened.close()
            finally:
                if not metered.closed:
                    self._note(metered.record)

    async def _next(self, blocks: Blocks) -> bytes | None:
        """None behind the last. Bounded here, where nothing is yielded: a timeout must not cancel who reads."""
        if self.deadline is None:
            return await anext(blocks, None)
        try:
            async with asyncio.timeout_at(self.deadline) as limit:
                return await anext(blocks, None)
        except TimeoutError:
            if not limit.expired():
                raise
            raise Timeout("The deadline ran out") from None

    def _accounted(self, block: bytes, metered: MeteredCall) -> bytes:
        """The block; the one that ends the stream has the receipt in front of its last event, and closes the books."""
        self._pieces += block.count(b"data:")
        end = _end_of_responses(block) if self.call.path == "/responses" else find_done(block)
        if end < 0:
            return block
        self._note(metered.record)
        metered.finish()
        return SealedFrame.sealed(block[:end], self.receipt, block[end:])

    def _reckon(self) -> None:
        """Tokens and cost, as far as an answer has begun: what was told, or else the pieces that came."""
        if self._opened is None:
            return
        receipt, used = self.receipt, self._opened.value.used
        if used.prompt_tokens is not None:
            receipt.prompt_tokens, receipt.completion_tokens = used.prompt_tokens, used.completion_tokens
            receipt.cached_tokens, receipt.estimated = used.cached_tokens, False
        elif self.call.stream:
            receipt.prompt_tokens, receipt.completion_tokens = expected_use(self.call).prompt, self._pieces
            receipt.estimated = True
        price = self._opened.target.price
        if used.model is not None:
            price = self.gateway.dearest(str(self.call.body["model"]), Needs())
        receipt.cost = cost_of(receipt, price) if used.cost is None else used.cost

    def _note(self, record: CallRecord) -> None:
        self._reckon()
        if not self.receipt.queued:
            record.estimated_cost = 0.0  # it never came as far as an upstream
        note_receipt(record, self.receipt)


def new_record(call: WireCall, cache: CacheUse = "off", *, gateway: Gateway | None = None) -> CallRecord:
    """The record of a call that is about to be made, or without a ``gateway`` to be answered without being made."""
    use = expected_use(call)
    record = CallRecord(
        call.caller,
        "/v1" + call.path,
        str(call.body["model"]),
        streamed=call.stream,
        estimated_tokens=use.prompt + use.limit,
        cache=cache,
    )
    if gateway is not None and call.caller.budget is not None:
        record.estimated_cost = gateway.most_cost(call, use)
    return record


def note_receipt(record: CallRecord, receipt: Receipt) -> None:
    record.model, record.provider = receipt.model, receipt.provider
    record.attempts, record.queued, record.cost = receipt.attempts, receipt.queued, receipt.cost
    record.prompt_tokens, record.completion_tokens = receipt.prompt_tokens, receipt.completion_tokens
    record.cached_tokens, record.estimated = receipt.cached_tokens, receipt.estimated


def receipt_comment(receipt: Receipt) -> bytes:
    """An event stream's comment: every conforming client passes over it."""
    told = {name: getattr(receipt, name) for name in RECEIPT_FIELDS}
    return b": receipt " + json.dumps(told).encode() + b"\n\n"


def _end_of_responses(block: bytes) -> int:
    end = RESPONSE_END.search(block)
    return end.start() if end else -1
