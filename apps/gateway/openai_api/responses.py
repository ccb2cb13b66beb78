"""POST /responses over a target that serves chat completions only: translated there and back.

The chat target may be the local model or an upstream; which upstreams need this the routing file says
(``responses``). What a model thought is an item of its own, and goes back into the turn that it led to.
"""

import json
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from typing import Any

from apps.core.errors import AppError, UpstreamError
from apps.gateway.openai_api.responses_events import Event, ResponseEvents
from apps.gateway.openai_api.responses_request import FIELDS, chat_body
from apps.gateway.protocol import Blocks, WireCall, WireReply, WireTarget
from apps.models.event_stream import EventStreamDecoder

log = logging.getLogger(__name__)
# what an upstream answers to a path that it does not have
NO_SUCH_PATH = (404, 405, 501)


class ResponsesOverChat:
    """Implements WireTarget for POST /responses."""

    def __init__(self, chat: WireTarget) -> None:
        self._chat = chat

    async def open(self, call: WireCall, model: str) -> WireReply:
        body = chat_body(call.body)
        raw = json.dumps(body, ensure_ascii=False).encode()
        chat_call = WireCall("/chat/completions", raw, body, call.stream, call.caller, call.record)
        try:
            reply = await self._chat.open(chat_call, model)
        except AppError as error:
            error.field = _callers_word(error.field)
            raise
        events = ResponseEvents(call.body)
        if reply.rest is None:
            return WireReply("application/json", _whole(events, reply.body))
        blocks = _blocks(events, reply.body, reply.rest)
        return WireReply("text/event-stream; charset=utf-8", await anext(blocks), blocks)

    async def aclose(self) -> None:
        """The chat target is closed by its maker."""


class ResponsesEitherWay:
    """Asks ``native`` first; where it has no such path, and only then, ``translated``.

    That is settled, and said in the log, once a translated call has succeeded: before that a 404 may be about the
    model.
    """

    def __init__(self, native: WireTarget, translated: WireTarget, name: str) -> None:
        self._native = native
        self._translated = translated
        self._name = name
        self._has_none = False

    async def open(self, call: WireCall, model: str) -> WireReply:
        if self._has_none:
            return await self._translated.open(call, model)
        try:
            return await self._native.open(call, model)
        except AppError as error:
            if error.upstream_status not in NO_SUCH_PATH:
                raise
        reply = await self._translated.open(call, model)
        self._has_none = True
        log.warning("Provider %s has no /responses: its responses are made from chat completions", self._name)
        return reply

    async def aclose(self) -> None:
        """Both are closed by their makers."""


def _whole(events: ResponseEvents, body: bytes) -> bytes:
    begun = [*events.start(), *_taken(events, body)]
    if not events.finished:
        raise UpstreamError("The upstream's answer could not be understood")
    return _json([*begun, *events.finish()][-1]["response"])


async def _blocks(events: ResponseEvents, first: bytes, rest: Blocks) -> AsyncGenerator[bytes, None]:
    decoder = EventStreamDecoder()
    async with aclosing(rest):
        yield _written([*events.start(), *_fed(events, decoder, first)])
        async for block in rest:
            block = _written(_fed(events, decoder, block))
            if block:
                yield block
    if not events.finished:
        raise UpstreamError("The model's answer was cut off before its end")
    yield _written(events.finish())


def _fed(events: ResponseEvents, decoder: EventStreamDecoder, block: bytes) -> Iterator[Event]:
    for event in decoder.feed(block):
        # some upstreams send empty ones to keep the connection alive
        if event.data and event.data != b"[DONE]":
            yield from _taken(events, event.data)


def _taken(events: ResponseEvents, data: bytes) -> list[Event]:
    """The events of a chunk. Raises UpstreamError for what is no chunk of a chat."""
    try:
        return list(events.feed(_parsed(data)))
    except (AttributeError, TypeError) as error:
        raise UpstreamError("The upstream's answer could not be understood") from error


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise UpstreamError("The upstream's answer could not be understood")
    return parsed


def _written(events: Iterable[Event]) -> bytes:
    return b"".join(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), _json(event)) for event in events)


def _json(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


def _callers_word(field: str | None) -> str | None:
    if field is None:
        return None
    if field.startswith("tools."):
        # chat holds a function one level deeper
        return field.replace(".function", "", 1)
    # where in the messages something is wrong says nothing about where in the input
    return FIELDS.get(field.partition(".")[0], field)
