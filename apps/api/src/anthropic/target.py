"""POST /messages over a target that serves chat completions only: translated there and back."""

import json
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from typing import Any

from apps.api.src.anthropic.events import Event, MessageEvents, parsed_chunk
from apps.api.src.anthropic.request import chat_body, is_prefilled
from apps.core.errors import AppError, UpstreamError
from apps.gateway.protocol import Blocks, WireCall, WireReply, WireTarget
from apps.models.event_stream import EventStreamDecoder

# what a chat target calls it, and what the caller called it
FIELDS = {"stop": "stop_sequences", "response_format": "output_format"}


class MessagesOverChat:
    """Implements WireTarget for POST /messages. ``in_process``: the chat is a model of this process."""

    def __init__(self, chat: WireTarget, *, in_process: bool = False) -> None:
        self._chat = chat
        self._in_process = in_process

    async def open(self, call: WireCall, model: str) -> WireReply:
        body = chat_body(call.body)
        if self._in_process and is_prefilled(call.body):
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        raw = json.dumps(body, ensure_ascii=False).encode()
        chat_call = WireCall("/chat/completions", raw, body, call.stream, call.caller, call.record, fits=True)
        try:
            reply = await self._chat.open(chat_call, model)
        except AppError as error:
            error.field = _callers_word(error.field)
            raise
        events = MessageEvents(model or str(call.body["model"]))
        if reply.rest is None:
            return WireReply("application/json", _whole(events, reply.body))
        blocks = _blocks(events, reply.body, reply.rest)
        return WireReply("text/event-stream; charset=utf-8", await anext(blocks), blocks)

    async def aclose(self) -> None:
        """The chat target is closed by whoever made it."""


def _whole(events: MessageEvents, body: bytes) -> bytes:
    _taken(events, body)
    if not events.finished:
        raise UpstreamError("The upstream's answer could not be understood")
    list(events.finish())
    return json.dumps(events.message(), ensure_ascii=False).encode()


async def _blocks(events: MessageEvents, first: bytes, rest: Blocks) -> AsyncGenerator[bytes, None]:
    decoder = EventStreamDecoder()
    async with aclosing(rest):
        begun = list(_fed(events, decoder, first))
        yield written([*events.start(), {"type": "ping"}, *begun])
        async for block in rest:
            block = written(_fed(events, decoder, block))
            if block:
                yield block
    if not events.finished:
        raise UpstreamError("The model's answer was cut off before its end")
    yield written(events.finish())


def _fed(events: MessageEvents, decoder: EventStreamDecoder, block: bytes) -> Iterator[Event]:
    for event in decoder.feed(block):
        if event.data and event.data != b"[DONE]":
            yield from _taken(events, event.data)


def _taken(events: MessageEvents, data: bytes) -> list[Event]:
    try:
        return list(events.feed(parsed_chunk(data)))
    except (AttributeError, TypeError) as error:
        raise UpstreamError("The upstream's answer could not be understood") from error


def written(events: Iterable[Event]) -> bytes:
    """Events as bytes of a stream."""
    return b"".join(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), _json(event)) for event in events)


def _json(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


def _callers_word(field: str | None) -> str | None:
    if field is None:
        return None
    name, _, rest = field.partition(".")
    if name == "messages":
        # the system prompt and results of calls move the numbers of messages
        return "messages"
    if name == "tools":
        return field.replace(".function.parameters", ".input_schema", 1).replace(".function", "", 1)
    return FIELDS.get(name, name) if name in FIELDS or not rest else field
