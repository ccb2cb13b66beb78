"""What an upstream says of a call that it refused, as far as a caller may read it: no address, no key, no more.

OpenAI's error object, and what the servers that speak its API make of it (numbers for codes, the object without
``error`` around it, FastAPI's ``detail``).
"""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from apps.core.errors import REDACTED, Rejection, quoted_text

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
    told = _error_object(body)
    message = _message(told)
    code = told.get("code")
    known = code if isinstance(code, str) and code in CODES else None
    if known is None and status in (400, 413, 422) and TOO_LONG.search(f"{message} {told.get('type')}"):
        known = "context_length_exceeded"
    param = told.get("param")
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


def _message(told: Mapping[str, Any]) -> str:
    for name in ("message", "detail", "error"):
        text = told.get(name)
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
