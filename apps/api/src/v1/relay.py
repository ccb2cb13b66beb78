"""Relays a call to the gateway and its answer to the caller, byte for byte, with a receipt."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import asdict

from fastapi import Request
from starlette.responses import Response

from apps.api.src.answers import model_header
from apps.api.src.exceptions import envelope
from apps.api.src.guard import guarded
from apps.api.src.json_body import read_json
from apps.api.src.sse import EventStream
from apps.api.src.streamed import LastFrame, StreamedResponse
from apps.api.src.v1.idempotency import Recording, Recordings, identity
from apps.core.errors import AppError, InvalidType, InvalidValue, MissingRequiredField, Timeout
from apps.models.gateway.attempts import Opened
from apps.models.gateway.blocks import find_done
from apps.models.gateway.gateway import Gateway
from apps.models.gateway.receipts import cost_of, note_usage
from apps.models.gateway.response_blocks import END as RESPONSE_END
from apps.models.gateway.wire import Receipt, WireCall, WireReply

# answered whole, whatever a field of this name may mean to an upstream
NEVER_STREAMED = frozenset({"/embeddings"})


async def relay(request: Request, path: str) -> Response:
    """POST ``path`` of OpenAI's API, by whichever target the gateway finds."""
    call = await _read_call(request, path)
    gateway: Gateway = request.app.state.services.gateway
    deadline = _deadline(request)
    named = identity(request, call)
    if named is not None:
        recordings: Recordings = request.app.state.recordings
        recording, made = recordings.join(named, lambda made: _record(gateway, call, made))
        return await _replay(request, call, recording, deadline, maker=made)
    receipt = Receipt()
    if call.stream:
        return _streamed(request, _frames(gateway, call, receipt, deadline), lambda: receipt)
    opened = await guarded(gateway.open(call, receipt, deadline), request.receive, request.app.state.shutdown)
    _account(opened, receipt)
    return WholeResponse(opened.value.content_type, opened.value.body, receipt)


class WholeResponse(Response):
    """A whole answer: the bytes as they came, and a receipt among the headers."""

    def __init__(self, content_type: str, body: bytes, receipt: Receipt) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-length", str(len(body)).encode()),
            (b"content-type", content_type.encode("latin-1")),
            *_raw(receipt_headers(receipt).items()),
        ]


def receipt_headers(receipt: Receipt) -> dict[str, str]:
    """What is known when the headers go out."""
    headers = {
        **model_header(receipt.model),
        "X-Provider": receipt.provider,
        "X-Attempts": str(receipt.attempts),
        "X-Cache": receipt.cache,
        "X-Queue-Ms": f"{receipt.queued * 1000:.1f}",
    }
    if receipt.first_token is not None:
        headers["X-First-Token-Ms"] = f"{receipt.first_token * 1000:.1f}"
    if receipt.prompt_tokens is not None:
        headers["X-Prompt-Tokens"] = str(receipt.prompt_tokens)
        headers["X-Completion-Tokens"] = str(receipt.completion_tokens)
    if receipt.cost is not None:
        headers["X-Cost-USD"] = f"{receipt.cost:.8f}"
    return headers


def _raw(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _read_call(request: Request, path: str) -> WireCall:
    raw, body = await read_json(request)
    if not isinstance(body, dict):
        raise InvalidType("Request body must be a JSON object")
    model, stream = body.get("model"), body.get("stream")
    if model is None:
        raise MissingRequiredField("Model is required", field="model")
    if not isinstance(model, str):
        raise InvalidType("Model must be a string", field="model")
    if not model.strip():
        raise InvalidValue("Model must not be empty", field="model")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidType("Stream must be true or false", field="stream")
    return WireCall(path, raw, body, bool(stream) and path not in NEVER_STREAMED)


def _deadline(request: Request) -> float | None:
    """X-Deadline-Ms as a time of the loop's clock; a time that is already over is refused at once."""
    value = request.headers.get("x-deadline-ms")
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise InvalidValue("X-Deadline-Ms must be a whole number of milliseconds", field="X-Deadline-Ms")
    if int(value) == 0:
        raise Timeout("The deadline is over")
    return asyncio.get_running_loop().time() + int(value) / 1000


def _streamed(
    request: Request, frames: AsyncGenerator[bytes, None], receipt: Callable[[], Receipt]
) -> StreamedResponse:
    path = request.url.path
    error_frame = _response_error_frame if path.endswith("/responses") else _error_frame
    return StreamedResponse(
        frames,
        media_type="text/event-stream",
        ping=EventStream.ping,
        error_frame=lambda error: error_frame(error, path),
        headers=lambda: receipt_headers(receipt()),
        shutdown=request.app.state.shutdown,
    )


async def _frames(
    gateway: Gateway, call: WireCall, receipt: Receipt, deadline: float | None
) -> AsyncGenerator[bytes, None]:
    """The upstream's blocks as they are; the receipt goes out as a comment just before the end."""
    opened = await gateway.open(call, receipt, deadline)
    try:
        yield _accounted(opened, receipt, opened.value.body, call.path)
        blocks = opened.value.rest
        while blocks is not None:
            try:
                # bounded here, where nothing is yielded: a timeout must not cancel who reads
                async with asyncio.timeout_at(deadline) as limit:
                    block = await anext(blocks)
            except StopAsyncIteration:
                break
            except TimeoutError:
                if not limit.expired():
                    raise
                raise Timeout("The deadline ran out") from None
            yield _accounted(opened, receipt, block, call.path)
    except AppError as error:
        if not isinstance(error, Timeout) or "upstream_status" in error.details:
            opened.broke_off()
        raise
    finally:
        await opened.close()


def _account(opened: Opened[WireReply], receipt: Receipt) -> None:
    note_usage(receipt, opened.value.body)
    receipt.cost = cost_of(receipt, opened.target.price)


def _accounted(opened: Opened[WireReply], receipt: Receipt, block: bytes, path: str) -> bytes:
    """The block; the one that ends the stream has the receipt in front of its last event."""
    note_usage(receipt, block)
    end = _end_of_responses(block) if path == "/responses" else find_done(block)
    if end < 0:
        return block
    receipt.cost = cost_of(receipt, opened.target.price)
    return LastFrame(b"".join((block[:end], receipt_comment(receipt), block[end:])))


def _end_of_responses(block: bytes) -> int:
    end = RESPONSE_END.search(block)
    return end.start() if end else -1


def receipt_comment(receipt: Receipt) -> bytes:
    """An event stream's comment: every conforming client passes over it."""
    return b": receipt " + json.dumps(asdict(receipt)).encode() + b"\n\n"


async def _record(gateway: Gateway, call: WireCall, recording: Recording) -> None:
    """Make a call into a recording, for whoever asks for it by its Idempotency-Key."""
    if call.stream:
        frames = _frames(gateway, call, recording.receipt, None)
        try:
            async for frame in frames:
                recording.add(frame)
        finally:
            await frames.aclose()
        return
    opened = await gateway.open(call, recording.receipt, None)
    _account(opened, recording.receipt)
    recording.content_type = opened.value.content_type
    recording.add(opened.value.body)


async def _replay(
    request: Request, call: WireCall, recording: Recording, deadline: float | None, *, maker: bool
) -> Response:
    frames = recording.read(deadline)
    if call.stream:
        return _streamed(request, frames, lambda: recording.receipt_for(maker=maker))
    try:
        body = await guarded(_joined(frames), request.receive, request.app.state.shutdown)
    finally:
        await frames.aclose()
    return WholeResponse(recording.content_type, body, recording.receipt_for(maker=maker))


async def _joined(frames: AsyncGenerator[bytes, None]) -> bytes:
    return b"".join([frame async for frame in frames])


def _error_frame(error: AppError, path: str) -> bytes:
    return b"data: " + json.dumps(envelope(error, path), ensure_ascii=False).encode() + b"\n\n"


def _response_error_frame(error: AppError, path: str) -> bytes:
    """OpenAI's error event of a response stream, with the envelope in it: its clients raise APIError."""
    body = envelope(error, path)
    fields = {name: body["error"][name] for name in ("code", "message", "param")}
    return (
        b"event: error\ndata: " + json.dumps({"type": "error", **fields, **body}, ensure_ascii=False).encode() + b"\n\n"
    )
