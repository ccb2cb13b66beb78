"""Prompts, for an operator who asked for them with LOG_PROMPTS: in the log, and on the span of their call."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request

from apps.api.src.request_line import current_line
from apps.core.messages import Message

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
