"""Whose request it is: the socket's address, or what a trusted proxy says of it.

uvicorn believes X-Forwarded-For from 127.0.0.1 unless it is told otherwise, and it is told through the process's
environment only. Where it was not, this layer takes that back, then trusts FORWARDED_ALLOW_IPS alone.
"""

from collections.abc import Awaitable, Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from apps.api.src.exceptions import render
from apps.core.errors import InvalidValue

UVICORN_TRUSTS = "127.0.0.1"


class ClientAddress:
    """``server_rewrites`` says that uvicorn runs with its default trust in 127.0.0.1."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str], server_rewrites: bool) -> None:
        # uvicorn is imported with the server, not with the app
        from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

        self._server_rewrites = server_rewrites
        self._as_uvicorn = ProxyHeadersMiddleware(_ignore, UVICORN_TRUSTS)
        self._next = ProxyHeadersMiddleware(app, list(trusted)) if trusted else app  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._server_rewrites and await self._was_rewritten(scope):
            scope["client"] = (UVICORN_TRUSTS, 0)
        await self._next(scope, receive, send)  # type: ignore[arg-type]

    async def _was_rewritten(self, scope: Scope) -> bool:
        """Whether the client is what uvicorn would have made of this request had it come from 127.0.0.1."""
        if not any(name == b"x-forwarded-for" for name, _ in scope["headers"]):
            return False
        replay = {**scope, "client": (UVICORN_TRUSTS, 0)}
        await self._as_uvicorn(replay, None, None)  # type: ignore[arg-type]
        return bool(replay["client"] == scope["client"])


async def _ignore(*_: object) -> None:
    """Only the scope matters."""


class BrowserCors(CORSMiddleware):
    """A request without an Origin is not a page's: it needs none of the headers, and passes untouched."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        if scope["type"] == "http":
            for name, _ in scope["headers"]:
                if name == b"origin":
                    return super().__call__(scope, receive, send)
        return self.app(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """What Starlette answers, with its refusal in the envelope instead of plain text."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        refused = render(InvalidValue(bytes(response.body).decode()), path="")
        allowed = {name: value for name, value in response.headers.items() if name.startswith(("access-", "vary"))}
        refused.headers.update(allowed)
        return refused
