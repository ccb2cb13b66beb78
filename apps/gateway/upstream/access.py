"""How an upstream is called, the bytes of its answer as they arrive, and the usage that is read from them.

A client, its key in the header of its kind, and what is read of its refusals; then the answer within its timeouts, cut
into blocks of whole events, and closed.

The usage of a stream is asked for where its caller does not, and then removed from what the caller gets. OpenAI sends
it as a chunk of its own, without choices, behind the answer and only where ``stream_options`` wants it.
"""

import asyncio
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from apps.core.calls import CallRecord, Usage
from apps.gateway.protocol import BYTES_PER_TOKEN, NO_ANSWER, WireCall, expected_use
from apps.gateway.routing.config import ProviderConfig
from apps.gateway.upstream.chat_normalizer import ChatNormalizer
from apps.gateway.upstream.event_blocks import (
    EventBlocks,
    MessageUsage,
    ResponseBlocks,
    end_of_first_event,
    end_of_last_event,
    event_data,
    is_silent,
)
from apps.models.upstream_errors import FAILURES, nonsense, translate
from apps.transport.client import Client, Connections
from apps.transport.response import Response

PATHS = frozenset({"/chat/completions", "/completions"})
OPTIONS = "stream_options"
# null stands in the other chunks; inside a string of a model's text the quotes would be escaped
USAGE = re.compile(rb'"usage"\s*:\s*\{')
# keys only, for the same reason
PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,12})')
COMPLETION = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,12})')
ANSWERS_TOKENS = re.compile(rb'"(?:completion|output)_tokens"')
CACHED = re.compile(rb'"cached_tokens"\s*:\s*(\d{1,12})')
# what a model says, as against names and ids of it
ANSWER_FIELDS = frozenset(
    {"message", "content", "text", "refusal", "reasoning_content", "tool_calls", "function", "arguments"}
)
SPLICE = b',"stream_options":{"include_usage":true}'


def usage_in(body: bytes) -> Usage | None:
    """The usage of a body or a block, the last one where it has several; None where it has none.

    A usage that leaves the answer's tokens open (null) is none; that of embeddings has no such field.
    """
    if body.find(b'"usage"') < 0:
        return None
    prompts = PROMPT.findall(body)
    completions = COMPLETION.findall(body)
    if not prompts or (not completions and ANSWERS_TOKENS.search(body) is not None):
        return None
    cached = CACHED.findall(body)
    return Usage(int(prompts[-1]), int(completions[-1]) if completions else 0, int(cached[-1]) if cached else 0)


def estimated_usage(call: WireCall, body: bytes) -> Usage:
    """The usage of a whole answer that reports none: a token for four bytes."""
    answer = 0 if call.path in NO_ANSWER else _text_bytes(json.loads(body)) // BYTES_PER_TOKEN
    return Usage(expected_use(call).prompt, answer, estimated=True)


def _text_bytes(value: Any) -> int:
    """Bytes of all texts that stand in what an answer says: its choices, or its output."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, list):
        return sum(map(_text_bytes, value))
    if not isinstance(value, dict):
        return 0
    outputs = [value[name] for name in ("choices", "output") if name in value] or [
        item for name, item in value.items() if name in ANSWER_FIELDS
    ]
    return sum(map(_text_bytes, outputs))


def lacks_usage(call: WireCall) -> bool:
    """Whether this call's stream would come without usage."""
    if not call.stream or call.path not in PATHS:
        return False
    options = call.body.get(OPTIONS)
    if options is None:
        return True
    # what is no object is the upstream's to refuse
    return isinstance(options, Mapping) and options.get("include_usage") in (None, False)


def asking_for_usage(call: WireCall, model: str) -> bytes:
    """The bytes for a target that ask for usage; all else as it came."""
    if OPTIONS in call.body:
        asking = {OPTIONS: {**(call.body[OPTIONS] or {}), "include_usage": True}}
        return json.dumps({**call.body, "model": model, **asking}, ensure_ascii=False).encode()
    body = call.for_model(model)
    end = body.rindex(b"}")
    return body[:end] + SPLICE + body[end:]


def names_stream_options(refusal: bytes) -> bool:
    """Whether an upstream's error is about what was put into the call here."""
    return b"stream_options" in refusal or b"include_usage" in refusal


class UsageReader:
    """Notes the usage that passes by on the call's record; where ``hidden``, removes the chunk that holds only that."""

    def __init__(self, record: CallRecord | None, *, hidden: bool) -> None:
        self._record = record
        self._hidden = hidden

    def read(self, block: bytes) -> bytes:
        """The block for the caller; it may be empty."""
        at = block.find(b'"usage"')
        found = USAGE.search(block, at) if at >= 0 else None
        if found is None:
            return block
        # what stands before the event with the usage, mostly all of the block, is not read again
        start = end_of_last_event(block[: found.start()])
        last = block[start:]
        usage = usage_in(last)
        if usage is not None and self._record is not None:
            self._record.usage = usage
        return block[:start] + _without_usage_chunk(last) if self._hidden else block


def _without_usage_chunk(block: bytes) -> bytes:
    kept, at = [], 0
    while at < len(block):
        end = end_of_first_event(block, at)
        event = block[at:end]
        if event.find(b'"usage"') < 0 or not _has_usage_alone(event):
            kept.append(event)
        at = end
    return b"".join(kept)


def _has_usage_alone(event: bytes) -> bool:
    if not USAGE.search(event):
        return False
    try:
        chunk: Any = json.loads(event_data(event).decode())
    except (ValueError, RecursionError):
        return False
    return isinstance(chunk, dict) and chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)


ANTHROPIC_VERSION = "2023-06-01"
ERROR_BYTES = 65_536
FIXED = {"User-Agent": "genai-project", "Accept-Encoding": "identity"}


def access_headers(provider: ProviderConfig, api_key: str) -> dict[str, str]:
    """The headers of every call, the key among them where there is one."""
    headers = dict(FIXED)
    if provider.kind == "anthropic":
        headers["anthropic-version"] = ANTHROPIC_VERSION
        return {**headers, "x-api-key": api_key} if api_key else headers
    if api_key and provider.kind == "azure":
        headers["api-key"] = api_key
    elif api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


def hidden_words(provider: ProviderConfig, api_key: str) -> tuple[str, ...]:
    """What no caller may read in an upstream's own words: its host, its address, its key."""
    base = provider.base_url.rstrip("/")
    return tuple(filter(None, (urlsplit(provider.base_url).hostname, base, api_key)))


def open_client(provider: ProviderConfig, headers: dict[str, str], connections: Connections | None) -> Client:
    """A client for the provider's address, which sends ``headers`` with each call."""
    timeouts = provider.timeouts
    return Client(provider.base_url, headers, timeouts.connect, connections=connections, write=timeouts.write)


async def beginning(response: Response, until: float) -> bytes:
    """As much of an error's body as is needed to see what it is about, or as came before it broke off."""
    body = b""
    try:
        while len(body) < ERROR_BYTES and (chunk := await response.chunk(math.inf, until)):
            body += chunk
    except FAILURES:
        return body
    return body


def patience_for_words(provider: ProviderConfig) -> float:
    """Until when, in the event loop's time, an upstream may take to say why it refuses."""
    return asyncio.get_running_loop().time() + provider.timeouts.between_tokens


DRAIN_SECONDS = 1.0


# what an upstream may have compressed its answer with, though it was asked not to; zlib tells them apart by itself
CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class Body(Protocol):
    """What is read of an answer: a Response, or one whose body is unpacked on the way."""

    async def chunk(self, silence: float, ends: float) -> bytes: ...

    def leave(self, seconds: float) -> None: ...

    def close(self) -> None: ...


class Unpacked:
    """Implements Body for a compressed answer. Raises UpstreamError where it is not what its header says."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._unpack = zlib.decompressobj(GZIP_OR_ZLIB)
        self.leave: Callable[[float], None] = response.leave
        self.close: Callable[[], None] = response.close

    async def chunk(self, silence: float, ends: float) -> bytes:
        """The next bytes, and nothing at the end."""
        try:
            while packed := await self._response.chunk(silence, ends):
                if data := self._unpack.decompress(packed):
                    return data
            return self._unpack.flush()
        except zlib.error:
            raise nonsense("The upstream's answer is not compressed as it says") from None


def body_of(response: Response) -> Body:
    """The body of an answer, without its content coding. Raises UpstreamError for an unknown coding."""
    coding = (response.header(b"content-encoding") or "identity").strip().lower()
    if coding == "identity":
        return response
    if coding not in CODINGS:
        raise nonsense("The upstream's answer has a content coding that nobody asked for")
    return Unpacked(response)


async def read_whole(body: Body, silence: float, ends: float, begun: bytes = b"") -> bytes:
    """An answer's body behind what has ``begun``. Raises UpstreamError or Timeout where it breaks off."""
    parts = [begun]
    try:
        while data := await body.chunk(silence, ends):
            parts.append(data)
    except FAILURES as error:
        raise translate(error, begun=True) from error
    return b"".join(parts)


class UpstreamBlocks:
    """The blocks of a streamed answer behind its first; closing it ends the upstream's work.

    Between two of them there is no silence longer than ``silence`` seconds, and nothing comes after the time ``ends``.
    A slow reader's own time does not count.
    """

    def __init__(
        self,
        response: Body,
        silence: float,
        ends: float,
        events: EventBlocks | ResponseBlocks,
        usage: UsageReader | MessageUsage,
        chat: ChatNormalizer | None = None,
    ) -> None:
        self._response = response
        self._chat = chat
        self._silence = silence
        self._ends = ends
        self._events = events
        self._usage = usage

    async def first(self, silence: float, until: float, begun: bytes = b"") -> bytes:
        """Everything up to the first block that says something: only then has the answer begun.

        It has till the time ``until`` for that, without ``silence`` seconds free of bytes; ``begun`` is what has been
        read of it.
        """
        head = b""
        while True:
            chunk, begun = begun or await self._response.chunk(silence, until), b""
            block = self._feed(chunk)
            head += block
            if self._events.fault is not None and (not head or is_silent(head)):
                raise self._events.fault
            if block and not is_silent(block):
                return head

    def __aiter__(self) -> "UpstreamBlocks":
        return self

    async def __anext__(self) -> bytes:
        while not self._events.ended:
            if self._events.fault is not None:
                raise self._events.fault
            try:
                block = self._feed(await self._response.chunk(self._silence, self._ends))
            except FAILURES as error:
                raise translate(error, begun=True) from error
            if block:
                return block
        raise StopAsyncIteration

    async def aclose(self) -> None:
        if self._events.ended:
            # what stands behind [DONE] is the end of the body: with it the connection can be used again
            self._response.leave(DRAIN_SECONDS)
        else:
            self._response.close()

    def _feed(self, chunk: bytes) -> bytes:
        block = self._events.feed(chunk) if chunk else self._events.finish()
        if self._chat is not None:
            block = self._chat.read(block)
        return self._usage.read(block)
