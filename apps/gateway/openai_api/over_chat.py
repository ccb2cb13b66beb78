"""Another API over a target that serves chat completions only: the call goes out as a chat, its chunks come back as
that API's events.

OpenAI's responses and Anthropic's messages differ in bodies and events, which their audiences make; the way there and
back is this one.
"""

import json
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from apps.core.errors import AppError, UpstreamError
from apps.gateway.protocol import Blocks, WireCall, WireReply, WireTarget
from apps.models.event_stream import EventStreamDecoder, json_bytes, json_event

Event = dict[str, Any]


class AnswerEvents(Protocol):
    """One answer in the making: chunks of a chat in, events out. A whole chat completion counts as one chunk."""

    @property
    def finished(self) -> bool:
        """Whether the chat has said why it ended."""

    def start(self, first: Mapping[str, Any]) -> Iterator[Event]:
        """The events before those of the first chunk, which names the model; empty where none has come yet."""

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        """The events of a chunk."""

    def finish(self) -> Iterator[Event]:
        """The events after the last chunk."""

    def whole(self) -> dict[str, Any]:
        """The answer that is not streamed, after `finish`."""


async def open_over_chat(
    chat: WireTarget,
    call: WireCall,
    model: str,
    body: Mapping[str, Any],
    events: AnswerEvents,
    callers_field: Callable[[str], str],
    *,
    fits: bool = False,
) -> WireReply:
    """Send ``body`` to the chat target and answer with its answer as ``events``.

    ``callers_field`` translates the field that an error names into the caller's own word for it.
    """
    raw = json_bytes(body)
    chat_call = WireCall("/chat/completions", raw, dict(body), call.stream, call.caller, call.record, fits=fits)
    try:
        reply = await chat.open(chat_call, model)
    except AppError as error:
        error.field = None if error.field is None else callers_field(error.field)
        raise
    if reply.rest is None:
        return WireReply("application/json", _whole(events, reply.body))
    blocks = _blocks(events, reply.body, reply.rest)
    return WireReply("text/event-stream; charset=utf-8", await anext(blocks), blocks)


def _whole(events: AnswerEvents, body: bytes) -> bytes:
    # the events of a whole answer are not sent, but they make it
    chunk = _chunk(body)
    list(events.start(chunk))
    _fed(events, chunk)
    if not events.finished:
        raise UpstreamError("The upstream's answer could not be understood")
    list(events.finish())
    return json_bytes(events.whole())


async def _blocks(events: AnswerEvents, first: bytes, rest: Blocks) -> AsyncGenerator[bytes, None]:
    decoder = EventStreamDecoder()
    async with aclosing(rest):
        chunks = [*_chunks(decoder, first)]
        begun = [*events.start(chunks[0] if chunks else {})]
        yield event_bytes([*begun, *(event for chunk in chunks for event in _fed(events, chunk))])
        async for block in rest:
            block = event_bytes(event for chunk in _chunks(decoder, block) for event in _fed(events, chunk))
            if block:
                yield block
    if not events.finished:
        raise UpstreamError("The model's answer was cut off before its end")
    yield event_bytes(events.finish())


def _chunks(decoder: EventStreamDecoder, block: bytes) -> Iterator[dict[str, Any]]:
    for event in decoder.feed(block):
        # some upstreams send empty ones to keep the connection alive
        if event.data and event.data != b"[DONE]":
            yield _chunk(event.data)


def _fed(events: AnswerEvents, chunk: Mapping[str, Any]) -> list[Event]:
    """The events of a chunk. Raises UpstreamError for what is no chunk of a chat."""
    try:
        return list(events.feed(chunk))
    except (AttributeError, TypeError) as error:
        raise UpstreamError("The upstream's answer could not be understood") from error


def _chunk(data: bytes) -> dict[str, Any]:
    """Raises UpstreamError for what is no JSON object."""
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise UpstreamError("The upstream's answer could not be understood")
    return parsed


def event_bytes(events: Iterable[Event]) -> bytes:
    """Events as bytes of a stream."""
    return b"".join(json_event(event, event["type"]) for event in events)
