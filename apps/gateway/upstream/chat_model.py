"""An upstream on OpenAI's wire, as a ChatModel: a ChatRequest goes out as a body, blocks come back as deltas."""

import json
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from apps.core.deltas import Delta
from apps.core.messages import ChatRequest
from apps.core.ports import Readiness
from apps.gateway.protocol import WireCall, WireTarget
from apps.models.event_stream import EventStreamDecoder
from apps.models.openai_chat import chat_body, deltas_of
from apps.models.upstream_errors import parsed_object


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
