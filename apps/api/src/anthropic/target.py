"""POST /messages over a target that serves chat completions only: translated there and back.

Chat chunks become the events of a message: each block opened, filled and closed, the whole message at the end. The
sequence is that of Anthropic's streams: message_start, then for each block content_block_start, deltas,
content_block_stop, and last message_delta and message_stop.
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from apps.api.src.anthropic.request import chat_body, is_prefilled, thinking_budget
from apps.core.errors import AppError
from apps.core.messages import ChatRequest
from apps.core.ports import Writer
from apps.gateway.openai_api.chat_request import THINKING_BUDGET, chat_request
from apps.gateway.openai_api.over_chat import Event, open_over_chat
from apps.gateway.protocol import WireCall, WireReply, WireTarget

STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use"}
STOP_REASONS |= {"content_filter": "refusal", "stop": "end_turn"}
DELTAS = {"text": "text_delta", "thinking": "thinking_delta"}


class MessageEvents:
    """One message. Feed it the chunks of a chat; a whole chat completion counts as one.

    ``prompt_tokens`` are reported at the start where they are known by then, and at the end in any case.
    """

    def __init__(self, model: str, prompt_tokens: int = 0) -> None:
        self._prompt_tokens = prompt_tokens
        self._id = f"msg_{secrets.token_hex(12)}"
        self._model = model
        self._content: list[dict[str, Any]] = []
        self._arguments = ""
        self._open: tuple[str, int] | None = None
        self._waiting: dict[int, dict[str, str]] = {}
        self._usage: Mapping[str, Any] = {}
        self._finish: str | None = None
        self._stop_sequence: str | None = None
        self._called = False

    @property
    def finished(self) -> bool:
        """Whether the chat has reported why it ended."""
        return self._finish is not None

    def start(self, first: Mapping[str, Any]) -> Iterator[Event]:
        self._take_model(first)
        usage = _usage({"prompt_tokens": self._prompt_tokens})
        yield {"type": "message_start", "message": {**self._head(), "content": [], "usage": usage}}
        yield {"type": "ping"}

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        self._take_model(chunk)
        if isinstance(chunk.get("usage"), Mapping):
            self._usage = chunk["usage"]
        for choice in (chunk.get("choices") or [])[:1]:
            delta = choice.get("delta") or choice.get("message") or {}
            thought = delta.get("reasoning_content") or delta.get("reasoning")
            if isinstance(thought, str) and thought:
                yield from self._say("thinking", thought)
            for kind, text in _texts(delta.get("content")):
                yield from self._say(kind, text)
            if isinstance(delta.get("refusal"), str) and delta["refusal"]:
                yield from self._say("text", delta["refusal"])
            for position, piece in enumerate(delta.get("tool_calls") or []):
                yield from self._call(piece, position)
            self._finish = choice.get("finish_reason") or self._finish
            if isinstance(choice.get("stop_reason"), str):
                self._stop_sequence = choice["stop_reason"]

    def finish(self) -> Iterator[Event]:
        yield from self._close()
        for index in sorted(self._waiting):
            waiting = self._waiting[index]
            yield from self._open_call(index, waiting)
            yield from self._close()
        self._waiting.clear()
        delta = {"stop_reason": self._stop_reason(), "stop_sequence": self._stop_sequence}
        yield {"type": "message_delta", "delta": delta, "usage": _usage(self._usage)}
        yield {"type": "message_stop"}

    def whole(self) -> dict[str, Any]:
        """The whole message, after `finish`."""
        reason = {"stop_reason": self._stop_reason(), "stop_sequence": self._stop_sequence}
        return {**self._head(), **reason, "content": self._content, "usage": _usage(self._usage)}

    def _take_model(self, chunk: Mapping[str, Any]) -> None:
        if isinstance(chunk.get("model"), str) and chunk["model"]:
            self._model = chunk["model"]

    def _head(self) -> dict[str, Any]:
        head = {"id": self._id, "type": "message", "role": "assistant", "model": self._model}
        return {**head, "stop_reason": None, "stop_sequence": None}

    def _stop_reason(self) -> str:
        if self._called and self._finish != "length":
            return "tool_use"
        if self._stop_sequence is not None:
            return "stop_sequence"
        return STOP_REASONS.get(self._finish or "", "end_turn")

    def _say(self, kind: str, text: str) -> Iterator[Event]:
        if self._open != (kind, -1):
            yield from self._close()
            block = {"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})}
            yield from self._begin((kind, -1), block)
        self._content[-1][kind] += text
        yield self._delta({"type": DELTAS[kind], kind: text})

    def _call(self, piece: Mapping[str, Any], position: int) -> Iterator[Event]:
        """Calls come one after the other; what comes for another one than the open one waits until that is whole."""
        index = piece["index"] if isinstance(piece.get("index"), int) else position
        function = piece.get("function") or {}
        arguments = function.get("arguments") or ""
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        if self._open == ("tool_use", index):
            self._arguments += arguments
            if arguments:
                yield self._delta({"type": "input_json_delta", "partial_json": arguments})
            return
        waiting = self._waiting.setdefault(index, {"id": "", "name": "", "arguments": ""})
        waiting["id"] = piece.get("id") or waiting["id"]
        waiting["name"] = waiting["name"] or function.get("name") or ""
        waiting["arguments"] += arguments
        if waiting["name"] and (self._open is None or self._open[0] != "tool_use" or _is_json(self._arguments)):
            yield from self._close()
            yield from self._open_call(index, self._waiting.pop(index))

    def _open_call(self, index: int, call: Mapping[str, str]) -> Iterator[Event]:
        self._called = True
        name = call["id"] or f"toolu_{secrets.token_hex(12)}"
        yield from self._begin(("tool_use", index), {"type": "tool_use", "id": name, "name": call["name"], "input": {}})
        self._arguments = call["arguments"]
        if self._arguments:
            yield self._delta({"type": "input_json_delta", "partial_json": self._arguments})

    def _begin(self, which: tuple[str, int], block: dict[str, Any]) -> Iterator[Event]:
        self._open = which
        self._content.append(block)
        yield {"type": "content_block_start", "index": len(self._content) - 1, "content_block": dict(block)}

    def _close(self) -> Iterator[Event]:
        if self._open is None:
            return
        if self._open[0] == "tool_use":
            self._content[-1]["input"] = self._input()
        self._open, self._arguments = None, ""
        yield {"type": "content_block_stop", "index": len(self._content) - 1}

    def _input(self) -> Any:
        """The arguments as an object. Those that a limit cut off are none; a stream has shown them as they were."""
        try:
            value = json.loads(self._arguments or "{}")
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def _delta(self, delta: dict[str, Any]) -> Event:
        return {"type": "content_block_delta", "index": len(self._content) - 1, "delta": delta}


def _texts(content: Any) -> Iterator[tuple[str, str]]:
    """Content may be parts: text, and what some upstreams think."""
    if isinstance(content, str) and content:
        yield "text", content
    for part in content if isinstance(content, list) else []:
        kind = "thinking" if part.get("type") in ("thinking", "reasoning") else "text"
        text = part.get(kind) or part.get("text")
        for piece in text if isinstance(text, list) else [text]:
            inner = piece.get("text") if isinstance(piece, Mapping) else piece
            if isinstance(inner, str) and inner:
                yield kind, inner


def _usage(usage: Mapping[str, Any]) -> dict[str, int]:
    """A chat's usage in the words of a message: what was read from a cache counts beside the rest."""
    details = usage.get("prompt_tokens_details")
    cached = (details.get("cached_tokens") if isinstance(details, Mapping) else 0) or 0
    prompt = usage.get("prompt_tokens") or 0
    return {
        "input_tokens": max(prompt - cached, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.get("completion_tokens") or 0,
    }


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


# what a chat target calls it, and what the caller called it
FIELDS = {"stop": "stop_sequences", "response_format": "output_format"}


class MessagesOverChat:
    """Implements WireTarget for POST /messages.

    ``in_process``: the chat is a model of this process; ``counter`` is one that counts a prompt's tokens beforehand.
    """

    def __init__(self, chat: WireTarget, *, in_process: bool = False, counter: Writer | None = None) -> None:
        self._chat = chat
        self._in_process = in_process
        self._counter = counter

    async def open(self, call: WireCall, model: str) -> WireReply:
        body = chat_body(call.body)
        if self._in_process and is_prefilled(call.body):
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if self._in_process and (budget := thinking_budget(call.body)) is not None:
            body[THINKING_BUDGET] = budget
        events = MessageEvents(model or str(call.body["model"]), await self._counted(call, body))
        return await open_over_chat(self._chat, call, model, body, events, _callers_field, fits=True)

    async def _counted(self, call: WireCall, body: Mapping[str, Any]) -> int:
        """The prompt's tokens, which a stream tells at its start; 0 where they are known at its end alone."""
        if self._counter is None or not call.stream:
            return 0
        try:
            return await count_chat(self._counter, chat_request(body, call.caller))
        except AppError as error:
            error.field = None if error.field is None else _callers_field(error.field)
            raise

    async def aclose(self) -> None:
        """The chat target is closed by its maker."""


async def count_chat(model: Writer, request: ChatRequest) -> int:
    """Tokens of a conversation as the model's own template writes it, tools and all."""
    window = await model.window(request)
    return await window.count(request.messages, request.tools)


def _callers_field(field: str) -> str:
    name, _, rest = field.partition(".")
    if name == "messages":
        # the system prompt and results of calls move the numbers of messages
        return "messages"
    if name == "tools":
        return field.replace(".function.parameters", ".input_schema", 1).replace(".function", "", 1)
    return FIELDS.get(name, name) if name in FIELDS or not rest else field
