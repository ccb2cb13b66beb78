"""A whole answer of an upstream that was asked for a stream, as the events that the caller wants to read."""

import json
from typing import Any

from apps.gateway.protocol import WireCall
from apps.gateway.upstream.event_blocks import DONE_EVENT


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
        said = [{**_without_message(c), "delta": _delta(c.get("message")), "finish_reason": None} for c in choices]
        over = [
            {"index": choice.get("index", 0), "delta": {}, "finish_reason": choice.get("finish_reason")}
            for choice in choices
        ]
        events = [_event({**answer, "choices": said}), _event({**answer, "choices": over})]
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
