"""The one global handler: whatever was raised before the first byte leaves as the same envelope."""

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from apps.api.src.guard import ClientGone
from apps.api.src.validation_errors import as_app_error
from apps.core.errors import (
    AppError,
    InternalError,
    InvalidValue,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    UnsupportedMediaType,
)

BY_STATUS: dict[int, tuple[type[AppError], str]] = {
    404: (NotFound, "No such route"),
    405: (MethodNotAllowed, "Method not allowed: see Allow"),
    413: (PayloadTooLarge, "Request body is too large"),
    415: (UnsupportedMediaType, "Content-Type must be application/json"),
}


def install(app: FastAPI) -> None:
    """Register the envelope for every error that Starlette, FastAPI or our own code raises."""
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientGone, _client_gone)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(Exception, _crash)


def render(error: AppError, beside: Mapping[str, Any] | None = None) -> JSONResponse:
    """The envelope, with Retry-After in whole seconds where the error knows a time; ``beside`` stands next to it."""
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return JSONResponse({**(beside or {}), **error.envelope()}, error.status, headers)


async def _app_error(request: Request, error: Any) -> Response:
    return render(error)


async def _validation(request: Request, error: Any) -> Response:
    return render(as_app_error(error.errors()))


async def _http(request: Request, error: Any) -> Response:
    kind, message = BY_STATUS.get(error.status_code, (InvalidValue, "The request could not be read"))
    if error.status_code >= 500:
        kind, message = InternalError, "Internal server error"
    return render(kind(message, headers=error.headers))


async def _client_gone(request: Request, error: Any) -> Response:
    """Nobody will read it; 499 is what the access log says of a client that left, after nginx."""
    return Response(status_code=499)


async def _crash(request: Request, error: Exception) -> Response:
    return render(InternalError("Internal server error"))
