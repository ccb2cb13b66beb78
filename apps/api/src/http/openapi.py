"""What the OpenAPI page says of errors: made from the error tree, with an example of each."""

from collections.abc import Callable, Iterable
from typing import Any

from apps.api.src.http.request import LONGEST_TTL
from apps.core import errors
from apps.core.errors import AppError
from apps.core.fields import Schema


class ErrorBody(Schema):
    """All five keys are always there."""

    code: str
    message: str
    status: int
    field: str | None
    details: dict[str, Any]


class ErrorEnvelope(Schema):
    """Every error that a client can see, on every route, from every layer."""

    error: ErrorBody


CACHE_HEADERS = {
    "X-Cache": "miss: made for this call, whether or not it may be cached; hit: from the response cache, or from an "
    "identical call under way; semantic: the cached answer to another wording; replay: recorded under the same "
    "Idempotency-Key",
    "Age": "Seconds since a cached answer was made",
    "X-Cache-Score": "The cosine of both questions' vectors, of a semantic hit",
}
CACHE_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "Cache-Control",
        "in": "header",
        "required": False,
        "description": "no-cache: make the answer anew, and cache it; no-store: do not cache it either",
        "schema": {"type": "string", "enum": ["no-cache", "no-store"]},
    },
    {
        "name": "X-Cache-TTL",
        "in": "header",
        "required": False,
        "description": "Seconds: cache this call even if it is not deterministic, and give no older answer",
        "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_TTL},
    },
]
Responses = dict[int | str, dict[str, Any]]
ENVELOPE = {"$ref": "#/components/schemas/ErrorEnvelope"}

EXAMPLES: list[AppError] = [
    errors.InvalidJson("Malformed JSON: Expecting value", details={"position": 10, "line": 1, "column": 11}),
    errors.MissingRequiredField(
        "Prompt is required",
        field="prompt",
        details={"errors": [{"field": "prompt", "code": "MISSING_REQUIRED_FIELD", "message": "Prompt is required"}]},
    ),
    errors.InvalidType("Temperature must be a number", field="temperature", details={"received_type": "string"}),
    errors.InvalidValue(
        "Temperature must be between 0 and 2", field="temperature", details={"min": 0, "max": 2, "received": 3.5}
    ),
    errors.MalformedRequest("What came is not a request of HTTP/1.1"),
    errors.Unauthorized("A valid API key is required"),
    errors.Forbidden("This key may not do that"),
    errors.NotFound("No such route"),
    errors.MethodNotAllowed("Method not allowed: see Allow"),
    errors.RequestTimeout("The head of the request did not come in time"),
    errors.Conflict("This Idempotency-Key was used with another body", field="Idempotency-Key"),
    errors.PayloadTooLarge("Request body must be at most 1048576 bytes", details={"max_bytes": 1048576}),
    errors.UnsupportedMediaType("Content-Type must be application/json"),
    errors.RateLimitExceeded("Rate limit exceeded: 10 per 1 minute", details={"limit": "10 per 1 minute"}),
    errors.HeadTooLarge("The head of a request must be at most 65536 bytes", details={"max_bytes": 65536}),
    errors.InternalError("The upstream failed", attempts=3, details={"cause": "the upstream answered 503"}),
    errors.UpstreamError("The upstream refused the call", upstream_status=401),
    errors.ModelUnavailable("The local model is loading"),
    errors.Overloaded("The local model's queue is full"),
    errors.Timeout("The upstream did not answer in time", details={"attempts": 3, "cause": "timeout"}),
]

# the server's own refusals among them: they come before any route is known
EVERYWHERE = (
    errors.InternalError,
    errors.MethodNotAllowed,
    errors.MalformedRequest,
    errors.RequestTimeout,
    errors.HeadTooLarge,
)


def error_responses(
    *kinds: type[AppError],
    status: Callable[[AppError], int] = lambda error: error.status,
    body: Callable[[AppError], dict[str, Any]] = AppError.envelope,
    schema: dict[str, str] = ENVELOPE,
    more: Iterable[AppError] = (),
) -> Responses:
    """The ``responses`` of a route that can end in these errors, or crash: one entry a status, one example a code.

    ``status`` and ``body`` are the audience's own, ``schema`` is its body's; ``more`` are examples of its own.
    """
    responses: Responses = {}
    for example in (*_examples((*kinds, *EVERYWHERE)), *more):
        shown = body(example)
        entry = responses.setdefault(status(example), {"description": example.summary})
        if example.summary.lower() not in entry["description"].lower():
            entry["description"] += f"; {example.summary[0].lower()}{example.summary[1:]}"
        content = entry.setdefault("content", {"application/json": {"schema": schema, "examples": {}}})
        content["application/json"]["examples"][_name(shown) or example.code] = {"value": shown}
    if schema is ENVELOPE:
        # one model a route puts the schema onto the page; FastAPI builds each anew, which costs at import
        responses[errors.InternalError.status]["model"] = ErrorEnvelope
    return responses


def _name(shown: dict[str, Any]) -> str | None:
    error = shown.get("error")
    return error.get("code") if isinstance(error, dict) else None


def whole_examples(page: dict[str, Any]) -> dict[str, Any]:
    """The page with its examples of errors as they are: FastAPI leaves out what is null, ``field`` for one."""
    for path in page["paths"].values():
        for operation in path.values():
            for response in operation.get("responses", {}).values():
                for content in response.get("content", {}).values():
                    _keep_nulls(content.get("examples", {}))
    return page


def _keep_nulls(examples: dict[str, Any]) -> None:
    for example in examples.values():
        error = example["value"].get("error") if isinstance(example["value"], dict) else None
        if isinstance(error, dict) and "status" in error:
            error.setdefault("field", None)
            if "type" in error and "error_code" in error:
                error.setdefault("param", None)


def _examples(kinds: tuple[type[AppError], ...]) -> Iterable[AppError]:
    codes = {kind.code for kind in kinds}
    return (example for example in EXAMPLES if example.code in codes)


BODY_ERRORS = (
    errors.InvalidJson,
    errors.MissingRequiredField,
    errors.InvalidType,
    errors.InvalidValue,
    errors.Unauthorized,
    errors.Forbidden,
    errors.NotFound,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
)
STREAM_EXAMPLE = (
    "data: Python\n\ndata:  is\n\n"
    'event: done\ndata: {"finish_reason": "stop", "model": "m", "usage": {"prompt_tokens": 9, '
    '"completion_tokens": 2, "total_tokens": 11, "cached_tokens": 0}}\n\n'
)


STREAM_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "event": {"type": "string", "enum": ["message", "delta", "done", "error"]},
        "data": {"type": "string", "description": "Text of a delta; JSON in every event that is not a message"},
    },
}


def generate_responses(*kinds: type[AppError]) -> Responses:
    """The responses of a generate route: the three forms of an answer, and its errors."""
    text = {"schema": {"type": "string"}}
    return {
        200: {
            "description": "JSON, or with `stream=true` server-sent events (bare text with `Accept: text/plain`)",
            "headers": {
                "X-Model": {"description": "The model that really answered", "schema": {"type": "string"}},
                "X-Request-ID": {"description": "The caller's, or one made here", "schema": {"type": "string"}},
                **{
                    name: {"description": f"{text}. Only where there is a cache", "schema": {"type": "string"}}
                    for name, text in CACHE_HEADERS.items()
                },
            },
            "content": {
                "application/json": {"example": {"response": "Python is a programming language."}},
                "text/event-stream": {"itemSchema": STREAM_EVENT, "example": STREAM_EXAMPLE},
                "text/plain": {**text, "example": "Python is"},
            },
        },
        **error_responses(*BODY_ERRORS, *kinds),
    }
