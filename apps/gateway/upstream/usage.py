"""The usage of an upstream's answer, read from the bytes that pass through.

The usage of a stream is asked for where its caller does not, and then removed from what the caller gets.

OpenAI sends it as a chunk of its own, without choices, behind the answer and only where ``stream_options`` wants it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from apps.core.calls import CallRecord, Usage
from apps.gateway.protocol import BYTES_PER_TOKEN, NO_ANSWER, WireCall, expected_use
from apps.gateway.upstream.event_blocks import end_of_first_event, end_of_last_event, event_data

PATHS = frozenset({"/chat/completions", "/completions"})
OPTIONS = "stream_options"
# null stands in the other chunks; inside a string of a model's text the quotes would be escaped
USAGE = re.compile(rb'"usage"\s*:\s*\{')
# keys only, for the same reason
PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,12})')
COMPLETION = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,12})')
ANSWERS_TOKENS = re.compile(rb'"(?:completion|output)_tokens"')
CACHED = re.compile(rb'"cached_tokens"\s*:\s*(\d{1,12})')
# what a model says, as against names and ids of it
SAID = frozenset({"message", "content", "text", "refusal", "reasoning_content", "tool_calls", "function", "arguments"})
SPLICE = b',"stream_options":{"include_usage":true}'


def usage_in(body: bytes) -> Usage | None:
    """The usage of a body or a block, the last one where it has several; None where it has none.

    A usage that leaves the answer's tokens open (null) is none; that of embeddings has no such field.
    """
    if body.find(b'"usage"') < 0:
        return None
    prompts = PROMPT.findall(body)
    completions = COMPLETION.findall(body)
    if not prompts or (not completions and ANSWERS_TOKENS.search(body) is not None):
        return None
    cached = CACHED.findall(body)
    return Usage(int(prompts[-1]), int(completions[-1]) if completions else 0, int(cached[-1]) if cached else 0)


def estimated_usage(call: WireCall, body: bytes) -> Usage:
    """The usage of a whole answer that reports none: a token for four bytes."""
    answer = 0 if call.path in NO_ANSWER else _text_bytes(json.loads(body)) // BYTES_PER_TOKEN
    return Usage(expected_use(call).prompt, answer, estimated=True)


def _text_bytes(value: Any) -> int:
    """Bytes of all texts that stand in what an answer says: its choices, or its output."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, list):
        return sum(map(_text_bytes, value))
    if not isinstance(value, dict):
        return 0
    said = [value[name] for name in ("choices", "output") if name in value] or [
        item for name, item in value.items() if name in SAID
    ]
    return sum(map(_text_bytes, said))


def lacks_usage(call: WireCall) -> bool:
    """Whether this call's stream would come without usage."""
    if not call.stream or call.path not in PATHS:
        return False
    options = call.body.get(OPTIONS)
    if options is None:
        return True
    # what is no object is the upstream's to refuse
    return isinstance(options, Mapping) and options.get("include_usage") in (None, False)


def asking_for_usage(call: WireCall, model: str) -> bytes:
    """The bytes for a target that ask for usage; all else as it came."""
    if OPTIONS in call.body:
        asking = {OPTIONS: {**(call.body[OPTIONS] or {}), "include_usage": True}}
        return json.dumps({**call.body, "model": model, **asking}, ensure_ascii=False).encode()
    body = call.for_model(model)
    end = body.rindex(b"}")
    return body[:end] + SPLICE + body[end:]


def names_stream_options(refusal: bytes) -> bool:
    """Whether an upstream's error is about what was put into the call here."""
    return b"stream_options" in refusal or b"include_usage" in refusal


class UsageReader:
    """Notes the usage that passes by on the call's record; where ``hidden``, removes the chunk that holds only that."""

    def __init__(self, record: CallRecord | None, *, hidden: bool) -> None:
        self._record = record
        self._hidden = hidden

    def read(self, block: bytes) -> bytes:
        """The block for the caller; it may be empty."""
        at = block.find(b'"usage"')
        found = USAGE.search(block, at) if at >= 0 else None
        if found is None:
            return block
        # what stands before the event with the usage, mostly all of the block, is not read again
        start = end_of_last_event(block[: found.start()])
        last = block[start:]
        usage = usage_in(last)
        if usage is not None and self._record is not None:
            self._record.usage = usage
        return block[:start] + _without_usage_chunk(last) if self._hidden else block


def _without_usage_chunk(block: bytes) -> bytes:
    kept, at = [], 0
    while at < len(block):
        end = end_of_first_event(block, at)
        event = block[at:end]
        if event.find(b'"usage"') < 0 or not _has_usage_alone(event):
            kept.append(event)
        at = end
    return b"".join(kept)


def _has_usage_alone(event: bytes) -> bool:
    if not USAGE.search(event):
        return False
    try:
        chunk: Any = json.loads(event_data(event).decode())
    except (ValueError, RecursionError):
        return False
    return isinstance(chunk, dict) and chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)
