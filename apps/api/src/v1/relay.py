"""Relays a call to the gateway and its answer to the caller, byte for byte, with a receipt."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from fastapi import Request
from starlette.responses import Response

from apps.api.src.auth.caller import allow_model, caller_of
from apps.api.src.http.cache_control import wishes_of
from apps.api.src.http.guard import guarded
from apps.api.src.http.headers import header
from apps.api.src.http.json_body import read_json
from apps.api.src.http.streaming import LastFrame
from apps.api.src.observability.request_line import note_body
from apps.api.src.v1.cached import V1Cache
from apps.api.src.v1.execution import Execution, new_record, note_receipt
from apps.api.src.v1.idempotency import IdempotentRecording, Recordings, identity, record
from apps.api.src.v1.replies import WholeResponse, joined, streamed_reply
from apps.api.src.wiring.services import Services
from apps.core.calls import CallRecord
from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField, Timeout
from apps.gateway.protocol import Receipt, WireCall
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
        recording, made = recordings.join(named, lambda made: record(execution, made))
        return await _replay(request, call, recording, deadline, maker=made)
    cache: V1Cache | None = request.app.state.v1_cache
    asked = cache.question(call, wishes_of(request)) if cache is not None else None
    if cache is not None and asked is not None:
        return await cache.respond(request, call, asked, deadline)
    execution = Execution(services.gateway, services.meter, call, deadline)
    if call.stream:
        return streamed_reply(request, execution.frames(), lambda: execution.receipt)
    reply = await guarded(execution.whole(), request.receive, request.app.state.shutdown)
    return WholeResponse(reply.content_type, reply.body, execution.receipt)


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
    value = header(request.scope, b"x-deadline-ms")
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise InvalidValue("X-Deadline-Ms must be a whole number of milliseconds", field="X-Deadline-Ms")
    if int(value) == 0:
        raise Timeout("The deadline is over")
    return asyncio.get_running_loop().time() + int(value) / 1000


async def _replay(
    request: Request, call: WireCall, recording: IdempotentRecording, deadline: float | None, *, maker: bool
) -> Response:
    frames = recording.read(deadline)
    if not maker:
        frames = _on_record(request.app.state.services.meter, call, recording, frames)
    if call.stream:
        return streamed_reply(request, frames, lambda: recording.receipt_for(None if maker else "replay"))
    try:
        body = await guarded(joined(frames), request.receive, request.app.state.shutdown)
    finally:
        await frames.aclose()
    return WholeResponse(recording.content_type, body, recording.receipt_for(None if maker else "replay"))


async def _on_record(
    meter: Meter, call: WireCall, recording: IdempotentRecording, frames: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """A replay is a call too; what it repeats has been paid for, by who made the call."""
    replayed = new_record(call)
    replayed.cache, replayed.estimated_tokens = "replay", 0
    async with aclosing(frames), meter.call(replayed) as metered:
        async for frame in frames:
            if isinstance(frame, LastFrame):
                _note_replay(replayed, recording.receipt)
                metered.finish()
            yield frame


def _note_replay(replayed: CallRecord, paid: Receipt) -> None:
    """Who answered and what it used, as the first call's record says it; no attempt was made for this one."""
    note_receipt(replayed, replace(paid, attempts=0, queued=0.0, cost=0.0))
    replayed.saved = paid.cost or 0.0
