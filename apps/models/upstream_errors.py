"""What goes wrong with an upstream over HTTP, as errors of the tree: one table, whichever client met it.

A refusal is quoted as far as a caller may read it: no address, no key. It is OpenAI's error object, or what the servers
that speak its API make of it (numbers for codes, the object without ``error`` around it, FastAPI's ``detail``).
Retry-After is in seconds: RFC 9110 (10.2.3), and the milliseconds that OpenAI sends beside it. An upstream without the
key that it needs is not called.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from apps.core.errors import (
    REDACTED,
    AppError,
    ModelUnavailable,
    RateLimitExceeded,
    Rejection,
    Timeout,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
    quoted_text,
)
from apps.transport.response import BadRequest, ConnectionFailed, Cut, HttpFailure, ProtocolError

# an upstream that asks for more means something else
LONGEST_RETRY_AFTER = 86_400.0


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """The wait that an answer asks for, from 0 to a day; None where it asks for none or for nonsense."""
    milliseconds = _number(headers.get("retry-after-ms"))
    value = headers.get("retry-after")
    seconds = _number(value) if milliseconds is None else milliseconds / 1000
    if seconds is None and value is not None:
        seconds = _until(value)
    return None if seconds is None else min(seconds, LONGEST_RETRY_AFTER)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return max(number, 0.0) if math.isfinite(number) else None


def _until(http_date: str) -> float | None:
    try:
        when = parsedate_to_datetime(http_date)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max((when - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, OverflowError):  # years and zones that no calendar has
        return None


def status_error(status: int, headers: Mapping[str, str], rejection: Rejection | None = None) -> AppError:
    """What an answer other than 200 means: RFC 9110's classes, and 429 as what it is.

    ``rejection``: it is the caller's fault, and this is what the upstream says of it.
    """
    retry_after = parse_retry_after(headers)
    if status == 429:
        return RateLimitExceeded("Rate limit exceeded at the upstream", source="upstream", retry_after=retry_after or 1)
    if status >= 500:
        cause = {"cause": f"the upstream answered {status}"}
        return UpstreamUnavailable(
            "The upstream failed", details=cause, retry_after=retry_after, upstream_status=status
        )
    if rejection is not None:
        return UpstreamRejected(rejection)
    return UpstreamError("The upstream refused the call", upstream_status=status)


def timed_out() -> AppError:
    return UpstreamTimeout("The upstream did not answer in time", details={"cause": "timeout"})


def unreachable() -> AppError:
    return UpstreamUnavailable("The upstream could not be reached", details={"cause": "network error"})


def not_understood() -> AppError:
    return UpstreamError("The upstream's answer could not be understood")


def nonsense(message: str) -> UpstreamError:
    """What is wrong with an answer that began well, with a status of 200."""
    return UpstreamError(message, upstream_status=200)


def parsed_object(data: bytes) -> dict[str, Any]:
    """The JSON object of an answer or a chunk. Raises UpstreamError where it is none, or reports an error."""
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        raise nonsense("The upstream's answer is not JSON") from None
    if not isinstance(parsed, dict):
        raise nonsense("The upstream's answer is not a JSON object")
    if parsed.get("error"):
        raise nonsense("The upstream reported an error in its answer")
    return parsed


FAILURES = (HttpFailure, TimeoutError)


def translate(error: Exception, *, begun: bool = False) -> AppError:
    """The table's first match counts, so subclasses stand before their bases.

    ``begun``: the upstream had answered 200 and something of its answer, so this is no error to try again after.
    """
    made = next(make() for kind, make in ERRORS if isinstance(error, kind))
    if not begun:
        return made
    if isinstance(made, UpstreamTimeout):
        return Timeout("The upstream fell silent in its answer", details=made.details, upstream_status=200)
    if isinstance(made, UpstreamUnavailable):
        return nonsense("The upstream's answer was cut off")
    return made


ERRORS: list[tuple[type[Exception], Callable[[], AppError]]] = [
    (TimeoutError, timed_out),
    (BadRequest, not_understood),
    (ConnectionFailed, unreachable),
    (Cut, unreachable),
    (ProtocolError, not_understood),
]


# the caller's own fault at any upstream; 404 is it only where the caller chose the name that is not found
CALLERS_FAULT = frozenset({400, 413, 415, 422})
LONGEST_MESSAGE = 500
PARAM = re.compile(r"[A-Za-z_][\w.\[\]-]{0,99}")
# the codes that OpenAI, Azure and the servers that speak their API document for a call that cannot be served
CODES = frozenset(
    {
        "array_above_max_length", "array_below_min_length", "billing_not_active", "content_filter",
        "content_policy_violation", "context_length_exceeded", "decimal_above_max_value",
        "decimal_below_min_value", "deployment_not_found", "DeploymentNotFound", "duplicate_value",
        "empty_array", "empty_image_file", "empty_string", "failed_generation", "file_not_found",
        "image_content_policy_violation", "image_file_too_large", "image_too_large", "image_too_small",
        "integer_above_max_value", "integer_below_min_value", "invalid_base64_image",
        "invalid_function_parameters", "invalid_image", "invalid_image_format", "invalid_image_mode",
        "invalid_image_url", "invalid_json", "invalid_json_schema", "invalid_parameter", "invalid_prompt",
        "invalid_request", "invalid_request_error", "invalid_type", "invalid_value", "json_validate_failed",
        "max_tokens_exceeded", "missing_required_parameter", "model_not_found", "model_not_supported",
        "object_above_max_properties", "object_below_min_properties", "OperationNotSupported",
        "request_too_large", "response_not_found", "string_above_max_length", "string_below_min_length",
        "string_too_long", "string_too_short", "tool_use_failed", "unknown_parameter", "unknown_url",
        "unsupported_content_type", "unsupported_file", "unsupported_image_media_type", "unsupported_model",
        "unsupported_parameter", "unsupported_value", "vector_store_timeout",
    }
)  # fmt: skip
TOO_LONG = re.compile(
    r"(?:maximum|max (?:model|input)|available|exceed\w*).{0,60}?(?:context|input) (?:length|size|window|limit)"
    r"|context (?:length|size|window)[^.]{0,60}?exceed|prompt is too long|longer than the model|exceed_context_size",
    re.IGNORECASE,
)
ADDRESS = re.compile(
    r"[a-z][a-z0-9+.-]*://[^\s\"'<>]+"  # with a scheme
    r"|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b"
    r"|\[[0-9a-f:]*:[0-9a-f:.]+\](?::\d{1,5})?|(?<![\w:])(?:[0-9a-f]{1,4}:){3,7}[0-9a-f:]*[0-9a-f](?![\w:])"
    r"|\blocalhost\b(?::\d{1,5})?"
    r"|\b(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+"
    r"(?:com|net|org|io|ai|dev|app|cloud|co|eu|de|uk|fr|us|cn|local|localdomain|internal|intern|lan|corp|home|svc|test)\b"
    r"(?::\d{1,5})?"
    r"|\b[a-z0-9][a-z0-9.-]*:\d{4,5}\b",
    re.IGNORECASE,
)
BEARER = re.compile(r"\b(?:bearer|basic|api[-_ ]?key)(?:[:=\s]\s*)(?=\S*\d)\S{8,}", re.IGNORECASE)
# a long run without blanks of both letters and digits: a key, whatever it begins with
SECRET = re.compile(r"(?<![\w-])(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{32,}")


def read_rejection(status: int, body: bytes, hidden: Collection[str] = ()) -> Rejection:
    """``hidden`` are texts of this upstream that no caller may read: its host, its key."""
    fault = _error_object(body)
    message = _message(fault)
    code = fault.get("code")
    known = code if isinstance(code, str) and code in CODES else None
    if known is None and status in (400, 413, 422) and TOO_LONG.search(f"{message} {fault.get('type')}"):
        known = "context_length_exceeded"
    param = fault.get("param")
    return Rejection(
        status,
        _scrubbed(message, hidden) or "The upstream refused the call",
        known,
        param if isinstance(param, str) and PARAM.fullmatch(param) and param not in hidden else None,
    )


def _error_object(body: bytes) -> Mapping[str, Any]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(parsed, list) and parsed:  # Google's OpenAI-shaped endpoint answers with a list
        parsed = parsed[0]
    if not isinstance(parsed, Mapping):
        return {}
    inner = parsed.get("error")
    if isinstance(inner, Mapping):
        return inner
    return {**parsed, "message": inner} if isinstance(inner, str) else parsed


def _message(fault: Mapping[str, Any]) -> str:
    for name in ("message", "detail", "error"):
        text = fault.get(name)
        if isinstance(text, str):
            return text.encode("utf-8", "replace").decode()
        if isinstance(text, list):  # FastAPI's own validation errors
            found = [
                str(one.get("msg")) for one in text if isinstance(one, Mapping) and isinstance(one.get("msg"), str)
            ]
            if found:
                return "; ".join(found).encode("utf-8", "replace").decode()
    return ""


def _scrubbed(message: str, hidden: Collection[str]) -> str:
    for text in sorted(filter(None, hidden), key=len, reverse=True):
        message = re.sub(re.escape(text), REDACTED, message, flags=re.IGNORECASE)
    message = BEARER.sub(REDACTED, message)
    message = ADDRESS.sub(REDACTED, message)
    message = SECRET.sub(REDACTED, quoted_text(message))
    return " ".join(message.split())[:LONGEST_MESSAGE]


KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_URL = "https://api.openai.com/v1"
RETRY_SECONDS = 60.0
NOT_CONFIGURED = "The model is not configured"


def needs_key(base_url: str) -> bool:
    """Whether an upstream is known to need a key; of others an operator decides."""
    return base_url.rstrip("/") == OPENAI_URL


def missing_key(base_url: str, key: str, variable: str) -> str:
    """What an operator has to do before the upstream can be called; empty where nothing is missing.

    ``variable`` names the key; empty where the upstream needs none.
    """
    if key or not variable:
        return ""
    if needs_key(base_url):
        return f"set {variable}, or OPENAI_BASE_URL for an upstream that needs no key"
    return f"set {variable}"


def not_configured(missing: str) -> ModelUnavailable:
    """The error of a call to an upstream whose key is missing."""
    return ModelUnavailable(f"{NOT_CONFIGURED}: {missing}", retry_after=RETRY_SECONDS)
