"""What the access log says of a request: filled in while it runs.

Prompts, for an operator who asked for them with LOG_PROMPTS: in the log, and on the span of their call.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from apps.core.calls import CallRecord
from apps.core.messages import Message


@dataclass(slots=True, repr=False)
class RequestLine:
    """``path`` is the route's template; where no route was found (``routed`` False), the raw path that was asked for.

    ``prompt`` is there with LOG_PROMPTS only; ``trace`` where the request is traced.
    """

    request_id: str
    method: str = ""
    path: str = ""
    routed: bool = False
    status: int = 499
    seconds: float = 0.0
    key_id: str | None = None
    calls: list[CallRecord] = field(default_factory=list)
    prompt: str | None = None
    trace: str | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.status} {self.seconds * 1000:.1f}ms"

    __repr__ = __str__

    def call_fields(self) -> Iterator[tuple[str, str | int]]:
        """Of the request's calls for models: who answered last, all tokens, what the cache did, what went wrong."""
        last = self.calls[-1]
        yield "model", last.model or last.asked
        if last.provider:
            yield "provider", last.provider
        if last.prompt_tokens is not None or last.completion_tokens is not None:
            yield "prompt_tokens", sum(call.prompt_tokens or 0 for call in self.calls)
            yield "completion_tokens", sum(call.completion_tokens or 0 for call in self.calls)
        if last.cache != "off":
            yield "cache", last.cache
        if last.outcome != "ok":
            yield "outcome", last.outcome


current_line: ContextVar[RequestLine | None] = ContextVar("current_line", default=None)


class CallsOnLine:
    """A Bookkeeper: puts a request's calls on its line."""

    async def opening(self, call: CallRecord) -> None:
        line = current_line.get()
        if line is not None:
            line.calls.append(call)

    def closing(self, call: CallRecord) -> None:
        """The line has the record itself, and is read when the request is over."""


ASKED = ("messages", "prompt", "input")

log = logging.getLogger(__name__)


def note_messages(request: Request, messages: Sequence[Message]) -> None:
    """What a ChatRequest asks. Without LOG_PROMPTS nothing is even looked at."""
    if request.app.state.settings.log_prompts:
        _note([{"role": message.role, "content": message.content} for message in messages])


def note_body(request: Request, body: Mapping[str, Any]) -> None:
    """The same for a body of OpenAI's API."""
    if request.app.state.settings.log_prompts:
        _note(next((body[name] for name in ASKED if name in body), None))


def _note(asked: Any) -> None:
    text = json.dumps(asked, ensure_ascii=False, default=str)
    log.info("Prompt", extra={"prompt": text})
    line = current_line.get()
    if line is not None:
        line.prompt = text
