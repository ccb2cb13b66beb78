"""One execution of a call of /v1: on record, by the target that the gateway finds; and its answer, with a receipt."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from starlette.requests import Request
from starlette.responses import Response

from apps.api.src.exceptions import envelope
from apps.api.src.generate import model_header
from apps.api.src.http.request import age_headers, cache_use
from apps.api.src.http.shutdown import guarded
from apps.api.src.http.streaming import EventStream, LastFrame, RawHeaders, StreamedResponse, raw
from apps.core.calls import CacheUse, CallRecord, Usage, priced
from apps.core.deltas import Forwarded
from apps.core.errors import AppError, Timeout
from apps.gateway.gateway import Gateway
from apps.gateway.protocol import Blocks, WireCall, WireReply, expected_use
from apps.gateway.routing.attempts import Opened
from apps.gateway.routing.router import Needs
from apps.gateway.upstream.event_blocks import END as RESPONSE_END
from apps.gateway.upstream.event_blocks import find_done
from apps.models.event_stream import json_event
from apps.models.metering import Meter, MeteredCall


class WholeFrame(LastFrame):
    """The body of an answer that is not streamed."""

    content_type: str

    @classmethod
    def of(cls, content_type: str, body: bytes) -> Self:
        frame = cls(body)
        frame.content_type = content_type
        return frame


class SealedFrame(LastFrame):
    """The last frame of a relayed stream, with the receipt in it; ``before`` and ``after`` stand around that."""

    before: bytes
    after: bytes

    @classmethod
    def sealed(cls, before: bytes, record: CallRecord, after: bytes) -> Self:
        frame = cls(b"".join((before, receipt_comment(record), after)))
        frame.before, frame.after = before, after
        return frame


@dataclass(slots=True)
class Execution:
    """``record`` is the call's; ``deadline`` is a time of the loop's clock. Run either `whole` or `frames`, once."""

    gateway: Gateway
    meter: Meter
    call: WireCall
    record: CallRecord
    deadline: float | None = None
    _opened: Opened[WireReply] | None = None
    _pieces: int = 0

    async def whole(self) -> WireReply:
        """The whole answer; nothing is left to close."""
        async with self.meter.call(self.record):
            try:
                self._opened = await self.gateway.open(self.call, self.record, self.deadline)
                return self._opened.value
            finally:
                self._settle()

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The upstream's blocks as they are; the receipt goes out as a comment just before the end."""
        async with self.meter.call(self.record) as metered:
            try:
                opened = self._opened = await self.gateway.open(self.call, self.record, self.deadline)
                metered.first_token()
                try:
                    yield self._accounted(opened.value.body, metered)
                    blocks = opened.value.rest
                    if blocks is not None and self.deadline is None:
                        async for block in blocks:
                            yield self._accounted(block, metered)
                    elif blocks is not None:
                        async with aclosing(self._in_time(blocks)) as timed:
                            async for block in timed:
                                yield self._accounted(block, metered)
                except AppError as error:
                    if not isinstance(error, Timeout) or error.upstream_status is not None:
                        opened.broke_off(error)
                    raise
                finally:
                    await opened.close()
            finally:
                if not metered.closed:
                    self._settle()

    async def items(self) -> AsyncGenerator[bytes, None]:
        """The answer for a recording: the frames of a stream, or one frame with the whole body."""
        if not self.call.stream:
            reply = await self.whole()
            yield WholeFrame.of(reply.content_type, reply.body)
            return
        async with Forwarded(self.frames()) as frames:
            async for frame in frames:
                yield frame

    async def _in_time(self, blocks: Blocks) -> AsyncGenerator[bytes, None]:
        """The blocks up to the deadline. The time limit encloses no yield, so that it never cancels a reader."""
        while True:
            try:
                async with asyncio.timeout_at(self.deadline) as limit:
                    block = await anext(blocks, None)
            except TimeoutError:
                if not limit.expired():
                    raise
                raise Timeout("The deadline ran out") from None
            if block is None:
                return
            yield block

    def _accounted(self, block: bytes, metered: MeteredCall) -> bytes:
        """The block; the one that ends the stream has the receipt before its last event, and closes the record."""
        if self.record.usage is None:
            self._pieces += event_count(block)
        end = END_OF.get(self.call.path, find_done)(block)
        if end < 0:
            return block
        self._settle()
        metered.finish()
        return SealedFrame.sealed(block[:end], self.record, block[end:])

    def _settle(self) -> None:
        """Estimate what an answer that has begun does not report: a stream's tokens, and the cost by the price."""
        record, opened = self.record, self._opened
        if opened is None:
            return
        usage = record.usage
        if usage is None and self.call.stream:
            usage = Usage(expected_use(self.call).prompt, self._pieces, estimated=True)
        if usage is not None and usage.cost is None:
            asks_others = bool(opened.target.provider.config.prefix)
            price = self.gateway.dearest(record.requested_model, Needs()) if asks_others else opened.target.price
            usage = priced(usage, price)
        record.usage = usage


def event_count(block: bytes) -> int:
    """How many events a block has: one may have several lines of data, and a text may say `data:`."""
    lines, ends = block.count(b"data:"), block.count(b"\n\n")
    return min(lines, ends) if ends else lines


def new_record(call: WireCall, gateway: Gateway) -> CallRecord:
    """The record of a call that is about to be made, or to be answered without being made."""
    use = expected_use(call)
    record = CallRecord(
        call.caller,
        "/v1" + call.path,
        str(call.body["model"]),
        streamed=call.stream,
        estimated_tokens=use.prompt + use.limit,
    )
    if call.caller.budget is not None:
        record.estimated_cost = gateway.most_cost(call, use)
    return record


def receipt_comment(record: CallRecord) -> bytes:
    """The receipt of a call as a comment of an event stream, which every conforming client ignores."""
    usage = record.usage
    receipt = {
        "model": record.model,
        "provider": record.provider,
        "attempts": record.attempts,
        "cache": cache_use(record),
        "queued": record.queued,
        "first_token": record.latency,
        "prompt_tokens": None if usage is None else usage.prompt_tokens,
        "completion_tokens": None if usage is None else usage.completion_tokens,
        "cached_tokens": 0 if usage is None else usage.cached_tokens,
        "estimated": usage is not None and usage.estimated,
        "cost": record.cost,
        "tried": record.tried,
        "boundary": record.boundary,
        "age": record.age,
        "score": record.score,
    }
    return b": receipt " + json.dumps(receipt).encode() + b"\n\n"


def _end_by(pattern: re.Pattern[bytes]) -> Callable[[bytes], int]:
    def find(block: bytes) -> int:
        end = pattern.search(block)
        return end.start() if end else -1

    return find


# where the last event of a stream begins; -1 where it has not come yet
END_OF = {
    "/responses": _end_by(RESPONSE_END),
    "/messages": _end_by(re.compile(rb"(?:^|(?<=[\r\n]))event: ?message_stop\b")),
}


class WholeResponse(Response):
    """A whole answer: the bytes as they came, and the receipt of ``record`` among the headers."""

    def __init__(self, content_type: str, body: bytes, record: CallRecord, cache: CacheUse | None = None) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", content_type.encode("latin-1")),
            *receipt_headers(record, cache),
        ]


def receipt_headers(record: CallRecord, cache: CacheUse | None = None) -> RawHeaders:
    """What is known when the headers go out; ``cache`` where it is not what the record says."""
    headers = [
        *_model_header(record.model),
        (b"x-provider", record.provider.encode("latin-1")),
        (b"x-attempts", b"%d" % record.attempts),
        (b"x-cache", (cache or cache_use(record)).encode()),
        (b"x-queue-ms", b"%.1f" % (record.queued * 1000)),
    ]
    if record.age is not None:
        headers += raw(age_headers(record.age, record.score))
    if record.latency is not None:
        headers.append((b"x-first-token-ms", b"%.1f" % (record.latency * 1000)))
    usage = record.usage
    if usage is not None:
        headers.append((b"x-prompt-tokens", b"%d" % usage.prompt_tokens))
        headers.append((b"x-completion-tokens", b"%d" % usage.completion_tokens))
    cost = record.cost
    if cost is not None:
        headers.append((b"x-cost-usd", b"%.8f" % cost))
    return headers


@lru_cache(maxsize=1024)
def _model_header(model: str) -> RawHeaders:
    return raw(model_header(model))


def streamed_reply(
    request: Request, frames: AsyncGenerator[bytes, None], record: CallRecord, cache: CacheUse | None = None
) -> StreamedResponse:
    """A stream of frames, with what the record says when the first one is there among the headers."""
    path: str = request.scope["path"]
    error_frame = ERROR_FRAMES.get(path.removeprefix("/v1/").partition("/")[0], _error_frame)
    return StreamedResponse(
        frames,
        media_type="text/event-stream",
        ping=EventStream.ping,
        error_frame=lambda error: error_frame(error, path),
        headers=lambda: receipt_headers(record, cache),
        shutdown=request.app.state.shutdown,
    )


async def whole_reply(
    request: Request, frames: AsyncGenerator[bytes, None], record: CallRecord, cache: CacheUse | None = None
) -> WholeResponse:
    """A whole answer, which is the only frame."""
    try:
        frame = await guarded(anext(frames), request.receive, request.app.state.shutdown)
    finally:
        await frames.aclose()
    return whole_response(frame, record, cache)


def whole_response(frame: bytes, record: CallRecord, cache: CacheUse | None = None) -> WholeResponse:
    if not isinstance(frame, WholeFrame):
        raise TypeError("a whole answer is one frame")
    return WholeResponse(frame.content_type, frame, record, cache)


def error_event(error: AppError, path: str) -> dict[str, Any]:
    """OpenAI's error event of a response stream, with the envelope in it: its clients raise APIError."""
    body = envelope(error, path)
    fields = {name: body["error"][name] for name in ("code", "message", "param")}
    return {"type": "error", **fields, **body}


def _error_frame(error: AppError, path: str) -> bytes:
    return json_event(envelope(error, path))


def _response_error_frame(error: AppError, path: str) -> bytes:
    return json_event(error_event(error, path), "error")


def _message_error_frame(error: AppError, path: str) -> bytes:
    return json_event(envelope(error, path), "error")


# by the first part of the path below /v1
ERROR_FRAMES = {"responses": _response_error_frame, "messages": _message_error_frame}
