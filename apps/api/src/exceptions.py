"""The one global handler: whatever was raised before the first byte leaves as the same envelope."""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from apps.api.src.http.error_shapes import (
    ANTHROPIC_HEADERS,
    OPENAI_HEADERS,
    anthropic_error,
    anthropic_status,
    openai_error,
    openai_status,
)
from apps.api.src.http.request import as_app_error
from apps.api.src.http.shutdown import ClientGone
from apps.api.src.ollama.answers import ollama_error, ollama_status
from apps.core.errors import (
    AppError,
    Forbidden,
    InternalError,
    InvalidValue,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Unauthorized,
    UnsupportedMediaType,
    forget_tracebacks,
)

BY_STATUS: dict[int, tuple[type[AppError], str]] = {
    401: (Unauthorized, "A valid API key is required"),
    403: (Forbidden, "This key may not do that"),
    404: (NotFound, "No such route"),
    405: (MethodNotAllowed, "Method not allowed: see Allow"),
    413: (PayloadTooLarge, "Request body is too large"),
    415: (UnsupportedMediaType, "Content-Type must be application/json"),
}


class ErrorShape(NamedTuple):
    """How an audience's clients read an error: its status, its body, and headers of every error."""

    status: Callable[[AppError], int]
    body: Callable[[AppError], dict[str, Any]]
    headers: Mapping[str, str] = {}


ENVELOPE = ErrorShape(lambda error: error.status, lambda error: error.envelope())
OPENAI = ErrorShape(openai_status, openai_error, OPENAI_HEADERS)
OLLAMA = ErrorShape(ollama_status, ollama_error)
ANTHROPIC = ErrorShape(anthropic_status, anthropic_error, ANTHROPIC_HEADERS)
# where OpenAI's clients end up whose base URL lacks /v1
BARE_PATHS = frozenset({"/chat/completions", "/completions", "/responses", "/embeddings", "/models", "/moderations"})


def shape_of(path: str) -> ErrorShape:
    """The audience of a path."""
    if path.startswith("/v1/messages"):
        return ANTHROPIC
    if path.startswith("/api/"):
        return OLLAMA
    return OPENAI if path.startswith("/v1/") or path in BARE_PATHS else ENVELOPE


def install(app: FastAPI) -> None:
    """Register the envelope for every error that Starlette, FastAPI or our own code raises."""
    app.add_exception_handler(AppError, _answered(_app_error))
    app.add_exception_handler(RequestValidationError, _answered(_validation))
    app.add_exception_handler(HTTPException, _answered(_http))
    app.add_exception_handler(ClientGone, _answered(_client_gone))
    app.add_exception_handler(ClientDisconnect, _answered(_client_gone))
    app.add_exception_handler(Exception, _crash)


def _answered(handler: Callable[[Request, Any], Awaitable[Response]]) -> Callable[[Request, Any], Awaitable[Response]]:
    """The handler, and the end of what its error holds."""

    async def answer(request: Request, error: Any) -> Response:
        response = await handler(request, error)
        forget_tracebacks(error)
        return response

    return answer


def render(error: AppError, path: str, beside: Mapping[str, Any] | None = None) -> JSONResponse:
    """The envelope, with Retry-After in whole seconds where the error knows a time; ``beside`` stands next to it."""
    shape, headers = shape_of(path), dict(error.headers)
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return JSONResponse({**(beside or {}), **shape.body(error)}, shape.status(error), {**headers, **shape.headers})


def envelope(error: AppError, path: str) -> dict[str, Any]:
    """The body of an error as the path's audience reads it."""
    return shape_of(path).body(error)


async def _app_error(request: Request, error: Any) -> Response:
    return render(error, request.url.path)


async def _validation(request: Request, error: Any) -> Response:
    return render(as_app_error(error.errors()), request.url.path)


async def _http(request: Request, error: Any) -> Response:
    kind, message = BY_STATUS.get(error.status_code, (InvalidValue, "The request could not be read"))
    if error.status_code >= 500:
        kind, message = InternalError, "Internal server error"
    if kind is NotFound:
        message += _instead(request.url.path)
    return render(kind(message, headers=error.headers), request.url.path)


def _instead(path: str) -> str:
    """The base URL that a client most likely needs, where its own is wrong."""
    if path in BARE_PATHS:
        return f": OpenAI's API is under /v1, as /v1{path}; the client's base URL must end in /v1"
    if path.startswith("/v1/v1/"):
        return f": /v1 stands there twice, {path.removeprefix('/v1')} is the path; the client adds /v1 by itself"
    return ""


async def _client_gone(request: Request, error: Any) -> Response:
    """No client reads it; 499 is what the access log says of a client that left, after nginx."""
    return Response(status_code=499)


async def _crash(request: Request, error: Exception) -> Response:
    return render(InternalError("Internal server error"), request.url.path)
