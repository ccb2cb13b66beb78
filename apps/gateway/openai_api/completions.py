"""The legacy completions of the local model: the prompt goes to it as it is, and it writes on.

No chat template is used: a chat model continues the text too, it is just not asked anything.
"""

import json
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from apps.core.calls import CallRecord, Usage
from apps.core.deltas import Begun, begin, collect
from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField, UpstreamError
from apps.core.messages import ChatRequest
from apps.core.ports import ChatModel
from apps.gateway.openai_api.chat_completions import DONE, usage_json
from apps.gateway.openai_api.chat_request import chat_request, wants_usage
from apps.gateway.protocol import WireCall, WireReply

# read by the chat's own reader, with the same limits
SHARED = frozenset({"model", "stream", "stream_options", "user", "temperature", "top_p", "max_tokens", "stop", "seed"})
# these may stand there with the value that means "nothing special"
ONLY: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
}
# OpenAI's own default
MAX_TOKENS = 16


class LocalCompletions:
    """Implements WireTarget for POST /completions over a ChatModel that takes raw prompts."""

    def __init__(self, chat: ChatModel) -> None:
        self._chat = chat

    async def open(self, call: WireCall, model: str) -> WireReply:
        request, prefix = _read(call)
        with_usage = wants_usage(call.body)
        head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._chat.readiness().name,
        }
        deltas = self._chat.stream(request)
        if not call.stream:
            async with aclosing(deltas):
                answer = await collect(deltas)
            if call.record is not None:
                call.record.usage = answer.usage
            choice = _choice(prefix + answer.text, answer.finish_reason)
            body = _json({**head, "choices": [choice], "usage": usage_json(answer.usage)})
            return WireReply("application/json", body)
        blocks = _chunks(head, prefix, await begin(deltas), with_usage, call.record)
        return WireReply("text/event-stream; charset=utf-8", await anext(blocks), blocks)

    async def aclose(self) -> None:
        """The model is closed by its maker."""


def _read(call: WireCall) -> tuple[ChatRequest, str]:
    """The request, and what is said before the answer. Raises an error of the contract's table, with its field."""
    body = call.body
    prompt, echo = body.get("prompt"), body.get("echo")
    for name, value in body.items():
        known = name in SHARED or name in ("prompt", "echo")
        if not known and value is not None and value not in ONLY.get(name, ()):
            raise InvalidValue(f"The local model cannot honour {name[:100]}", field=name[:100])
    if echo is not None and not isinstance(echo, bool):
        raise InvalidType("Echo must be true or false", field="echo")
    text = _prompt(prompt)
    shared = {name: value for name, value in body.items() if name in SHARED and value is not None}
    request = chat_request({**shared, "messages": [{"role": "user", "content": text}]}, call.caller)
    limit = MAX_TOKENS if request.max_tokens is None else request.max_tokens
    return replace(request, raw=True, max_tokens=limit), text if echo else ""


def _prompt(prompt: Any) -> str:
    if prompt is None:
        raise MissingRequiredField("Prompt is required", field="prompt")
    if isinstance(prompt, list):
        if not all(isinstance(part, str) for part in prompt):
            raise InvalidValue("The local model takes a prompt as text, not as tokens", field="prompt")
        if len(prompt) != 1:
            raise InvalidValue("The local model takes one prompt a call", field="prompt")
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise InvalidType("Prompt must be a string", field="prompt")
    if not prompt:
        raise InvalidValue("Prompt must not be empty", field="prompt")
    return prompt


async def _chunks(
    head: Mapping[str, Any], prefix: str, begun: Begun, with_usage: bool, record: CallRecord | None
) -> AsyncGenerator[bytes, None]:
    last = begun.first
    async with aclosing(begun.rest) as rest:
        yield _event({**head, "choices": [_choice(prefix + last.text, None)]})
        async for delta in rest:
            last = delta
            if delta.text:
                yield _event({**head, "choices": [_choice(delta.text, None)]})
    if last.finish_reason is None:
        raise UpstreamError("The model's answer was cut off before its end")
    if record is not None:
        record.usage = last.usage
    tail = _event({**head, "choices": [_choice("", last.finish_reason)]})
    if with_usage:
        tail += _usage_event(head, last.usage)
    yield tail + DONE


def _usage_event(head: Mapping[str, Any], usage: Usage | None) -> bytes:
    return _event({**head, "choices": [], "usage": usage_json(usage)})


def _choice(text: str, finish: str | None) -> dict[str, Any]:
    return {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + _json(data) + b"\n\n"


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()
