"""Relays a call to the gateway and its answer to the caller, byte for byte, with a receipt."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import asdict

from fastapi import Request
from starlette.responses import Response

from apps.api.src.answers import model_header
from apps.api.src.exceptions import envelope
from apps.api.src.guard import guarded
from apps.api.src.json_body import read_json
from apps.api.src.sse import EventStream
from apps.api.src.streamed import StreamedResponse
from apps.core.errors import AppError, InvalidType, InvalidValue, MissingRequiredField, Timeout
from apps.models.gateway.attempts import Opened
from apps.models.gateway.gateway import Gateway
from apps.models.gateway.receipts import cost_of, note_usage
from apps.models.gateway.response_blocks import END as RESPONSE_END
from apps.models.gateway.wire import Receipt, WireCall, WireReply

DONE = re.compile(rb"(?:^|(?<=[\r\n]))data: ?\[DONE\]")
# where a stream ends: a response has no [DONE]
ENDS = {"/responses": RESPONSE_END}
# answered whole, whatever a field of this name may mean to an upstream
NEVER_STREAMED = frozenset({"/embeddings"})


async def relay(request: Request, path: str) -> Response:
    """POST ``path`` of OpenAI's API, by whichever target the gateway finds."""
    call = await _read_call(request, path)
    gateway: Gateway = request.app.state.services.gateway
    receipt, deadline = Receipt(), _deadline(request)
    if call.stream:
        return _streamed(request, gateway, call, receipt, deadline)
    opened = await guarded(gateway.open(call, receipt, deadline), request.receive, request.app.state.shutdown)
    note_usage(receipt, opened.value.body)
    receipt.cost = cost_of(receipt, opened.target.price)
    return Response(opened.value.body, media_type=opened.value.content_type, headers=receipt_headers(receipt))


def receipt_headers(receipt: Receipt) -> dict[str, str]:
    """What is known when the headers go out."""
    headers = {
        **model_header(receipt.model),
        "X-Provider": receipt.provider,
        "X-Attempts": str(receipt.attempts),
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
    request: Request, gateway: Gateway, call: WireCall, receipt: Receipt, deadline: float | None
) -> StreamedResponse:
    path = request.url.path
    error_frame = _response_error_frame if call.path == "/responses" else _error_frame
    return StreamedResponse(
        _frames(gateway, call, receipt, deadline),
        media_type="text/event-stream",
        ping=EventStream.ping,
        error_frame=lambda error: error_frame(error, path),
        headers=lambda: receipt_headers(receipt),
        shutdown=request.app.state.shutdown,
    )


async def _frames(
    gateway: Gateway, call: WireCall, receipt: Receipt, deadline: float | None
) -> AsyncGenerator[bytes, None]:
    """The upstream's blocks as they are; the receipt goes out as a comment just before the end."""
    opened = await gateway.open(call, receipt, deadline)
    try:
        yield _accounted(opened, receipt, opened.value.body, call.path)
        if opened.value.rest is not None:
            async for block in _until(opened.value.rest, deadline):
                yield _accounted(opened, receipt, block, call.path)
    finally:
        await opened.close()


def _accounted(opened: Opened[WireReply], receipt: Receipt, block: bytes, path: str) -> bytes:
    """The block; the one that ends the stream has the receipt in front of its last event."""
    note_usage(receipt, block)
    end = ENDS.get(path, DONE).search(block) if b"[DONE]" in block or path in ENDS else None
    if end is None:
        return block
    receipt.cost = cost_of(receipt, opened.target.price)
    comment = b": receipt " + json.dumps(asdict(receipt)).encode() + b"\n\n"
    return block[: end.start()] + comment + block[end.start() :]


async def _until(blocks: AsyncGenerator[bytes, None], deadline: float | None) -> AsyncGenerator[bytes, None]:
    if deadline is None:
        async for block in blocks:
            yield block
        return
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                block = await anext(blocks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Timeout("The deadline ran out") from None
        yield block


def _error_frame(error: AppError, path: str) -> bytes:
    return b"data: " + json.dumps(envelope(error, path), ensure_ascii=False).encode() + b"\n\n"


def _response_error_frame(error: AppError, path: str) -> bytes:
    """OpenAI's error event of a response stream, with the envelope in it: its clients raise APIError."""
    body = envelope(error, path)
    fields = {name: body["error"][name] for name in ("code", "message", "param")}
    return (
        b"event: error\ndata: " + json.dumps({"type": "error", **fields, **body}, ensure_ascii=False).encode() + b"\n\n"
    )
