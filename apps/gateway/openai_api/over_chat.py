"""Another API over a target that serves chat completions only: the call goes out as a chat, its chunks come back as
that API's events.

OpenAI's responses and Anthropic's messages differ in bodies and events, which their audiences make; the way there and
back is this one. Responses that are made so may be kept for a while, so that a later call can go on from one by its id.
"""

import json
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from apps.core.errors import AppError, UpstreamError
from apps.gateway.protocol import (
    BYTES_PER_TOKEN,
    Blocks,
    Conversation,
    PromptSize,
    WireCall,
    WireReply,
    WireTarget,
    prompt_size,
)
from apps.models.event_stream import EventStreamDecoder

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
    raw = json.dumps(body, ensure_ascii=False).encode()
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
    return _json(events.whole())


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
    return b"".join(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), _json(event)) for event in events)


def _json(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


Item = Mapping[str, Any]
MOST = 1_000
MOST_BYTES_OF_ONE = 2 * 1024 * 1024
MOST_BYTES = 16 * 1024 * 1024
MOST_BYTES_OF_ALL = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """``response`` is its JSON, ``model`` the name that its caller asked for.

    ``conversation`` is all that was said, its answer last: that is ``answered`` items. ``kept_at`` is a time of the
    store's clock.
    """

    id: str
    model: str
    response: bytes
    conversation: Conversation
    answered: int
    kept_at: float

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.response) + len(self.conversation.items)

    def given(self) -> list[Item]:
        """The items of its input, those of the conversation that it went on from first."""
        items = self.conversation.parsed()
        return items[: len(items) - self.answered]


class StoredResponses:
    """Responses in this process, for ``ttl`` seconds; 0 keeps nothing.

    They belong to their tenant. Each is bounded in bytes with its whole conversation, and they are in number and bytes
    for each tenant and for all: the oldest of the tenant that has most goes first.
    """

    def __init__(
        self,
        ttl: float,
        most: int = MOST,
        most_bytes: int = MOST_BYTES,
        most_bytes_of_all: int = MOST_BYTES_OF_ALL,
        clock: Callable[[], float] = time.monotonic,
        most_bytes_of_one: int = MOST_BYTES_OF_ONE,
    ) -> None:
        self.ttl = ttl
        self._most = most
        self._most_bytes_of_one = min(most_bytes_of_one, most_bytes, most_bytes_of_all)
        self._most_bytes = most_bytes
        self._most_bytes_of_all = most_bytes_of_all
        self._clock = clock
        self._kept: dict[str, OrderedDict[str, StoredResponse]] = {}
        self._sizes: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    @property
    def on(self) -> bool:
        """Whether anything is kept at all."""
        return self.ttl > 0

    def keeps(self, call: WireCall) -> bool:
        """Whether the answer is kept, should it be made here."""
        return self.on and call.path == "/responses" and call.body.get("store") is not False

    def keep(
        self, tenant: str, model: str, response: Mapping[str, Any], given: list[Item], before: Conversation | None
    ) -> bool:
        """Keep a whole response that goes on from ``before`` with ``given``; whether there is room for it.

        Only what is new is made JSON of here: the conversation before may be long.
        """
        output = [_without_logprobs(item) for item in response["output"]]
        conversation = _longer(before, given, output)
        stored = StoredResponse(str(response["id"]), model, _json(response), conversation, len(output), self._clock())
        if stored.size > self._most_bytes_of_one:
            return False
        self._forget_old()
        kept = self._kept.setdefault(tenant, OrderedDict())
        kept[stored.id] = stored
        self._sizes[tenant] = self._sizes.get(tenant, 0) + stored.size
        while len(kept) > self._most or self._sizes[tenant] > self._most_bytes:
            self._drop(tenant, next(iter(kept)))
        while sum(self._sizes.values()) > self._most_bytes_of_all:
            largest = max(self._sizes, key=lambda one: self._sizes[one])
            self._drop(largest, next(iter(self._kept[largest])))
        return stored.id in kept

    def find(self, tenant: str, id: str) -> StoredResponse | None:
        self._forget_old()
        kept = self._kept.get(tenant)
        return None if kept is None else kept.get(id)

    def delete(self, tenant: str, id: str) -> None:
        """Forget one that is there."""
        self._drop(tenant, id)

    def _forget_old(self) -> None:
        oldest = self._clock() - self.ttl
        for tenant in list(self._kept):
            kept = self._kept[tenant]
            while kept and (first := next(iter(kept.values()))).kept_at <= oldest:
                self._drop(tenant, first.id)

    def _drop(self, tenant: str, id: str) -> None:
        kept = self._kept[tenant]
        self._sizes[tenant] -= kept.pop(id).size
        if not kept:
            del self._kept[tenant], self._sizes[tenant]


def _longer(before: Conversation | None, question: list[Item], answer: list[Item]) -> Conversation:
    """A conversation that has gone on with a question and its answer."""
    question_json, answer_json = _json(question), _json(answer)
    size = prompt_size(question_json, question)
    tokens, images = size.tokens + len(answer_json) // BYTES_PER_TOKEN, size.images
    lists = [question_json, answer_json]
    if before is not None:
        tokens, images = before.size.tokens + tokens, before.size.images + images
        lists.insert(0, before.items)
    joined = b", ".join(items for one in lists if (items := one[1:-1]))
    return Conversation(b"[%s]" % joined, PromptSize(tokens, images))


def _without_logprobs(item: Item) -> Item:
    """An item of an answer as the next call's prompt has it."""
    content = item.get("content")
    if not isinstance(content, list):
        return item
    return {**item, "content": [{**part, "logprobs": []} if part.get("logprobs") else part for part in content]}
