"""Errors in OpenAI's shape: the statuses, types and codes that its clients raise their exceptions by.

The envelope's five keys all stand there. ``code`` is OpenAI's; the envelope's own stands beside it as ``error_code``.
"""

from typing import Any

from apps.core.errors import (
    AppError,
    ContextLengthExceeded,
    InvalidJson,
    InvalidType,
    InvalidValue,
    MissingRequiredField,
    NotFound,
    RateLimitExceeded,
    Unauthorized,
    UpstreamRejected,
)

# what a call gets wrong by itself is 400 at OpenAI
BAD_REQUEST = (InvalidJson, MissingRequiredField, InvalidType, InvalidValue)
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    **dict.fromkeys((400, 404, 405, 409, 413, 415, 422), "invalid_request_error"),
}
QUOTA = "insufficient_quota"
# the first that fits counts; where OpenAI has no code for it, it is the envelope's
CODES: tuple[tuple[type[AppError], str], ...] = (
    (ContextLengthExceeded, "context_length_exceeded"),
    (MissingRequiredField, "missing_required_parameter"),
    (InvalidJson, "invalid_json"),
    (InvalidType, "invalid_type"),
    (InvalidValue, "invalid_value"),
    (Unauthorized, "invalid_api_key"),
    (RateLimitExceeded, "rate_limit_exceeded"),
)
# OpenAI's clients retry some statuses by themselves; the retries have been made here
HEADERS = {"x-should-retry": "false"}


def openai_status(error: AppError) -> int:
    """The status that OpenAI answers with."""
    if isinstance(error, UpstreamRejected):
        return error.rejection.status
    return 400 if isinstance(error, BAD_REQUEST) else error.status


def openai_error(error: AppError) -> dict[str, Any]:
    """The body of an error on OpenAI's routes."""
    status, body = openai_status(error), error.envelope()
    code, kind = _code(error), TYPES.get(status, "server_error")
    if code == QUOTA:
        kind = QUOTA
    body["error"] |= {"code": code, "status": status, "type": kind, "param": error.field, "error_code": error.code}
    if isinstance(error, UpstreamRejected):
        body["error"]["message"] = error.rejection.message
    return body


def _code(error: AppError) -> str:
    if isinstance(error, UpstreamRejected):
        return error.rejection.code or error.code
    if isinstance(error, NotFound):
        return "model_not_found" if error.field == "model" else "unknown_url" if error.field is None else error.code
    if isinstance(error, RateLimitExceeded) and error.source == "budget":
        return QUOTA
    return next((code for kind, code in CODES if isinstance(error, kind)), error.code)
