"""What the log says of a request, filled in while it runs, and what the log must not say.

Prompts are for an operator who asked for them with LOG_PROMPTS: in the log, and on the span of their call. What looks
like a key, or is one that we hold, is not written. That is the second line of defence: the first one is that keys are
not logged. It knows texts, not their meaning: a key of an unknown kind passes.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from dotenv import dotenv_values
from pydantic import SecretStr
from starlette.requests import Request

from apps.core.calls import CallRecord
from apps.core.errors import KEY, REDACTED
from apps.core.messages import Message
from apps.core.settings import Settings


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
        yield "model", last.model or last.requested_model
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


PARAMETERS = ("messages", "prompt", "input")

log = logging.getLogger(__name__)


def note_messages(request: Request, messages: Sequence[Message]) -> None:
    """What a ChatRequest asks. Without LOG_PROMPTS nothing is even looked at."""
    if request.app.state.settings.log_prompts:
        _note([{"role": message.role, "content": message.content} for message in messages])


def note_body(request: Request, body: Mapping[str, Any]) -> None:
    """The same for a body of OpenAI's API."""
    if request.app.state.settings.log_prompts:
        _note(next((body[name] for name in PARAMETERS if name in body), None))


def _note(body: Any) -> None:
    text = json.dumps(body, ensure_ascii=False, default=str)
    log.info("Prompt", extra={"prompt": text})
    line = current_line.get()
    if line is not None:
        line.prompt = text


SHORTEST = 8


SECRET_NAMES = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|HEADERS)$")


FORMS = re.compile(
    r"(?P<url>://[^/\s:@]*:)[^/\s@]+(?=@)"
    r"|(?P<scheme>\b(?:bearer|basic)\s+)[^\s\"',;\\]+"
    r"|(?P<field>\b(?:authorization|x-api-key|api[-_]key)[\"'\\]*\s*[:=]\s*[\"'\\]*)"
    r"(?:(?:bearer|basic)\s+)?[^\s\"',;\\]+"
    r"|" + KEY.pattern,
    re.IGNORECASE,
)


CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Redactor:
    """Replaces the ``secrets``, as they are and as JSON writes them, and everything of the usual forms of keys."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {form for secret in secrets if len(secret) >= SHORTEST for form in (secret, json.dumps(secret)[1:-1])}
        # the longest first: one may begin like another
        self._secrets = re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True)))) if known else None

    def __call__(self, text: str) -> str:
        if self._secrets is not None:
            text = self._secrets.sub(REDACTED, text)
        return FORMS.sub(_without_value, text)


def secrets_of(settings: Settings) -> Iterator[str]:
    """Every secret among the settings, and whatever the environment or `.env` has under a name of a secret."""
    for value in (getattr(settings, name) for name in type(settings).model_fields):
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
    env_file = settings.model_config.get("env_file")
    written: Mapping[str, str | None] = dotenv_values(env_file) if isinstance(env_file, str) else {}
    for name, secret in (*written.items(), *os.environ.items()):
        if secret and SECRET_NAMES.search(name.upper()):
            yield secret


def one_line(text: str) -> str:
    """The text without anything that could end a line or talk to a terminal: such characters are written out."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def _without_value(found: re.Match[str]) -> str:
    return (found["url"] or found["scheme"] or found["field"] or "") + REDACTED
