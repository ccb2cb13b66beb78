"""One execution of a call of /v1: on record, by whichever target the gateway finds, with a receipt."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass, field

from apps.api.src.streamed import LastFrame
from apps.core.accounting import CallRecord
from apps.core.errors import AppError, Timeout
from apps.models.gateway.attempts import Opened
from apps.models.gateway.blocks import find_done
from apps.models.gateway.gateway import Gateway, needs_of
from apps.models.gateway.receipts import cost_of, note_usage
from apps.models.gateway.response_blocks import END as RESPONSE_END
from apps.models.gateway.wire import Receipt, WireCall, WireReply
from apps.models.metering import Meter, MeteredCall


@dataclass(slots=True)
class Execution:
    """``deadline`` is a time of the loop's clock. Run either `whole` or `frames`, once."""

    gateway: Gateway
    meter: Meter
    call: WireCall
    deadline: float | None = None
    receipt: Receipt = field(default_factory=Receipt)

    async def whole(self) -> WireReply:
        """The whole answer; nothing is left to close."""
        async with self.meter.call(new_record(self.call)) as metered:
            try:
                opened = await self.gateway.open(self.call, self.receipt, self.deadline)
                note_usage(self.receipt, opened.value.body)
                self.receipt.cost = cost_of(self.receipt, opened.target.price)
                return opened.value
            finally:
                note_receipt(metered.record, self.receipt)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The upstream's blocks as they are; the receipt goes out as a comment just before the end."""
        async with self.meter.call(new_record(self.call)) as metered:
            try:
                async with aclosing(self._blocks(metered)) as blocks:
                    async for block in blocks:
                        if isinstance(block, LastFrame):
                            note_receipt(metered.record, self.receipt)
                            metered.finish()
                        yield block
            finally:
                note_receipt(metered.record, self.receipt)

    async def _blocks(self, metered: MeteredCall) -> AsyncGenerator[bytes, None]:
        opened = await self.gateway.open(self.call, self.receipt, self.deadline)
        metered.first_token()
        try:
            yield self._accounted(opened, opened.value.body)
            blocks = opened.value.rest
            while blocks is not None:
                try:
                    # bounded here, where nothing is yielded: a timeout must not cancel who reads
                    async with asyncio.timeout_at(self.deadline) as limit:
                        block = await anext(blocks)
                except StopAsyncIteration:
                    break
                except TimeoutError:
                    if not limit.expired():
                        raise
                    raise Timeout("The deadline ran out") from None
                yield self._accounted(opened, block)
        except AppError as error:
            if not isinstance(error, Timeout) or "upstream_status" in error.details:
                opened.broke_off()
            raise
        finally:
            await opened.close()

    def _accounted(self, opened: Opened[WireReply], block: bytes) -> bytes:
        """The block; the one that ends the stream has the receipt in front of its last event."""
        note_usage(self.receipt, block)
        end = _end_of_responses(block) if self.call.path == "/responses" else find_done(block)
        if end < 0:
            return block
        self.receipt.cost = cost_of(self.receipt, opened.target.price)
        return LastFrame(b"".join((block[:end], receipt_comment(self.receipt), block[end:])))


def new_record(call: WireCall) -> CallRecord:
    """The record of a call that is about to be made, or to be answered without being made."""
    return CallRecord(
        call.caller,
        "/v1" + call.path,
        str(call.body["model"]),
        streamed=call.stream,
        estimated_tokens=needs_of(call).tokens,
    )


def note_receipt(record: CallRecord, receipt: Receipt) -> None:
    record.model, record.provider = receipt.model, receipt.provider
    record.attempts, record.queued, record.cost = receipt.attempts, receipt.queued, receipt.cost
    record.prompt_tokens, record.completion_tokens = receipt.prompt_tokens, receipt.completion_tokens


def receipt_comment(receipt: Receipt) -> bytes:
    """An event stream's comment: every conforming client passes over it."""
    return b": receipt " + json.dumps(asdict(receipt)).encode() + b"\n\n"


def _end_of_responses(block: bytes) -> int:
    end = RESPONSE_END.search(block)
    return end.start() if end else -1
