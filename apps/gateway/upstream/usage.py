"""The usage of a streamed answer: asked for where its caller did not, and then taken out of what he sees.

OpenAI sends it as a chunk of its own, without choices, behind the answer and only where ``stream_options`` wants it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from apps.gateway.protocol import Used, WireCall
from apps.gateway.upstream.event_blocks import EVENT_END, end_of_last_event, event_data
from apps.gateway.upstream.receipts import note_usage

PATHS = frozenset({"/chat/completions", "/completions"})
OPTIONS = "stream_options"
# null stands in the other chunks; inside a string of a model's text the quotes would be escaped
TOLD = re.compile(rb'"usage"\s*:\s*\{')
SPLICE = b',"stream_options":{"include_usage":true}'


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
    """The bytes for a target, with the wish for usage in them; all else as it came."""
    if OPTIONS in call.body:
        wish = {OPTIONS: {**(call.body[OPTIONS] or {}), "include_usage": True}}
        return json.dumps({**call.body, "model": model, **wish}, ensure_ascii=False).encode()
    body = call.for_model(model)
    end = body.rindex(b"}")
    return body[:end] + SPLICE + body[end:]


def names_the_wish(refusal: bytes) -> bool:
    """Whether an upstream's error is about what was put into the call here."""
    return b"stream_options" in refusal or b"include_usage" in refusal


class UsageReader:
    """Notes the usage that passes by into ``used``; where ``hidden``, takes the chunk out that tells nothing else."""

    def __init__(self, used: Used, *, hidden: bool) -> None:
        self._used = used
        self._hidden = hidden

    def read(self, block: bytes) -> bytes:
        """The block as its caller shall see it; it may be empty."""
        told = TOLD.search(block) if b'"usage"' in block else None
        if told is None:
            return block
        # what stands before the event that tells it, mostly all of the block, is not looked at again
        start = end_of_last_event(block[: told.start()])
        told_from = block[start:]
        note_usage(self._used, told_from)
        return block[:start] + _without_usage_chunk(told_from) if self._hidden else block


def _without_usage_chunk(block: bytes) -> bytes:
    kept, at = [], 0
    while at < len(block):
        end = found.end() if (found := EVENT_END.search(block, at)) else len(block)
        if not _tells_usage_alone(block[at:end]):
            kept.append(block[at:end])
        at = end
    return b"".join(kept)


def _tells_usage_alone(event: bytes) -> bool:
    if not TOLD.search(event):
        return False
    try:
        chunk: Any = json.loads(event_data(event))
    except (ValueError, RecursionError):
        return False
    return isinstance(chunk, dict) and chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)
