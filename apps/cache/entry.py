"""Entries of the response cache: a whole answer as bytes and back, in JSON and the frames behind it; no pickle.

What comes back from a store is not trusted: an entry that is not whole, or was written for another key, is refused.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from apps.core.calls import Usage
from apps.core.deltas import Delta, TokenLogprob, ToolCallDelta

MAGIC = b"answer1\n"
DIGEST_BYTES = 32
LENGTH_BYTES = 4


class CorruptEntry(Exception):
    """These bytes are not the entry of this key."""


class Entry(NamedTuple):
    """A whole answer as it is stored: the model that made it, its usage, its frames, and when (Unix time)."""

    model: str
    provider: str
    usage: Usage | None
    frames: Sequence[bytes]
    made_at: float


def encode(entry: Entry, digest: bytes) -> bytes:
    """The bytes to keep, under this digest."""
    head = {
        "model": entry.model,
        "provider": entry.provider,
        "usage": None if entry.usage is None else asdict(entry.usage),
        "lengths": [len(frame) for frame in entry.frames],
        "made_at": entry.made_at,
    }
    written = json.dumps(head).encode()
    return b"".join((MAGIC, digest, len(written).to_bytes(LENGTH_BYTES, "big"), written, *entry.frames))


def decode(raw: bytes, digest: bytes) -> Entry:
    """Raises CorruptEntry."""
    try:
        return _decode(raw, digest)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptEntry(type(error).__name__) from None


def _decode(raw: bytes, digest: bytes) -> Entry:
    # a reply that a connection has mixed up with another's would be another tenant's answer
    if not raw.startswith(MAGIC + digest):
        raise CorruptEntry("written for another key")
    at = len(MAGIC) + DIGEST_BYTES
    head_at = at + LENGTH_BYTES
    frames_at = head_at + int.from_bytes(raw[at:head_at], "big")
    head = json.loads(raw[head_at:frames_at])
    lengths = head["lengths"]
    if not all(type(length) is int and length >= 0 for length in lengths):
        raise CorruptEntry("a frame's length is none")
    bounds = list(accumulate(lengths, initial=frames_at))
    if bounds[-1] != len(raw):
        raise CorruptEntry("not whole")
    model, provider = head["model"], head["provider"]
    if not isinstance(model, str) or not isinstance(provider, str):
        raise CorruptEntry("a name is none")
    frames = [raw[a:b] for a, b in pairwise(bounds)]
    return Entry(model, provider, _usage(head["usage"]), frames, float(head["made_at"]))


def _usage(written: object) -> Usage | None:
    """Raises TypeError for fields that a usage does not have, CorruptEntry for values of a wrong type."""
    if written is None:
        return None
    if not isinstance(written, dict):
        raise CorruptEntry("no usage")
    usage = Usage(**written)
    counts = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens)
    if not all(type(count) is int for count in counts) or type(usage.estimated) is not bool:
        raise CorruptEntry("a usage of wrong types")
    if not (usage.cost is None or type(usage.cost) in (int, float)):
        raise CorruptEntry("a usage of wrong types")
    return usage


def frame_of(delta: Delta) -> bytes:
    """The delta as JSON."""
    data: dict[str, Any] = {"text": delta.text, "finish_reason": delta.finish_reason, "model": delta.model}
    if delta.tool_calls:
        data["tool_calls"] = [[c.index, c.id, c.name, c.arguments] for c in delta.tool_calls]
    if delta.usage:
        data["usage"] = asdict(delta.usage)
    if delta.reasoning:
        data["reasoning"] = delta.reasoning
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
            _usage(data.get("usage")),
            data["model"],
            tuple(_logprob(token) for token in data.get("logprobs", ())),
            reasoning=data.get("reasoning", ""),
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptEntry(type(error).__name__) from None


def _token(entry: TokenLogprob) -> list[Any]:
    return [entry.token, entry.raw.hex(), entry.logprob, [_token(other) for other in entry.top]]


def _logprob(token: list[Any]) -> TokenLogprob:
    text, raw, logprob, top = token
    return TokenLogprob(text, bytes.fromhex(raw), logprob, tuple(_logprob(other) for other in top))
