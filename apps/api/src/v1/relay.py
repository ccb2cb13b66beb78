"""Relays a call to the gateway and its answer to the caller, byte for byte, with a receipt."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing

from fastapi import Request
from starlette.responses import Response

from apps.api.src.answers import model_header
from apps.api.src.caller import allow_model, caller_of
from apps.api.src.exceptions import envelope
from apps.api.src.guard import guarded
from apps.api.src.json_body import read_json
from apps.api.src.prompts import note_body
from apps.api.src.sse import EventStream
from apps.api.src.streamed import LastFrame, StreamedResponse
from apps.api.src.v1.execution import Execution, new_record
from apps.api.src.v1.idempotency import Recording, Recordings, identity
from apps.api.src.wiring import Services
from apps.core.errors import AppError, InvalidType, InvalidValue, MissingRequiredField, Timeout
from apps.models.gateway.wire import Receipt, WireCall
from apps.models.metering import Meter

# answered whole, whatever a field of this name may mean to an upstream
NEVER_STREAMED = frozenset({"/embeddings"})


async def relay(request: Request, path: str) -> Response:
    """POST ``path`` of OpenAI's API, by whichever target the gateway finds."""
    services: Services = request.app.state.services
    call = await _read_call(request, path, services.gateway.router.is_local)
    deadline = _deadline(request)
    named = identity(request, call)
    if named is not None:
        recordings: Recordings = request.app.state.recordings
        execution = Execution(services.gateway, services.meter, call)
        recording, made = recordings.join(named, lambda made: _record(execution, made))
        return await _replay(request, call, recording, deadline, maker=made)
    execution = Execution(services.gateway, services.meter, call, deadline)
    if call.stream:
        return _streamed(request, execution.frames(), lambda: execution.receipt)
    reply = await guarded(execution.whole(), request.receive, request.app.state.shutdown)
    return WholeResponse(reply.content_type, reply.body, execution.receipt)


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


async def _read_call(request: Request, path: str, is_local: Callable[[str], bool]) -> WireCall:
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
    caller = caller_of(request)
    allow_model(caller, model, is_local)
    note_body(request, body)
    return WireCall(path, raw, body, bool(stream) and path not in NEVER_STREAMED, caller)


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


async def _record(execution: Execution, recording: Recording) -> None:
    """Make a call into a recording, for whoever asks for it by its Idempotency-Key."""
    recording.receipt = execution.receipt
    if execution.call.stream:
        async with aclosing(execution.frames()) as frames:
            async for frame in frames:
                recording.add(frame)
        return
    reply = await execution.whole()
    recording.content_type = reply.content_type
    recording.add(reply.body)


async def _replay(
    request: Request, call: WireCall, recording: Recording, deadline: float | None, *, maker: bool
) -> Response:
    frames = recording.read(deadline)
    if not maker:
        frames = _on_record(request.app.state.services.meter, call, frames)
    if call.stream:
        return _streamed(request, frames, lambda: recording.receipt_for(maker=maker))
    try:
        body = await guarded(_joined(frames), request.receive, request.app.state.shutdown)
    finally:
        await frames.aclose()
    return WholeResponse(recording.content_type, body, recording.receipt_for(maker=maker))


async def _on_record(meter: Meter, call: WireCall, frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """A replay is a call too; what it repeats has been paid for."""
    record = new_record(call)
    record.cache, record.estimated_tokens = "replay", 0
    async with meter.call(record) as metered, aclosing(frames):
        async for frame in frames:
            if isinstance(frame, LastFrame):
                metered.finish()
            yield frame


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
