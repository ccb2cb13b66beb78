"""What the OpenAPI page says of the /v1 routes: bodies, answers and errors, with an example of each.

Made when the page is first asked for: all this takes a tenth of a start.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from apps.api.src.http.error_shapes import openai_error, openai_status
from apps.api.src.http.openapi import (
    BODY_ERRORS,
    CACHE_HEADERS,
    CACHE_PARAMETERS,
    ErrorBody,
    Responses,
    error_responses,
)
from apps.api.src.v1.passage import FORM
from apps.api.src.v1.schemas import (
    ChatCompletionsBody,
    CompletionsBody,
    DetokenizeBody,
    EmbeddingsBody,
    ResponsesBody,
    TokenizeBody,
)
from apps.core import errors
from apps.core.fields import Schema
from apps.gateway.openai_api.completions import COMPLETION_NEUTRAL
from apps.gateway.openai_api.fields import IGNORED, NEUTRAL
from apps.gateway.openai_api.responses_request import IGNORED as RESPONSES_IGNORED
from apps.gateway.openai_api.responses_request import ONLY
from apps.gateway.routing.config import FAMILIES

CREATED = 1_763_900_000
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
HEADERS = {
    "X-Model": "The model that answered",
    "X-Provider": "The provider that answered",
    "X-Attempts": "How many attempts were made, on one target or several",
    **CACHE_HEADERS,
    "X-Queue-Ms": "Milliseconds in the provider's queue",
    "X-First-Token-Ms": "Milliseconds to the first token, of a stream",
    "X-Prompt-Tokens": "Tokens of the prompt, of a whole answer",
    "X-Completion-Tokens": "Tokens of the answer, of a whole one",
    "X-Cost-USD": "From the price table, where the price and the tokens are known",
    "X-Request-ID": "The caller's, or one made here",
    "RateLimit": "What is left of each limit (r), and the seconds until it opens again (t)",
    "RateLimit-Policy": "The limits that were counted: their quota (q) in a window of seconds (w)",
}
PASSED_ON = ("X-Model", "X-Provider", "X-Attempts", "X-Request-ID", "RateLimit", "RateLimit-Policy")
PARAMETERS = [
    {
        "name": "X-Deadline-Ms",
        "in": "header",
        "required": False,
        "description": "Milliseconds that the whole call may take",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    },
    {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "Calls with the same key and the same body within 24 hours are executed once",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    },
    *CACHE_PARAMETERS,
]
ERRORS = (
    *BODY_ERRORS,
    errors.NotFound,
    errors.Conflict,
    errors.RateLimitExceeded,
    errors.InternalError,
    errors.UpstreamError,
    errors.ModelUnavailable,
    errors.Overloaded,
    errors.Timeout,
)


class OpenAIErrorBody(ErrorBody):
    """The envelope's five keys, and OpenAI's own beside them: ``code`` is OpenAI's, ``error_code`` the envelope's."""

    type: str
    param: str | None
    error_code: str


class OpenAIErrorEnvelope(Schema):
    """Every error on /v1: the clients of OpenAI raise their proper exceptions for it."""

    error: OpenAIErrorBody


OPENAI_ENVELOPE = {"$ref": "#/components/schemas/OpenAIErrorEnvelope"}
MORE = (
    errors.ContextLengthExceeded(2000, 500, 2048),
    errors.UpstreamRejected(errors.Rejection(400, "Invalid image", "invalid_image", "messages")),
    errors.NotFound("No model is named gpt-9", field="model"),
    errors.RateLimitExceeded("The budget of the day is spent", source="budget"),
)


def v1_errors(*kinds: type[errors.AppError], more: Iterable[errors.AppError] = ()) -> Responses:
    """`error_responses` in OpenAI's shape."""
    return error_responses(*kinds, status=openai_status, body=openai_error, schema=OPENAI_ENVELOPE, more=more)


def posted(
    body: type[BaseModel], example: Any, answer: Any, stream: str | None, shape: str, ends: Responses
) -> dict[str, Any]:
    """What the page says of a POST route: the body's schema, an example of call and answer, and its errors."""
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}, "example": answer}}
    if stream is not None:
        content["text/event-stream"] = {"schema": {"type": "string"}, "example": stream}
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()}
    return {
        "requestBody": _request(body, example),
        "parameters": PARAMETERS,
        "responses": {
            "200": {"description": shape, "headers": headers, "content": content},
            **_by_status(ends),
        },
    }


CHAT = (
    ChatCompletionsBody,
    {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is Python?"}], "max_tokens": 50},
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": CREATED,
        "model": "gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A language.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    },
    'data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1763900000, "model": "gpt-4o-mini", '
    '"choices": [{"index": 0, "delta": {"content": "A"}, "finish_reason": null}]}\n\ndata: [DONE]\n\n',
)
COMPLETIONS = (
    CompletionsBody,
    {"model": "SmolLM2-135M-Instruct", "prompt": "Once upon a time", "max_tokens": 16},
    {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": CREATED,
        "model": "SmolLM2-135M-Instruct",
        "choices": [{"text": ", there was", "index": 0, "logprobs": None, "finish_reason": "length"}],
        "usage": USAGE,
    },
    'data: {"id": "cmpl-1", "object": "text_completion", "created": 1763900000, "model": "SmolLM2-135M-Instruct", '
    '"choices": [{"text": ",", "index": 0, "logprobs": null, "finish_reason": null}]}\n\ndata: [DONE]\n\n',
)
RESPONSES = (
    ResponsesBody,
    {"model": "gpt-4o-mini", "input": "What is Python?", "max_output_tokens": 50},
    {
        "id": "resp_1",
        "object": "response",
        "created_at": CREATED,
        "status": "completed",
        "model": "gpt-4o-mini",
        "output": [
            {
                "id": "msg_1",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "A language.", "annotations": []}],
            }
        ],
        "usage": {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11},
    },
    'event: response.output_text.delta\ndata: {"type": "response.output_text.delta", "item_id": "msg_1", '
    '"output_index": 0, "content_index": 0, "delta": "A", "logprobs": [], "sequence_number": 4}\n\n',
)
EMBEDDINGS = (
    EmbeddingsBody,
    {"model": "all-MiniLM-L6-v2", "input": ["What is Python?", "A language."]},
    {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.0123, -0.0456]}],
        "model": "all-MiniLM-L6-v2",
        "usage": {"prompt_tokens": 11, "total_tokens": 11},
    },
    None,
)
POSTS: dict[str, tuple[type[BaseModel], Any, Any, str | None]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/responses": RESPONSES,
    "/v1/embeddings": EMBEDDINGS,
}
TOKENIZED = {"count": 3, "max_model_len": 8192, "tokens": [1780, 314, 5], "token_strs": None}
TOKENIZING: dict[str, tuple[type[BaseModel], Any, Any]] = {
    "/v1/tokenize": (TokenizeBody, {"model": "SmolLM2-135M-Instruct", "prompt": "What is Python?"}, TOKENIZED),
    "/v1/chat/completions/input_tokens": (
        ChatCompletionsBody,
        {"model": "SmolLM2-135M-Instruct", "messages": [{"role": "user", "content": "What is Python?"}]},
        {"object": "response.input_tokens", "input_tokens": 34},
    ),
    "/v1/detokenize": (
        DetokenizeBody,
        {"model": "SmolLM2-135M-Instruct", "tokens": [1780, 314, 5]},
        {"prompt": "What is Python?"},
    ),
}
TOKENIZING_ERRORS = (*BODY_ERRORS, errors.NotFound, errors.RateLimitExceeded, errors.ModelUnavailable)
GETS = {
    "/v1/capacity": (errors.InvalidValue,),
    "/v1/models": (errors.RateLimitExceeded,),
    "/v1/models/{id}": (errors.InvalidValue, errors.NotFound, errors.RateLimitExceeded),
    "/v1/usage": (errors.InvalidValue, errors.RateLimitExceeded, errors.Overloaded),
    "/v1/route": (errors.InvalidValue, errors.NotFound, errors.RateLimitExceeded),
}


LISTED = "Other fields that ask for something are refused by name"


def _field_notes(who: str, ignored: Mapping[str, str], neutral: Mapping[str, tuple[Any, ...]]) -> str:
    """Which fields change nothing and why, and which may stand there with values that ask for nothing."""
    reasons = "; ".join(f"`{name}` ({why})" for name, why in sorted(ignored.items()))
    values = {
        name: " or ".join(f"`{json.dumps(value)}`" for value in choices) for name, choices in sorted(neutral.items())
    }
    allowed = "; ".join(f"`{name}`: {choices}" for name, choices in values.items())
    return f"{who} ignores: {reasons}. It takes these with values that ask for nothing: {allowed}. {LISTED}."


FIELD_NOTES: dict[str, tuple[str, Mapping[str, str], Mapping[str, tuple[Any, ...]]]] = {
    "/v1/chat/completions": ("The local model", IGNORED, NEUTRAL),
    "/v1/completions": ("The local model", IGNORED, COMPLETION_NEUTRAL),
    "/v1/responses": ("A response that is made from chat completions", RESPONSES_IGNORED, ONLY),
}


def document_v1(page: dict[str, Any]) -> dict[str, Any]:
    """The page with all this in it."""
    schema = OpenAIErrorEnvelope.model_json_schema(ref_template="#/components/schemas/{model}")
    page["components"]["schemas"] |= schema.pop("$defs") | {OpenAIErrorEnvelope.__name__: schema}
    for path, call in POSTS.items():
        shown = posted(*call, "OpenAI's own shape, as the target wrote it", v1_errors(*ERRORS, more=MORE))
        page["paths"][path]["post"] |= shown
        if path in FIELD_NOTES:
            documented = page["paths"][path]["post"]
            documented["description"] = f"{documented['description']} {_field_notes(*FIELD_NOTES[path])}"
    for path, (body, example, answer) in TOKENIZING.items():
        content = {"application/json": {"schema": {"type": "object"}, "example": answer}}
        page["paths"][path]["post"] |= {
            "requestBody": _request(body, example),
            "responses": {
                "200": {"description": "vLLM's own shape", "content": content},
                **_by_status(v1_errors(*TOKENIZING_ERRORS)),
            },
        }
    _document_passage(page)
    for path, kinds in GETS.items():
        _end_in(page["paths"][path]["get"], v1_errors(*kinds))
    _end_in(page["paths"]["/v1/rerank"]["post"], v1_errors(*ERRORS))
    return page


def _request(body: type[BaseModel], example: Any) -> dict[str, Any]:
    schema = body.model_json_schema()
    schema.pop("description", None)
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def _end_in(operation: dict[str, Any], ends: Responses) -> None:
    operation["responses"] = {"200": operation["responses"]["200"], **_by_status(ends)}


def _document_passage(page: dict[str, Any]) -> None:
    """What is passed on: any body, any answer, and errors that are this service's own."""
    beneath = {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}}
    content = {"application/json": {"schema": {"type": "object"}}, FORM: {"schema": {"type": "object"}}}
    errors_of = _by_status(v1_errors(*ERRORS, more=MORE))
    headers = {name: {"description": HEADERS[name], "schema": {"type": "string"}} for name in PASSED_ON}
    for path, operations in page["paths"].items():
        family, _, rest = path.removeprefix("/v1/").partition("/")
        if family not in FAMILIES or path in POSTS:
            continue
        for method, operation in operations.items():
            operation["responses"] = {
                "200": {
                    "description": "The upstream's own answer, whatever it is",
                    "headers": headers,
                    "content": {"application/json": {"schema": {"type": "object"}, "example": {"object": "list"}}},
                },
                **errors_of,
            }
            operation["parameters"] = [beneath] if rest else []
            if method == "post":
                operation["requestBody"] = {"required": False, "content": content}


def _by_status(responses: Responses) -> dict[str, Any]:
    return {str(status): response for status, response in responses.items()}
