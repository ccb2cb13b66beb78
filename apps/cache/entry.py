"""Entries of the response cache and their keys.

A key is the digest of everything that an answer depends on, of one canonical spelling of the request: tenant, route,
the model's revision and every parameter. An entry is a whole answer as bytes and back, in JSON and the frames behind
it; no pickle. What comes back from a store is not trusted: an entry is whole and of its key, or it is none.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate, pairwise
from math import isfinite
from typing import Any, NamedTuple

from apps.core.callers import Caller
from apps.core.calls import Usage
from apps.core.deltas import Delta, PromptTokens, TokenLogprob, ToolCallDelta
from apps.core.messages import CacheControl

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
    if delta.tokens:
        data["tokens"] = delta.tokens
    if delta.stopped_by is not None:
        data["stopped_by"] = delta.stopped_by
    if delta.prompt is not None:
        data["prompt"] = [delta.prompt.tokens, [_token(entry) for entry in delta.prompt.logprobs]]
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
            tokens=tuple(data.get("tokens", ())),
            prompt=_prompt(data.get("prompt")),
            stopped_by=_stopped_by(data.get("stopped_by")),
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptEntry(type(error).__name__) from None


def _stopped_by(written: Any) -> str | int | None:
    if written is not None and type(written) not in (str, int):
        raise CorruptEntry("a stop of a wrong type")
    stopped_by: str | int | None = written
    return stopped_by


def _prompt(written: list[Any] | None) -> PromptTokens | None:
    return None if written is None else PromptTokens(tuple(written[0]), tuple(map(_logprob, written[1])))


def _token(entry: TokenLogprob) -> list[Any]:
    top = [_token(other) for other in entry.top]
    return [entry.token, entry.raw.hex(), entry.logprob, top, entry.id, entry.rank]


def _logprob(token: list[Any]) -> TokenLogprob:
    text, raw, logprob, top, number, rank = token
    return TokenLogprob(text, bytes.fromhex(raw), logprob, tuple(map(_logprob, top)), number, rank)


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class NotCanonical(Exception):
    """There is no one spelling of this value: a number too large for a float, or nesting too deep to walk."""


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, where 1, 1.0 and 1e0 are spelled alike. Raises NotCanonical."""
    try:
        return _encode(_canonical(value)).encode()
    except (RecursionError, ValueError) as error:
        raise NotCanonical(type(error).__name__) from None


def fingerprint(*parts: bytes) -> bytes:
    """The full SHA-256 of the parts; their lengths count, so that nothing can be moved from one into the next."""
    return hashlib.sha256(
        b"".join([piece for part in parts for piece in (len(part).to_bytes(8, "big"), part)])
    ).digest()


def _canonical(value: Any) -> Any:
    if isinstance(value, str):  # nearly all that there is
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise NotCanonical("not finite")
        return int(value) if value.is_integer() else value
    if type(value) is dict or isinstance(value, Mapping):
        return {name: _canonical(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value


# raised when entries or digests are made in another way, so that old ones are not found
FORMAT = b"3"
ANY_WORDING = b"any wording"
Parameters = Mapping[str, Any]


class Similar(NamedTuple):
    """What a semantic hit needs: ``scope`` is all of the request but ``text``, its last message; ``least`` a cosine."""

    scope: bytes
    text: str
    least: float


class CacheKey(NamedTuple):
    """``digest`` names the answer; ``flight`` also whose budget pays for making it. ``ttl`` seconds it is stored.

    An answer that was made while ``revision`` changed is not stored.
    """

    digest: bytes
    flight: bytes
    ttl: float
    control: CacheControl
    revision: str
    similar: Similar | None = None


def cache_key(
    route: str, parameters: Parameters, revision: str, caller: Caller, control: CacheControl, ttl: float
) -> CacheKey | None:
    """None where the request has no canonical form. ``ttl`` counts where the caller sets none."""
    place = (FORMAT, caller.tenant.encode("utf-8", "surrogatepass"), route.encode(), revision.encode())
    try:
        digest = fingerprint(*place, canonical_json(parameters))
        similar = _similar(place, parameters, caller.semantic_cache)
    except NotCanonical:
        return None
    payer = caller.key_id or "" if caller.budget is not None else ""
    flight = fingerprint(digest, payer.encode()) if payer else digest
    return CacheKey(digest, flight, ttl if control.ttl is None else control.ttl, control, revision, similar)


def _similar(place: tuple[bytes, ...], parameters: Parameters, least: float | None) -> Similar | None:
    parts = without_last_user_text(parameters) if least is not None else None
    if least is None or parts is None:
        return None
    rest, text = parts
    return Similar(fingerprint(*place, ANY_WORDING, canonical_json(rest)), text, least)


def without_last_user_text(parameters: Parameters) -> tuple[Parameters, str] | None:
    """The request without the text of its last message; None where that is not a text of the user's."""
    messages = parameters.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(last, Mapping) and last.get("role") == "user" and isinstance(last.get("content"), str):
        emptied = {**last, "content": None}
        return {**parameters, "messages": [*messages[:-1], emptied]}, last["content"]  # type: ignore[index]
    given = parameters.get("input")
    if messages is None and isinstance(given, str):
        return {**parameters, "input": None}, given
    return None
