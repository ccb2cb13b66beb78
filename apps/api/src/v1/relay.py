"""Relays a call of /v1 to the gateway and its answer to the caller, byte for byte, with a receipt.

What goes back are the bytes of a whole answer or of a stream; the receipt is among the headers. A response in the
background is begun here, or by its upstream.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import Request
from starlette.responses import Response

from apps.api.src.auth.authentication import allow_model, caller_of, fits
from apps.api.src.http.request import cache_control, header, read_json, refuse_duplicates
from apps.api.src.http.shutdown import guarded
from apps.api.src.observability.request_line import note_body
from apps.api.src.v1.background import BackgroundResponses
from apps.api.src.v1.cached import (
    Execute,
    FrameRecording,
    IdempotentRecording,
    Identity,
    Recordings,
    cached,
    identity,
    key_of,
)
from apps.api.src.v1.execution import (
    Execution,
    WholeFrame,
    WholeResponse,
    new_record,
    streamed_reply,
    whole_reply,
    whole_response,
)
from apps.api.src.wiring.services import Services
from apps.cache.entry import CacheKey
from apps.cache.front import CacheFront, replayed
from apps.core.calls import CacheUse, CallRecord
from apps.core.deltas import Forwarded
from apps.core.errors import AppError, InvalidType, InvalidValue, MissingRequiredField, Timeout
from apps.gateway.gateway import Gateway
from apps.gateway.openai_api.chat_request import chat_request
from apps.gateway.openai_api.responses import callers_field, chat_of
from apps.gateway.openai_api.responses_request import flat_tools
from apps.gateway.protocol import WireCall
from apps.models.event_stream import json_bytes
from apps.models.metering import Meter, outcome_of

# answered whole, whatever a field of this name may mean to an upstream
NEVER_STREAMED = frozenset({"/embeddings", "/messages/count_tokens"})


async def relay(request: Request, path: str) -> Response:
    """POST ``path`` of OpenAI's API, by the target that the gateway finds."""
    services: Services = request.app.state.services
    return await respond(request, await read_call(request, path, services.gateway.router.is_local))


async def respond(request: Request, call: WireCall) -> Response:
    """The answer to a call that has been read, as a WholeResponse or a StreamedResponse."""
    services: Services = request.app.state.services
    gateway = services.gateway
    deadline = _deadline(request)
    named = identity(request, call)
    if call.path == "/responses":
        call = with_items(with_earlier(call, gateway), gateway)
    record = new_record(call, gateway)
    call = WireCall(call.path, call.raw, call.body, call.stream, call.caller, record, call.fits, call.earlier)
    execution = Execution(gateway, services.meter, call, record)
    if call.body.get("background") is True:
        return await _in_background(request, named, execution, deadline)
    if named is not None:
        return await _idempotent(request, named, execution, lambda _: execution.items(), deadline)
    # a response that is kept is its caller's: what goes on from it, or deletes it, is not to meet another's
    if services.front is not None and not gateway.stored_responses.keeps(call):
        key = key_of(call, cache_control(request), services.front, gateway.router)
        if key is not None:
            return await _cached(request, execution, key, services.front, deadline)
    execution.deadline = deadline
    if call.stream:
        return streamed_reply(request, execution.frames(), record)
    reply = await guarded(execution.whole(), request.receive, request.app.state.shutdown)
    return WholeResponse(reply.content_type, reply.body, record)


async def _in_background(
    request: Request, named: Identity | None, execution: Execution, deadline: float | None
) -> Response:
    """The answer to a call that begins a response in the background, here or at an upstream."""
    begin = begun if may_begin(execution.call, execution.gateway) else begun_elsewhere
    items = partial(begin, request.app.state.background, execution, deadline)
    if named is not None:
        return await _idempotent(request, named, execution, items, deadline)
    execution.deadline = deadline
    return await _reply(request, items(None), execution.record)


def may_begin(call: WireCall, gateway: Gateway) -> bool:
    """Whether a response in the background is made here: its upstream makes its own, where it has any.

    Raises what its body alone is refused for, before anything has begun, and NotFound for an unknown model.
    """
    stored = gateway.stored_responses
    if call.path != "/responses" or not stored.on or not gateway.makes_responses(call):
        return False
    if not stored.keeps(call):
        raise InvalidValue("background can only be used when `store` is true", field="background")
    chat = chat_of(stored, call)
    if gateway.router.is_local(call.body["model"]):
        try:
            chat_request(chat, call.caller)
        except AppError as error:
            error.field = (
                None if error.field is None else callers_field(flat_tools(call.body.get("tools")), error.field)
            )
            raise
    return True


def in_background(call: WireCall) -> WireCall:
    """The call that makes a response of this one, which its maker does not keep: it has no id of its own."""
    body = {name: value for name, value in call.body.items() if name != "background"}
    body |= {"stream": True, "store": False}
    return call._replace(raw=json_bytes(body), body=body, stream=True)


async def begun(
    responses: BackgroundResponses,
    execution: Execution,
    deadline: float | None,
    recording: FrameRecording | None,
    *,
    once_opened: bool = False,
) -> AsyncGenerator[bytes, None]:
    """The frames of the answer to a call that begins one: the response as it is queued, or its events.

    It is made on the record of ``execution``, up to ``deadline``. A ``recording`` of the frames goes on without a
    reader from here on, since a call that is sent again is to find this response. ``once_opened``: there is none
    before it is being answered, and what fails until then is raised.
    """
    call = execution.call
    making = Execution(execution.gateway, execution.meter, in_background(call), execution.record, deadline)
    response = responses.begin(call, making)
    queued = response.response
    if once_opened:
        try:
            await response.opened()
        except BaseException as error:
            response.cancel(outcome_of(error))
            responses.delete(response)
            raise
    if recording is not None:
        recording.enter()
    if not call.stream:
        yield WholeFrame.of("application/json", json_bytes(queued))
        return
    async with aclosing(response.events()) as events:
        async for event in events:
            yield event


async def begun_elsewhere(
    responses: BackgroundResponses, execution: Execution, deadline: float | None, recording: FrameRecording | None
) -> AsyncGenerator[bytes, None]:
    """Those of ``execution``, whose upstream makes its own; where it turns out to have none, of one begun here.

    The call that found it out is on record as refused.
    """
    call, gateway = execution.call, execution.gateway
    async with Forwarded(execution.items()) as frames:
        try:
            first = await anext(frames)
        except InvalidValue as error:
            if error.field != "background" or not may_begin(call, gateway):
                raise
        else:
            yield first
            async for frame in frames:
                yield frame
            return
    record = new_record(call, gateway)
    here = Execution(gateway, execution.meter, call._replace(record=record), record)
    # what it was refused for may have been the model: only a chat tells
    async with Forwarded(begun(responses, here, deadline, recording, once_opened=True)) as frames:
        async for frame in frames:
            yield frame


async def _cached(
    request: Request, execution: Execution, key: CacheKey, front: CacheFront, deadline: float | None
) -> Response:
    """The answer from the cache, or through it."""
    frames, record = await cached(execution, key, front, deadline), execution.record
    if isinstance(frames, list):
        if not execution.call.stream:
            return whole_response(frames[0], record)
        frames = replayed(frames)
    return await _reply(request, frames, record)


async def _idempotent(
    request: Request,
    named: Identity,
    execution: Execution,
    items: Execute,
    deadline: float | None,
) -> Response:
    """The answer of the call that was made under the same Idempotency-Key, which may be this one."""
    recordings: Recordings = request.app.state.recordings
    record = execution.record
    recording = recordings.join(named, record, items)
    frames = recording.read(deadline)
    if recording.record is record:
        return await _reply(request, frames, record)
    record.reuse("replay")
    return await _reply(request, _on_record(execution.meter, record, recording, frames), recording.record, "replay")


async def _reply(
    request: Request, frames: AsyncGenerator[bytes, None], record: CallRecord, cache: CacheUse | None = None
) -> Response:
    if record.streamed:
        return streamed_reply(request, frames, record, cache)
    return await whole_reply(request, frames, record, cache)


OF_A_RESPONSE = "This key may not use the model of that response"


async def read_call(request: Request, path: str, is_local: Callable[[str], bool]) -> WireCall:
    """The call of a request whose body is JSON, once it is known that its caller may make it."""
    raw, body = await read_json(request)
    if not isinstance(body, dict):
        raise InvalidType("Request body must be a JSON object")
    refuse_duplicates(raw, body)
    return _checked(request, path, raw, body, is_local, fits=fits(request.scope))


def with_earlier(call: WireCall, gateway: Gateway) -> WireCall:
    """The call with the conversation of the response that it goes on from, where that is kept here.

    Raises Forbidden where the caller's key is not for the model that was asked for that response.
    """
    stored, previous = gateway.stored_responses, call.body.get("previous_response_id")
    found = stored.find(call.caller.tenant, previous) if stored.on and isinstance(previous, str) else None
    if found is None:
        return call
    allow_model(call.caller, found.model, gateway.router.is_local, OF_A_RESPONSE)
    return call._replace(earlier=found.conversation)


def with_items(call: WireCall, gateway: Gateway) -> WireCall:
    """The call with items that are kept here in the places where its input refers to them.

    Raises Forbidden as `with_earlier`. What is not kept here may be the upstream's own.
    """
    stored, given = gateway.stored_responses, call.body.get("input")
    if not stored.on or not isinstance(given, list):
        return call
    items, models = stored.resolved(call.caller.tenant, given)
    if not models:
        return call
    for model in models:
        allow_model(call.caller, model, gateway.router.is_local, OF_A_RESPONSE)
    body = {**call.body, "input": items}
    return call._replace(raw=json_bytes(body), body=body)


def call_of(
    request: Request, path: str, body: dict[str, Any], is_local: Callable[[str], bool], *, fits: bool = False
) -> WireCall:
    """A call whose ``body`` was translated from that of another API; see WireCall for ``fits``."""
    raw = json_bytes(body)
    return _checked(request, path, raw, body, is_local, fits=fits)


def _checked(
    request: Request,
    path: str,
    raw: bytes,
    body: dict[str, Any],
    is_local: Callable[[str], bool],
    *,
    fits: bool = False,
) -> WireCall:
    """The call as its caller may make it."""
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
    return WireCall(path, raw, body, bool(stream) and path not in NEVER_STREAMED, caller, fits=fits)


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


async def _on_record(
    meter: Meter, record: CallRecord, recording: IdempotentRecording, frames: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """A replay as a call of its own; what it repeats is paid for by the call that made it."""
    async with Forwarded(frames), meter.call(record) as metered:
        async for frame in frames:
            if recording.is_last(frame):
                record.answered_as(recording.record)
                metered.finish()
            yield frame
