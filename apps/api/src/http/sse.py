"""Framing: deltas, and how a stream ended, as bytes. The last step; nothing here knows where deltas come from.

Server-sent events follow the HTML standard (9.2.6). A line of data cannot hold a carriage return there, so a
delta that has one goes out as ``event: delta`` with the JSON ``{"text": ...}``; every other delta is plain text.
"""

import json
from collections.abc import Sequence
from typing import Protocol

from apps.core.calls import Usage
from apps.core.deltas import Citation, citations_json
from apps.core.errors import AppError


class Framing(Protocol):
    """``ping``, ``citations`` and ``error`` may be empty: nothing is sent then.

    An error ends the connection unfinished where there is no frame for it.
    """

    media_type: str
    ping: bytes

    def citations(self, citations: Sequence[Citation]) -> bytes: ...

    def delta(self, text: str) -> bytes: ...

    def done(self, finish_reason: str, model: str | None, usage: Usage | None) -> bytes: ...

    def error(self, error: AppError) -> bytes: ...


class EventStream:
    """``text/event-stream``: an event a delta, then exactly one of ``done`` and ``error``."""

    media_type = "text/event-stream"
    ping = b": ping\n\n"

    def citations(self, citations: Sequence[Citation]) -> bytes:
        return event_frame("citations", citations_json(citations))

    def delta(self, text: str) -> bytes:
        if "\r" in text:
            return event_frame("delta", {"text": text})
        return b"data: " + text.replace("\n", "\ndata: ").encode() + b"\n\n"

    def done(self, finish_reason: str, model: str | None, usage: Usage | None) -> bytes:
        return event_frame("done", {"finish_reason": finish_reason, "model": model, "usage": usage_json(usage)})

    def error(self, error: AppError) -> bytes:
        return event_frame("error", error.envelope())


class PlainText:
    """``text/plain``: the bare text; there is no room in it for pings or errors."""

    media_type = "text/plain; charset=utf-8"
    ping = b""

    def citations(self, citations: Sequence[Citation]) -> bytes:
        return b""

    def delta(self, text: str) -> bytes:
        return text.encode()

    def done(self, finish_reason: str, model: str | None, usage: Usage | None) -> bytes:
        return b""

    def error(self, error: AppError) -> bytes:
        return b""


def usage_json(usage: Usage | None) -> dict[str, int] | None:
    """The usage in OpenAI's words; None where the model does not count."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
    }


def event_frame(kind: str, data: object) -> bytes:
    """One event with JSON in it."""
    return b"event: " + kind.encode() + b"\ndata: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"
