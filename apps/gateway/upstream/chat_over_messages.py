"""POST /chat/completions over an upstream that speaks Anthropic's messages: translated there and back.

What a message cannot say is refused with InvalidValue by its name.
"""

import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField, UpstreamError
from apps.gateway.openai_api.chat_completions import DONE
from apps.gateway.openai_api.chat_messages import read_messages, read_tool_choice, read_tools
from apps.gateway.openai_api.chat_request import read_boolean, read_integer
from apps.gateway.openai_api.fields import NEUTRAL, refuse_others
from apps.gateway.protocol import Blocks, WireCall, WireReply
from apps.models.event_stream import EventStreamDecoder, json_bytes, json_event
from apps.models.upstream_errors import parsed_object

READ = frozenset({"model", "messages", "stream", "stream_options", "temperature", "top_p", "top_k", "stop", "user"})
READ |= {"max_tokens", "max_completion_tokens", "tools", "tool_choice", "parallel_tool_calls"}
ASKS_NOTHING: Mapping[str, tuple[Any, ...]] = {
    **NEUTRAL, "n": (1,), "logprobs": (False,), "presence_penalty": (0,), "frequency_penalty": (0,),
    "logit_bias": ({},), "response_format": ({"type": "text"},),
}  # fmt: skip
WHO = "An upstream of Anthropic's kind"
# Anthropic wants a limit; where the caller has none
MOST_TOKENS = 4096
FINISHES = {"max_tokens": "length", "tool_use": "tool_calls", "refusal": "content_filter"}
CHOICES = {"auto": "auto", "none": "none", "required": "any"}
Json = dict[str, Any]


class MessagesWire(Protocol):
    """A target that takes /messages."""

    @property
    def reached(self) -> bool: ...

    async def open(self, call: WireCall, model: str) -> WireReply: ...

    async def aclose(self) -> None: ...

    def not_configured(self) -> str: ...


class ChatOverMessages:
    """Implements WireTarget for POST /chat/completions."""

    def __init__(self, messages: MessagesWire) -> None:
        self._messages = messages

    async def open(self, call: WireCall, model: str) -> WireReply:
        body = messages_body(call.body)
        raw = json_bytes(body)
        sent = WireCall("/messages", raw, body, call.stream, call.caller, call.record)
        reply = await self._messages.open(sent, model)
        if reply.rest is None:
            return WireReply("application/json", json_bytes(completion(parsed_object(reply.body))))
        options = call.body.get("stream_options")
        with_usage = isinstance(options, Mapping) and options.get("include_usage") is True
        blocks = _blocks(_Chunks(model, with_usage), reply.body, reply.rest)
        return WireReply("text/event-stream; charset=utf-8", await anext(blocks), blocks)

    async def aclose(self) -> None:
        """The target of messages is closed by its maker."""

    @property
    def reached(self) -> bool:
        """Whether a call has reached the upstream."""
        return self._messages.reached

    def not_configured(self) -> str:
        return self._messages.not_configured()


def messages_body(body: Mapping[str, Any]) -> Json:
    """A chat completions body as one of messages. Raises an error of the contract's table that names the field."""
    refuse_others(body, READ, ASKS_NOTHING, WHO)
    read_messages(body.get("messages"))
    tools = read_tools(body.get("tools"))
    limits = [read_integer(body, name, 1, 2**31 - 1) for name in ("max_completion_tokens", "max_tokens")]
    turns = list(_turns(body["messages"]))
    made: Json = {
        "model": body.get("model"),
        "max_tokens": next((limit for limit in limits if limit is not None), MOST_TOKENS),
        "messages": [turn for turn in turns if turn["role"] != "system"],
    }
    if system := "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system"):
        made["system"] = system
    for name in ("temperature", "top_p", "top_k"):
        if body.get(name) is not None:
            made[name] = body[name]
    if body.get("stop"):
        made["stop_sequences"] = [body["stop"]] if isinstance(body["stop"], str) else body["stop"]
    if isinstance(body.get("user"), str):
        made["metadata"] = {"user_id": body["user"]}
    if tools:
        made["tools"] = [_tool(tool["function"]) for tool in tools]
    choice = read_tool_choice(body.get("tool_choice"), tools)
    if tools and (choice is not None or read_boolean(body, "parallel_tool_calls") is False):
        made["tool_choice"] = _tool_choice(choice, parallel=read_boolean(body, "parallel_tool_calls") is not False)
    if body.get("stream"):
        made["stream"] = True
    return made


def _turns(messages: list[Mapping[str, Any]]) -> Iterator[Json]:
    """Turns of the system, whose content is text, and the others, whose content is blocks; none twice in a row."""
    last: Json | None = None
    for index, message in enumerate(messages):
        where, role = f"messages.{index}", message["role"]
        if role in ("system", "developer"):
            yield {"role": "system", "content": "".join(block["text"] for block in _content(message, where))}
            continue
        blocks = list(_content(message, where))
        if role == "tool":
            role, blocks = "user", [{"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": blocks}]
        for call in message.get("tool_calls") or ():
            blocks.append({"type": "tool_use", "id": call["id"], **_function(call["function"], where)})
        if last is not None and last["role"] == role:
            last["content"] += blocks
            continue
        if last is not None:
            yield last
        last = {"role": role, "content": blocks}
    if last is not None:
        yield last


def _content(message: Mapping[str, Any], where: str) -> Iterator[Json]:
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    for number, part in enumerate(parts):
        at, kind = f"{where}.content.{number}", part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            # Anthropic refuses a block without text
            yield from [{"type": "text", "text": part["text"]}] if part["text"] else []
        elif kind == "image_url":
            yield {"type": "image", "source": _source(part.get("image_url"), at)}
        else:
            raise InvalidValue(f"{WHO} cannot take parts of type {str(kind)[:100]}", field=f"{at}.type")


def _source(image: Any, at: str) -> Json:
    url = image.get("url") if isinstance(image, Mapping) else image
    if not isinstance(url, str):
        raise MissingRequiredField("An image has an url", field=f"{at}.image_url")
    head, comma, data = url.partition(",")
    if head.startswith("data:") and comma:
        return {"type": "base64", "media_type": head[5:].partition(";")[0], "data": data}
    return {"type": "url", "url": url}


def _function(function: Mapping[str, Any], where: str) -> Json:
    try:
        given = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise InvalidType("Arguments must be a JSON object", field=f"{where}.tool_calls")
    return {"name": function["name"], "input": given}


def _tool(function: Mapping[str, Any]) -> Json:
    described = {"description": function["description"]} if function.get("description") else {}
    return {"name": function["name"], **described, "input_schema": function.get("parameters") or {"type": "object"}}


def _tool_choice(choice: Any, *, parallel: bool) -> Json:
    named = isinstance(choice, Mapping)
    made: Json = {"type": "tool", "name": choice["function"]["name"]} if named else {"type": CHOICES[choice or "auto"]}
    return made if parallel or made["type"] == "none" else {**made, "disable_parallel_tool_use": True}


def completion(message: Mapping[str, Any]) -> Json:
    """A message as a chat completion. Raises UpstreamError where it is none."""
    try:
        blocks = message["content"]
        answer: Json = {"role": "assistant", "content": _joined(blocks, "text") or None, "refusal": None}
        if thought := _joined(blocks, "thinking"):
            answer["reasoning_content"] = thought
        calls = [block for block in blocks if block["type"] == "tool_use"]
        if calls:
            answer["tool_calls"] = [
                {
                    "id": c["id"],
                    "type": "function",
                    "function": {"name": c["name"], "arguments": json.dumps(c["input"])},
                }
                for c in calls
            ]
        finish = FINISHES.get(message["stop_reason"], "stop")
        return {
            **_head("chat.completion", message),
            "choices": [{"index": 0, "message": answer, "logprobs": None, "finish_reason": finish}],
            "usage": usage_json(message["usage"]),
        }
    except (KeyError, TypeError, AttributeError):
        raise UpstreamError("The upstream's answer could not be understood", upstream_status=200) from None


def _joined(blocks: list[Mapping[str, Any]], kind: str) -> str:
    return "".join(block[kind] for block in blocks if block["type"] == kind)


def _head(kind: str, message: Mapping[str, Any]) -> Json:
    return {"id": message.get("id"), "object": kind, "created": int(time.time()), "model": message.get("model")}


def usage_json(usage: Mapping[str, Any]) -> Json:
    """Anthropic's usage, whose input leaves out what was cached, in OpenAI's words."""
    cached, written = usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
    prompt, answer = (usage.get("input_tokens") or 0) + cached + written, usage.get("output_tokens") or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


class _Chunks:
    """Events of one message in, chunks of one chat out."""

    def __init__(self, model: str, with_usage: bool) -> None:
        self._head: Json = _head("chat.completion.chunk", {"id": None, "model": model})
        self._with_usage = with_usage
        self._usage: Json = {}
        self._calls: dict[int, int] = {}
        self.ended = False

    def read(self, event: Mapping[str, Any]) -> Iterator[Json]:
        kind = event.get("type")
        if kind == "message_start":
            message = event["message"]
            self._head = {**self._head, "id": message.get("id"), "model": message.get("model")}
            self._usage |= message.get("usage") or {}
            yield self._chunk({"role": "assistant", "content": ""})
        elif kind == "content_block_start" and event["content_block"]["type"] == "tool_use":
            block, number = event["content_block"], len(self._calls)
            self._calls[event["index"]] = number
            function = {"name": block["name"], "arguments": ""}
            yield self._call({"index": number, "id": block["id"], "type": "function", "function": function})
        elif kind == "content_block_delta":
            yield from self._delta(event["index"], event["delta"])
        elif kind == "message_delta":
            self._usage |= {name: value for name, value in (event.get("usage") or {}).items() if value is not None}
            yield self._chunk({}, FINISHES.get(event["delta"].get("stop_reason"), "stop"))
        elif kind == "message_stop":
            self.ended = True
            if self._with_usage:
                yield {**self._head, "choices": [], "usage": usage_json(self._usage)}

    def _delta(self, index: int, delta: Mapping[str, Any]) -> Iterator[Json]:
        if delta["type"] == "text_delta":
            yield self._chunk({"content": delta["text"]})
        elif delta["type"] == "thinking_delta":
            yield self._chunk({"reasoning_content": delta["thinking"]})
        elif delta["type"] == "input_json_delta" and delta["partial_json"]:
            yield self._call({"index": self._calls[index], "function": {"arguments": delta["partial_json"]}})

    def _call(self, piece: Json) -> Json:
        return self._chunk({"tool_calls": [piece]})

    def _chunk(self, delta: Json, finish: str | None = None) -> Json:
        return {**self._head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}


async def _blocks(chunks: _Chunks, first: bytes, rest: Blocks) -> AsyncGenerator[bytes, None]:
    decoder = EventStreamDecoder()
    async with aclosing(rest):
        yield _fed(chunks, decoder, first)
        async for block in rest:
            if made := _fed(chunks, decoder, block):
                yield made
    if not chunks.ended:
        raise UpstreamError("The model's answer was cut off before its end")
    yield DONE


def _fed(chunks: _Chunks, decoder: EventStreamDecoder, block: bytes) -> bytes:
    try:
        made = [
            chunk for event in decoder.feed(block) if event.data for chunk in chunks.read(parsed_object(event.data))
        ]
    except (KeyError, TypeError, AttributeError):
        raise UpstreamError("The upstream's answer could not be understood", upstream_status=200) from None
    return b"".join(map(json_event, made))
