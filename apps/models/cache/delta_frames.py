"""Deltas as frames of an entry: each one a JSON object of what it holds, and back."""

import json
from typing import Any

from apps.core.deltas import Delta, TokenLogprob, ToolCallDelta, Usage
from apps.models.cache.entry import CorruptEntry


def frame_of(delta: Delta) -> bytes:
    """Everything but the note of the cache, which is another one at each reading."""
    data: dict[str, Any] = {"text": delta.text, "finish_reason": delta.finish_reason, "model": delta.model}
    if delta.tool_calls:
        data["tool_calls"] = [[c.index, c.id, c.name, c.arguments] for c in delta.tool_calls]
    if delta.usage:
        usage = delta.usage
        data["usage"] = [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.cost]
    if delta.logprobs:
        data["logprobs"] = [_token(entry) for entry in delta.logprobs]
    return json.dumps(data).encode()


def delta_of(frame: bytes) -> Delta:
    """Raises CorruptEntry."""
    try:
        data = json.loads(frame)
        return Delta(
            data["text"],
            tuple(ToolCallDelta(*call) for call in data.get("tool_calls", ())),
            data["finish_reason"],
            Usage(*data["usage"]) if "usage" in data else None,
            data["model"],
            tuple(_logprob(token) for token in data.get("logprobs", ())),
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptEntry(type(error).__name__) from None


def _token(entry: TokenLogprob) -> list[Any]:
    return [entry.token, entry.raw.hex(), entry.logprob, [_token(other) for other in entry.top]]


def _logprob(token: list[Any]) -> TokenLogprob:
    text, raw, logprob, top = token
    return TokenLogprob(text, bytes.fromhex(raw), logprob, tuple(_logprob(other) for other in top))
