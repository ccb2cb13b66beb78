"""The one global handler: whatever was raised before the first byte leaves as the same envelope."""

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from apps.api.src.http.guard import ClientGone
from apps.api.src.http.validation_errors import as_app_error
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
)

BY_STATUS: dict[int, tuple[type[AppError], str]] = {
    401: (Unauthorized, "A valid API key is required"),
    403: (Forbidden, "This key may not do that"),
    404: (NotFound, "No such route"),
    405: (MethodNotAllowed, "Method not allowed: see Allow"),
    413: (PayloadTooLarge, "Request body is too large"),
    415: (UnsupportedMediaType, "Content-Type must be application/json"),
}

OPENAI_PATHS = "/v1/"
OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    **dict.fromkeys((400, 404, 405, 409, 413, 415, 422), "invalid_request_error"),
}


def install(app: FastAPI) -> None:
    """Register the envelope for every error that Starlette, FastAPI or our own code raises."""
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientGone, _client_gone)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(Exception, _crash)


def render(error: AppError, path: str, beside: Mapping[str, Any] | None = None) -> JSONResponse:
    """The envelope, with Retry-After in whole seconds where the error knows a time; ``beside`` stands next to it."""
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if path.startswith(OPENAI_PATHS):
        # OpenAI's clients retry 5xx by themselves; the retries have been made here
        headers["x-should-retry"] = "false"
    return JSONResponse({**(beside or {}), **envelope(error, path)}, error.status, headers)


def envelope(error: AppError, path: str) -> dict[str, Any]:
    """The contract's envelope; on OpenAI's paths with OpenAI's own fields beside ours."""
    body = error.envelope()
    if path.startswith(OPENAI_PATHS):
        body["error"] |= {"type": OPENAI_TYPES.get(error.status, "server_error"), "param": error.field}
    return body


async def _app_error(request: Request, error: Any) -> Response:
    return render(error, request.url.path)


async def _validation(request: Request, error: Any) -> Response:
    return render(as_app_error(error.errors()), request.url.path)


async def _http(request: Request, error: Any) -> Response:
    kind, message = BY_STATUS.get(error.status_code, (InvalidValue, "The request could not be read"))
    if error.status_code >= 500:
        kind, message = InternalError, "Internal server error"
    return render(kind(message, headers=error.headers), request.url.path)


async def _client_gone(request: Request, error: Any) -> Response:
    """Nobody will read it; 499 is what the access log says of a client that left, after nginx."""
    return Response(status_code=499)


async def _crash(request: Request, error: Exception) -> Response:
    return render(InternalError("Internal server error"), request.url.path)
