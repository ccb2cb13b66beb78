"""Chat answers that pass through, in the shape that OpenAI's clients read: calls of tools, and content as a text.

What has that shape already goes out byte for byte, and is hardly looked at. A whole answer of an upstream that was
asked for a stream becomes the events of one.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from apps.core.deltas import ToolCallDelta
from apps.gateway.protocol import WireCall
from apps.gateway.upstream.event_blocks import DONE_EVENT, end_of_first_event, event_data
from apps.models.openai_chat import ToolCallReader, read_content, unknown_shape

TOOL_CALLS = re.compile(rb'"tool_calls"\s*:\s*\[\s*[^\s\]]')
CONTENT_LIST = re.compile(rb'"content"\s*:\s*\[')
END = b"[DONE]\n\n"
# in which the first choices of a block begin
HEAD_BYTES = 400


class ChatNormalizer:
    """Reads the blocks of one streamed answer, and writes the events anew that would mislead a client."""

    def __init__(self) -> None:
        self._calls: dict[int, ToolCallReader] = {}

    def read(self, block: bytes) -> bytes:
        """The block as its caller shall see it. Raises UpstreamError for calls of an unknown shape."""
        if not self._calls and (_has_choices_alone(block) or not _is_of_interest(block)):
            return block
        kept, at = [], 0
        while at < len(block):
            end = end_of_first_event(block, at)
            kept.append(self._event(block[at:end]))
            at = end
        return b"".join(kept)

    def _event(self, event: bytes) -> bytes:
        # once there are calls, their end is looked for too
        if not _is_of_interest(event) and event.find(b'"finish_reason"') < 0:
            return event
        try:
            chunk = json.loads(event_data(event))
        except (ValueError, RecursionError):
            return event
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        if not isinstance(choices, list):
            return event
        changed = [self._choice(choice) for choice in choices if isinstance(choice, dict)]
        if not any(changed):
            return event
        return _event(chunk)

    def _choice(self, choice: dict[str, Any]) -> bool:
        """Put a choice right; whether that changed anything."""
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return False
        changed = _flatten(delta)
        place = choice.get("index")
        key = place if isinstance(place, int) else 0
        pieces = delta.get("tool_calls")
        reader = self._calls.get(key)
        if isinstance(pieces, list) and pieces and not _is_custom(pieces):
            reader = self._calls.setdefault(key, reader or ToolCallReader())
            read = reader.read(pieces)
        else:
            read = []
        if choice.get("finish_reason") and reader is not None:
            read += reader.finish()
        if reader is None or read == _as_they_are(pieces):
            return changed
        if read:
            delta["tool_calls"] = [_piece(call) for call in read]
        else:
            delta.pop("tool_calls", None)
        return True


def normalized(body: bytes) -> bytes:
    """The body of a whole answer, in the same shape."""
    if not _is_of_interest(body):
        return body
    answer = json.loads(body)
    changed = False
    for choice in answer.get("choices") or ():
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            continue
        changed = _flatten(message) or changed
        calls = message.get("tool_calls")
        if isinstance(calls, list) and calls and not _is_custom(calls) and not all(map(_is_whole_call, calls)):
            reader = ToolCallReader()
            read = reader.read(calls) + reader.finish()
            message["tool_calls"] = [{k: v for k, v in _piece(call).items() if k != "index"} for call in _joined(read)]
            changed = True
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode() if changed else body


def _is_of_interest(data: bytes) -> bool:
    """Whether there are calls of tools, or content in parts; inside a model's text the quotes would be escaped."""
    return (data.find(b'"tool_calls"') >= 0 and TOOL_CALLS.search(data) is not None) or (
        data.find(b'"content"') >= 0 and CONTENT_LIST.search(data) is not None
    )


def _has_choices_alone(block: bytes) -> bool:
    """Whether there are no lists but those of the choices, so neither calls nor parts; counting is soon done."""
    begin = b'"choices": [' if block.find(b'"choices": ', 0, HEAD_BYTES) >= 0 else b'"choices":['
    # the end of a stream looks like one
    return block.count(b"[") == block.count(begin) + block.endswith(END)


def _flatten(message: dict[str, Any]) -> bool:
    """Make a list of content parts a text, and its thinking ``reasoning_content``."""
    if not isinstance(message.get("content"), list):
        return False
    try:
        text, thoughts = read_content(message["content"])
    except (AttributeError, TypeError):
        raise unknown_shape() from None
    message["content"] = text or None
    if thoughts:
        message["reasoning_content"] = (message.get("reasoning_content") or "") + thoughts
    return True


def _is_custom(calls: list[Any]) -> bool:
    """Calls of OpenAI's custom tools, whose input is no JSON; only OpenAI sends them, and as they should be."""
    return any(isinstance(call, Mapping) and (call.get("type") == "custom" or "custom" in call) for call in calls)


def _is_whole_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not call.get("id"):
        return False
    arguments = function.get("arguments")
    return bool(function.get("name")) and isinstance(arguments, str) and bool(arguments.strip())


def _as_they_are(pieces: Any) -> list[ToolCallDelta]:
    """Pieces of calls as a client would take them; none where they have not the shape for it."""
    taken = []
    for piece in pieces if isinstance(pieces, list) else ():
        function = piece.get("function") or {}
        index, arguments = piece.get("index"), function.get("arguments")
        if type(index) is not int or not isinstance(arguments, str | None):
            return []
        taken.append(ToolCallDelta(index, piece.get("id") or None, function.get("name") or None, arguments or ""))
    return taken


def _joined(deltas: list[ToolCallDelta]) -> list[ToolCallDelta]:
    """Whole calls from their pieces."""
    calls: dict[int, ToolCallDelta] = {}
    for delta in deltas:
        first = calls.get(delta.index)
        if first is None:
            calls[delta.index] = delta
        else:
            calls[delta.index] = ToolCallDelta(first.index, first.id, first.name, first.arguments + delta.arguments)
    return list(calls.values())


def _piece(call: ToolCallDelta) -> dict[str, Any]:
    """A piece as OpenAI writes it."""
    if call.id is None and call.name is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


class AtOnce:
    """Implements Blocks: nothing comes behind the first block."""

    def __aiter__(self) -> "AtOnce":
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Nothing is open."""


def as_events(call: WireCall, body: bytes) -> bytes:
    """All events of the answer, its end among them, in one block."""
    answer: dict[str, Any] = json.loads(body)
    if call.path == "/responses":
        kinds = ("response.created", "response.completed")
        return b"".join(_event({"type": kind, "response": answer}, kind) for kind in kinds)
    usage = answer.pop("usage", None)
    events = [_event(answer)]
    if call.path == "/chat/completions":
        answer["object"] = "chat.completion.chunk"
        choices = [choice for choice in answer.get("choices") or () if isinstance(choice, dict)]
        opening = [{**_without_message(c), "delta": _delta(c.get("message")), "finish_reason": None} for c in choices]
        over = [
            {"index": choice.get("index", 0), "delta": {}, "finish_reason": choice.get("finish_reason")}
            for choice in choices
        ]
        events = [_event({**answer, "choices": opening}), _event({**answer, "choices": over})]
    options = call.body.get("stream_options")
    if usage is not None and isinstance(options, dict) and options.get("include_usage"):
        events.append(_event({**answer, "choices": [], "usage": usage}))
    return b"".join(events) + DONE_EVENT


def _without_message(choice: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, **{name: value for name, value in choice.items() if name != "message"}}


def _delta(message: Any) -> dict[str, Any]:
    """A message as one delta: its calls have the index that deltas tell."""
    delta = dict(message) if isinstance(message, dict) else {}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls) if isinstance(call, dict)]
    return delta


def _event(data: dict[str, Any], kind: str = "") -> bytes:
    named = f"event: {kind}\n".encode() if kind else b""
    return named + b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
