"""Errors in Anthropic's shape: the statuses and types that its clients raise their exceptions by.

The envelope's five keys stand beside Anthropic's own inside ``error``.
"""

from typing import Any

from apps.api.src.v1.errors import openai_status
from apps.core.errors import AppError, Overloaded, UpstreamRejected

OVERLOADED = 529
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}
# Anthropic's clients retry some statuses by themselves; the retries have been made here
HEADERS = {"x-should-retry": "false"}


def anthropic_status(error: AppError) -> int:
    """The status that Anthropic answers with: as OpenAI's, but for a full queue."""
    return OVERLOADED if isinstance(error, Overloaded) else openai_status(error)


def anthropic_error(error: AppError) -> dict[str, Any]:
    """The body of an error on Anthropic's routes."""
    status = anthropic_status(error)
    told = error.envelope()["error"] | {"status": status, "type": TYPES.get(status, "api_error")}
    if isinstance(error, UpstreamRejected):
        told["message"] = error.rejection.message
    return {"type": "error", "error": told}
