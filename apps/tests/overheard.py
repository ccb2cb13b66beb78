"""Answers on their way to whoever asked: an app that is listened to, and a client that listens.

What callers send to say who they are is learned on the same way, and so are the keys that `/admin/keys` makes.
"""

import ssl
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import httpx2

from apps.tests.marks import HEADER_NAMES, learn_credential, learn_keys
from apps.tests.watch import WATCH

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAKES_KEYS = "/admin/keys"
Headers = Iterable[tuple[bytes, bytes]]


def heard_request(headers: Headers) -> None:
    for name, value in headers:
        if name.decode("latin-1").lower() in HEADER_NAMES:
            learn_credential(value.decode("latin-1"))


def heard_answer(method: str, path: str, status: int, headers: Headers, body: bytes) -> None:
    """The one answer that may hold a key is the one that a key is made by."""
    where = f"answer {status} to {method} {path}"
    WATCH.took(where + ": headers", b"\n".join(name + b": " + value for name, value in headers))
    if method == "POST" and path.startswith(MAKES_KEYS) and status < 300:
        learn_keys(body.decode())
    else:
        WATCH.took(where, body)


class Overheard:
    """Outermost around an app."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        heard_request(scope["headers"])
        start: dict[str, Any] = {"status": 0, "headers": []}
        parts: list[bytes] = []

        async def heard(message: "Message") -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, heard)
        finally:
            heard_answer(scope["method"], scope["path"], start["status"], start["headers"], b"".join(parts))


class _HeardStream(httpx2.SyncByteStream):
    def __init__(self, request: httpx2.Request, response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.SyncByteStream)
        self._request, self._response, self._stream = request, response, response.stream
        self._parts: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            self._parts.append(part)
            yield part

    def close(self) -> None:
        self._stream.close()
        parts, self._parts = self._parts, []
        heard_answer(
            self._request.method,
            self._request.url.path,
            self._response.status_code,
            self._response.headers.raw,
            b"".join(parts),
        )


class HearingTransport(httpx2.HTTPTransport):
    """httpx2's own, which hears every byte that its user reads."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        heard_request(request.headers.raw)
        response = super().handle_request(request)
        response.stream = _HeardStream(request, response)
        return response


def hearing_client(**options: Any) -> httpx2.Client:
    """For services that are processes of their own; no proxy of this machine comes between."""
    return httpx2.Client(transport=HearingTransport(verify=_trust(), trust_env=False), trust_env=False, **options)


@cache
def _trust() -> ssl.SSLContext:
    """Read once: the certificates of the world take longer than a test's calls."""
    return ssl.create_default_context()
