"""What a connection is refused with before there is a request: a reason to count, and an error for the envelope."""

import json
import random
import re

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from apps.api.src.http.connections import Reason
from apps.core.errors import AppError, HeadTooLarge, MalformedRequest, MethodNotAllowed

REQUEST_LINE = re.compile(rb"[A-Z][A-Z-]{0,31} \S{1,2000} HTTP/1")
METHODS = "GET, HEAD, POST, DELETE, OPTIONS"
Refusal = tuple[Reason, AppError]


def head_too_large(most: int) -> Refusal:
    """``most`` in bytes."""
    return "head_too_large", HeadTooLarge(
        f"The head of a request must be at most {most} bytes", details={"max_bytes": most}
    )


def unreadable(error: httptools.HttpParserError, data: bytes) -> Refusal:
    if isinstance(error, httptools.HttpParserInvalidMethodError) and REQUEST_LINE.match(data):
        return unknown_method()
    return "malformed", MalformedRequest("What came is not a request of HTTP/1.1")


def unknown_method() -> Refusal:
    return "unknown_method", MethodNotAllowed("No route has this method", headers={"Allow": METHODS})


def answer_of(error: AppError, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    """The envelope as bytes: there is no request that it could be an answer of the app's to."""
    body = json.dumps(error.envelope(), separators=(",", ":")).encode()
    headers = [
        *default_headers,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", b"%032x" % random.getrandbits(128)),
        (b"connection", b"close"),
    ]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after))))
    return b"".join([STATUS_LINE[error.status], *(b"%s: %s\r\n" % header for header in headers), b"\r\n", body])
