"""What the OpenAPI page says of /agents beyond the models: errors and streams."""

from typing import Any

from apps.api.src.http.openapi import BODY_ERRORS, Responses, error_responses
from apps.core import errors

READ = (
    errors.Unauthorized,
    errors.Forbidden,
    errors.NotFound,
    errors.RateLimitExceeded,
    errors.ModelUnavailable,
)
RUN = (
    *BODY_ERRORS,
    errors.Conflict,
    errors.RateLimitExceeded,
    errors.UpstreamError,
    errors.ModelUnavailable,
    errors.Overloaded,
    errors.Timeout,
)
DECIDE = (*READ, errors.InvalidValue, errors.Conflict, errors.UpstreamError, errors.Overloaded, errors.Timeout)
DECIDE_EACH = RUN
KINDS = ["message", "delta", "tool_call", "tool_result", "approval_required", "done", "error"]
STREAM = (
    'event: tool_call\ndata: {"id": "call_1", "tool": "calculator", "arguments": {"expression": "1234 * 5678"}}\n\n'
    'event: tool_result\ndata: {"id": "call_1", "tool": "calculator", "result": "7006652", "failed": false, '
    '"seconds": 0.0002}\n\n'
    "data: The answer is\n\ndata:  7006652.\n\n"
    'event: done\ndata: {"finish_reason": "stop", "model": "m", "usage": {"prompt_tokens": 190, '
    '"completion_tokens": 31, "total_tokens": 221, "cached_tokens": 0, "cost": null}, "run": "9f86", "status": '
    '"done", "answer": "The answer is 7006652."}\n\n'
)
EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "event": {"type": "string", "enum": KINDS},
        "data": {"type": "string", "description": "Text of a delta; JSON in every event that is not a message"},
    },
}
RUN_EXAMPLE: dict[str, Any] = {
    "run": "9f86d081884c7d659a2feaa0c55ad015",
    "agent": "calculator",
    "status": "done",
    "finish_reason": "stop",
    "answer": "The answer is 7006652.",
    "output": None,
    "model": "SmolLM2-135M-Instruct",
    "steps": [
        {
            "kind": "model",
            "model": "SmolLM2-135M-Instruct",
            "text": "",
            "finish_reason": "tool_calls",
            "prompt_tokens": 190,
            "completion_tokens": 31,
            "seconds": 0.31,
        },
        {
            "kind": "tool",
            "id": "call_1",
            "tool": "calculator",
            "arguments": {"expression": "1234 * 5678"},
            "result": "7006652",
            "failed": False,
            "seconds": 0.0002,
        },
    ],
    "pending": [],
    "decided": [],
    "usage": {
        "prompt_tokens": 190,
        "completion_tokens": 31,
        "total_tokens": 221,
        "cached_tokens": 0,
        "cost": None,
    },
    "begun_at": 1763900000.0,
    "ended_at": 1763900000.5,
    "key_id": None,
    "outcome": "ok",
    "error": None,
}


def run_responses(*kinds: type[errors.AppError]) -> Responses:
    """The responses of a route that runs an agent: both forms of an answer, and its errors."""
    return {
        200: {
            "description": "JSON, or with `stream=true` server-sent events (bare text with `Accept: text/plain`)",
            "headers": {
                "X-Run-ID": {"description": "The run's id", "schema": {"type": "string"}},
                "X-Model": {"description": "The model that really answered", "schema": {"type": "string"}},
            },
            "content": {
                "application/json": {"example": RUN_EXAMPLE},
                "text/event-stream": {"itemSchema": EVENT, "example": STREAM},
            },
        },
        **error_responses(*kinds),
    }
