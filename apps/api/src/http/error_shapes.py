"""Errors in OpenAI's shape and in Anthropic's: the statuses, types and codes that clients raise their exceptions by.

The envelope's five keys all stand there. OpenAI's ``code`` is its own; the envelope's stands beside it as
``error_code``. In Anthropic's shape they stand beside its own keys inside ``error``.
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
    Overloaded,
    RateLimitExceeded,
    Unauthorized,
    UpstreamRejected,
)

# what a call gets wrong by itself is 400 at OpenAI
BAD_REQUEST = (InvalidJson, MissingRequiredField, InvalidType, InvalidValue)
OPENAI_TYPES = {
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
OPENAI_HEADERS = {"x-should-retry": "false"}


def openai_status(error: AppError) -> int:
    """The status that OpenAI answers with."""
    if isinstance(error, UpstreamRejected):
        return error.rejection.status
    return 400 if isinstance(error, BAD_REQUEST) else error.status


def openai_error(error: AppError) -> dict[str, Any]:
    """The body of an error on OpenAI's routes."""
    status, body = openai_status(error), error.envelope()
    code, kind = _code(error), OPENAI_TYPES.get(status, "server_error")
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
    if isinstance(error, InvalidValue) and error.field == "previous_response_id":
        return "previous_response_not_found"
    return next((code for kind, code in CODES if isinstance(error, kind)), error.code)


OVERLOADED = 529
ANTHROPIC_TYPES = {
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
ANTHROPIC_HEADERS = {"x-should-retry": "false"}


def anthropic_status(error: AppError) -> int:
    """The status that Anthropic answers with: as OpenAI's, but for a full queue."""
    return OVERLOADED if isinstance(error, Overloaded) else openai_status(error)


def anthropic_error(error: AppError) -> dict[str, Any]:
    """The body of an error on Anthropic's routes."""
    status = anthropic_status(error)
    envelope = error.envelope()["error"] | {"status": status, "type": ANTHROPIC_TYPES.get(status, "api_error")}
    if isinstance(error, UpstreamRejected):
        envelope["message"] = error.rejection.message
    return {"type": "error", "error": envelope}
