"""The local model on OpenAI's wire: a body in, chat completions and their chunks out, in OpenAI's own shapes."""

import json
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from apps.core.deltas import Answer, Begun, Delta, Usage, begin, collect
from apps.core.errors import NotFound
from apps.core.ports import ChatModel
from apps.models.gateway.local_body import chat_request
from apps.models.gateway.wire import WireCall, WireReply

DONE = b"data: [DONE]\n\n"


class LocalWire:
    """Puts a ChatModel behind POST /chat/completions."""

    def __init__(self, chat: ChatModel) -> None:
        self._chat = chat

    async def open(self, call: WireCall, model: str) -> WireReply:
        if call.path != "/chat/completions":
            raise NotFound(f"The local model does not serve {call.path}")
        request = chat_request(call.body)
        head = _head("chat.completion.chunk" if call.stream else "chat.completion", self._chat.readiness().name)
        deltas = self._chat.stream(request)
        if not call.stream:
            async with aclosing(deltas):
                return WireReply("application/json", _completion(head, await collect(deltas)))
        options = call.body.get("stream_options") or {}
        blocks = _chunks(head, await begin(deltas), bool(options.get("include_usage")))
        return WireReply("text/event-stream; charset=utf-8", await anext(blocks), blocks)

    async def aclose(self) -> None:
        """The model is closed by whoever made it."""


async def _chunks(head: dict[str, Any], begun: Begun, include_usage: bool) -> AsyncGenerator[bytes, None]:
    last = begun.first
    async with aclosing(begun.rest) as rest:
        yield _chunk(head, {"role": "assistant", "content": ""}) + _text_chunk(head, begun.first)
        async for delta in rest:
            last = delta
            if delta.text:
                yield _text_chunk(head, delta)
    tail = _chunk(head, {}, last.finish_reason)
    if include_usage:
        tail += _event({**head, "choices": [], "usage": usage_json(last.usage)})
    yield tail + DONE


def _completion(head: dict[str, Any], answer: Answer) -> bytes:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
    return json.dumps({**head, "choices": [choice], "usage": usage_json(answer.usage)}, ensure_ascii=False).encode()


def usage_json(usage: Usage | None) -> dict[str, Any] | None:
    """OpenAI's usage object."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def _text_chunk(head: Mapping[str, Any], delta: Delta) -> bytes:
    return _chunk(head, {"content": delta.text}) if delta.text else b""


def _chunk(head: Mapping[str, Any], delta: dict[str, Any], finish: str | None = None) -> bytes:
    return _event({**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"
