"""Entries: a whole answer as bytes and back. A few lines of JSON and the frames behind them; no pickle, no code.

What comes back from a store is not trusted: an entry that is not whole, or was written for another question, is none.

Deltas as frames of an entry: each one a JSON object of what it holds, and back.
"""

import json
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from apps.core.deltas import Delta, TokenLogprob, ToolCallDelta, Usage

MAGIC = b"answer1\n"
DIGEST_BYTES = 32
LENGTH_BYTES = 4


class CorruptEntry(Exception):
    """These bytes are not the entry that was asked for."""


class Facts(NamedTuple):
    """What is known of an answer beside its frames. ``cost`` in US dollars is what making it has cost.

    ``estimated``: nobody told the tokens, so they were counted.
    """

    content_type: str = ""
    model: str = ""
    provider: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    estimated: bool = False
    cost: float | None = None


class Entry(NamedTuple):
    """``made_at`` is Unix time."""

    facts: Facts
    frames: Sequence[bytes]
    made_at: float


def encode(entry: Entry, digest: bytes) -> bytes:
    """The bytes to keep, for the question with this digest."""
    lengths = [len(frame) for frame in entry.frames]
    written = json.dumps({"facts": entry.facts._asdict(), "made_at": entry.made_at, "lengths": lengths}).encode()
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
        raise CorruptEntry("written for another question")
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
    return Entry(_facts(head["facts"]), [raw[a:b] for a, b in pairwise(bounds)], float(head["made_at"]))


def _facts(told: object) -> Facts:
    if not isinstance(told, dict):
        raise CorruptEntry("no facts")
    facts = Facts(**told)
    texts = (facts.content_type, facts.model, facts.provider)
    counts = (facts.prompt_tokens, facts.completion_tokens, facts.cached_tokens)
    sound = all(isinstance(text, str) for text in texts) and all(type(n) is int or n is None for n in counts)
    if (
        not sound
        or not isinstance(facts.estimated, bool)
        or not (facts.cost is None or isinstance(facts.cost, int | float))
    ):
        raise CorruptEntry("facts of a wrong type")
    return facts


def frame_of(delta: Delta) -> bytes:
    """Everything but the note of the cache, which is another one at each reading."""
    data: dict[str, Any] = {"text": delta.text, "finish_reason": delta.finish_reason, "model": delta.model}
    if delta.tool_calls:
        data["tool_calls"] = [[c.index, c.id, c.name, c.arguments] for c in delta.tool_calls]
    if delta.usage:
        usage = delta.usage
        counts = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        data["usage"] = [*counts, usage.cost, usage.reasoning_tokens]
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
            Usage(*data["usage"]) if "usage" in data else None,
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
