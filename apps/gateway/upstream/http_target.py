"""An upstream over HTTP: one provider's wire, whose bytes pass through, and the same as a ChatModel.

A wire is put together of several: each path of OpenAI's API may have a target of its own. The SDK and httpx cost a
multiple of the rest of the path, and aiohttp a quarter of it (see apps/DECISIONS.md); this knows no more of the API
than where a call goes and what a failure means. The client is imported when the first call needs it.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from apps.core.deltas import Delta
from apps.core.errors import AppError, NotFound
from apps.core.messages import ChatRequest
from apps.core.ports import Readiness
from apps.gateway.protocol import MakesResponses, TraceHeaders, WireCall, WireReply, WireTarget
from apps.gateway.routing.config import ProviderConfig
from apps.gateway.upstream.access import (
    Body,
    UpstreamBlocks,
    UsageReader,
    access_headers,
    asking_for_usage,
    beginning,
    body_of,
    estimated_usage,
    hidden_words,
    lacks_usage,
    names_stream_options,
    open_client,
    patience_for_words,
    read_whole,
    usage_in,
)
from apps.gateway.upstream.chat_normalizer import AtOnce, ChatNormalizer, as_events, normalized
from apps.gateway.upstream.event_blocks import EventBlocks, MessageBlocks, MessageUsage, ResponseBlocks, whole_json
from apps.models.event_stream import EventStreamDecoder
from apps.models.openai_chat import chat_body, deltas_of
from apps.models.upstream_errors import (
    CALLERS_FAULT,
    FAILURES,
    missing_key,
    nonsense,
    not_configured,
    parsed_object,
    read_rejection,
    status_error,
    translate,
)

if TYPE_CHECKING:
    from apps.transport.client import Client, Connections
    from apps.transport.response import Response


class ByPath:
    """Implements WireTarget. Paths that are not listed go to ``rest``; without it they are NotFound."""

    def __init__(self, targets: Mapping[str, WireTarget], rest: WireTarget | None = None) -> None:
        self._targets = dict(targets)
        self._rest = rest
        if isinstance(rest, ByPath):
            # one look instead of one after the other
            self._targets, self._rest = {**rest._targets, **targets}, rest._rest

    @property
    def makes_responses(self) -> bool:
        """As of MakesResponses."""
        target = self._targets.get("/responses", self._rest)
        return isinstance(target, MakesResponses) and target.makes_responses

    def open(self, call: WireCall, model: str) -> Coroutine[Any, Any, WireReply]:
        target = self._targets.get(call.path, self._rest)
        if target is None:
            raise NotFound(f"This model does not serve {call.path}", field="model")
        return target.open(call, model)

    async def aclose(self) -> None:
        for target in [*self._targets.values(), *([self._rest] if self._rest else [])]:
            await target.aclose()


MANY = 1024
EMPTY_BODY = b" "
# what an upstream answers to a field that it does not know
UNKNOWN_FIELD = (400, 422)
JSON, EVENTS = "application/json", "text/event-stream"
# the key of each choice's answer; within a model's text its quotes would be escaped
ANSWERS = {"/chat/completions": b'"message"', "/completions": b'"text"'}
# types of content that leave open what it is
SAYS_NOTHING = frozenset({"", "text/plain", "application/octet-stream"})
# white space, and the bytes of a byte order mark
BLANK = b" \t\r\n\xef\xbb\xbf"
log = logging.getLogger(__name__)


class HttpTarget:
    """One provider: a pooled client with keep-alive, its address, its key and its timeouts.

    ``trace`` makes the headers that tie a call to its trace, where there is one.
    """

    def __init__(
        self,
        provider: ProviderConfig,
        api_key: str,
        trace: TraceHeaders | None = None,
        connections: "Connections | None" = None,
    ) -> None:
        self._provider = provider
        self._first_silence = provider.timeouts.first_silence
        self._base = provider.base_url.rstrip("/")
        self._trace = trace
        self._connections = connections
        self._client: Client | None = None
        self.reached = False
        """Whether it has answered a call, whatever it said."""
        # paths and models whose upstream has refused to be asked for usage
        self._mute_on_usage: set[tuple[str, str]] = set()
        self._missing = missing_key(provider.base_url, api_key, provider.api_key_env)
        self._headers = {**access_headers(provider, api_key), "Accept": "*/*", "Content-Type": "application/json"}
        self._hidden = hidden_words(provider, api_key)

    def not_configured(self) -> str:
        """What an operator has to do before this can be called; empty where nothing is missing."""
        return self._missing

    async def open(self, call: WireCall, model: str) -> WireReply:
        if self._missing:
            raise not_configured(self._missing)
        timeouts = self._provider.timeouts
        now = asyncio.get_running_loop().time()
        ends = now + timeouts.total
        # where it is not streamed, its caller waits for the last token, so only the total time bounds it: see Attempts
        begins = min(now + timeouts.first_token, ends) if call.stream else ends
        try:
            return await self._send(call, model, now, begins, ends)
        except FAILURES as error:
            raise translate(error) from error

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _send(self, call: WireCall, model: str, now: float, begins: float, ends: float) -> WireReply:
        asking = lacks_usage(call) and self._provider.stream_usage and (call.path, model) not in self._mute_on_usage
        if self._client is None:
            self._client = open_client(self._provider, self._headers, self._connections)
        body = asking_for_usage(call, model) if asking else call.for_model(model)
        until = min(now + self._first_silence, begins) if call.stream else begins
        response = await self._client.post(self._address(call.path, model), body, until, self._more_headers(call))
        self.reached = True
        try:
            if response.status == 200:
                return await self._reply(call, response, begins, ends, hidden=asking)
            body = await self._error_body(response, call, model, begins)
            if not (asking and response.status in UNKNOWN_FIELD and names_stream_options(body)):
                raise self._refusal(response, body)
        except BaseException:
            response.close()
            raise
        response.close()
        self._note_refusal(call.path, model)
        return await self._send(call, model, asyncio.get_running_loop().time(), begins, ends)

    def _more_headers(self, call: WireCall) -> Mapping[str, str] | None:
        """Headers of this call alone."""
        return self._trace() if self._trace is not None else None

    async def _error_body(self, response: "Response", call: WireCall, model: str, until: float) -> bytes:
        """What the upstream says of a call that it refused for the caller's fault; nothing of any other failure."""
        status = response.status
        # a name that is not found is the caller's fault where he chose it, and the routing file's where that did
        if status not in CALLERS_FAULT and not (status == 404 and call.body.get("model") == model):
            return b""
        return await beginning(response, min(until, patience_for_words(self._provider))) or EMPTY_BODY

    def _refusal(self, response: "Response", body: bytes) -> AppError:
        rejection = read_rejection(response.status, body, self._hidden) if body else None
        return status_error(response.status, response.headers, rejection)

    def _note_refusal(self, path: str, model: str) -> None:
        if len(self._mute_on_usage) >= MANY:
            self._mute_on_usage.clear()
        self._mute_on_usage.add((path, model))
        log.warning("An upstream refuses stream_options on %s: the tokens of its streams are estimated", path)

    async def _reply(
        self, call: WireCall, response: "Response", begins: float, ends: float, *, hidden: bool
    ) -> WireReply:
        content_type = response.header(b"content-type") or ""
        body, silence = body_of(response), self._provider.timeouts.between_tokens
        if not call.stream:
            whole = await self._whole(call, body, ends)
            return WireReply(content_type if "json" in content_type.lower() else JSON, whole)
        begun, is_stream = b"", content_type.startswith(EVENTS)
        if not is_stream:
            begun, is_stream = await self._begun(content_type.lower(), body, begins)
        if not is_stream:
            return WireReply(EVENTS, as_events(call, await self._whole(call, body, begins, begun)), AtOnce())
        chat = ChatNormalizer() if call.path == "/chat/completions" else None
        choices = call.body.get("n")
        if call.path == "/messages":
            messages = UpstreamBlocks(body, silence, ends, MessageBlocks(), MessageUsage(call.record))
            first = await messages.first(self._first_silence, begins, begun)
            return WireReply(EVENTS, first, messages)
        events = ResponseBlocks() if call.path == "/responses" else EventBlocks(choices if type(choices) is int else 1)
        blocks = UpstreamBlocks(body, silence, ends, events, UsageReader(call.record, hidden=hidden), chat)
        return WireReply(EVENTS, await blocks.first(self._first_silence, begins, begun), blocks)

    async def _whole(self, call: WireCall, body: Body, ends: float, begun: bytes = b"") -> bytes:
        """A whole answer, whose usage is noted. Raises UpstreamError where it is none."""
        whole = whole_json(await read_whole(body, self._provider.timeouts.between_tokens, ends, begun))
        if ANSWERS.get(call.path, b"") not in whole:
            raise nonsense("The upstream's answer has no choices")
        if call.path == "/chat/completions":
            whole = normalized(whole)
        if call.path == "/messages":
            MessageUsage(call.record).read(whole)
        elif call.record is not None:
            call.record.usage = usage_in(whole) or estimated_usage(call, whole)
        return whole

    async def _begun(self, content_type: str, body: Body, until: float) -> tuple[bytes, bool]:
        """The first bytes, as far as they had to be read, and whether they begin a stream of events."""
        if "event-stream" in content_type or "json" in content_type:
            return b"", "event-stream" in content_type
        if content_type.partition(";")[0].strip() not in SAYS_NOTHING:
            return b"", False
        begun = b""
        while not begun.lstrip(BLANK) and (chunk := await body.chunk(self._first_silence, until)):
            begun += chunk
        return begun, not begun.lstrip(BLANK).startswith(b"{")

    def _address(self, path: str, model: str) -> str:
        if self._provider.kind == "azure":
            deployment = f"/openai/deployments/{quote(model, safe='')}"
            return f"{self._base}{deployment}{path}?api-version={self._provider.api_version}"
        return self._base + path


class ChatWire(WireTarget, Protocol):
    """A target that takes /chat/completions, and knows whether it can be called."""

    @property
    def reached(self) -> bool: ...

    def not_configured(self) -> str: ...


class WireModel:
    """Always streams from the upstream, so that its timeouts are silences and never the length of an answer."""

    def __init__(self, name: str, wire: ChatWire) -> None:
        self._name = name
        self._wire = wire

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        body = chat_body(request, "") | {"stream": True, "stream_options": {"include_usage": True}}
        async for delta in deltas_of(self._chunks(body), body["model"]):
            yield delta

    def readiness(self) -> Readiness:
        missing = self._wire.not_configured()
        if missing:
            return Readiness(self._name, "not_configured", missing)
        if not self._wire.reached:
            return Readiness(self._name, "unknown", "configured, and no call has reached it yet")
        return Readiness(self._name, "ready", "configured")

    async def start(self) -> None:
        """The client connects when it is first asked."""

    async def aclose(self) -> None:
        """The wire is closed by its maker."""

    def _chunks(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        return chunks_of(self._wire, WireCall("/chat/completions", json.dumps(body).encode(), body, stream=True))


async def chunks_of(wire: WireTarget, call: WireCall) -> AsyncGenerator[dict[str, Any], None]:
    """The parsed events of a streamed call to the model that its body names. Raises as the wire does."""
    reply = await wire.open(call, call.body["model"])
    decoder = EventStreamDecoder()
    try:
        for event in decoder.feed(reply.body):
            if event.data and event.data != b"[DONE]":
                yield parsed_object(event.data)
        if reply.rest is not None:
            async for block in reply.rest:
                for event in decoder.feed(block):
                    if event.data and event.data != b"[DONE]":
                        yield parsed_object(event.data)
    finally:
        await reply.close()
