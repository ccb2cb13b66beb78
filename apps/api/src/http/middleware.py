"""ASGI middleware, from the outermost layer to the innermost.

``RequestScope``: a request's id, its time, its metrics, its line in the access log, and its end at shutdown.
``ClientAddress``: the socket's address, or what a trusted proxy says of it. uvicorn believes X-Forwarded-For from
127.0.0.1 unless the process's environment says otherwise. Where it was not, this
layer takes that back, then trusts FORWARDED_ALLOW_IPS alone. ``BodyLimit``: the limit of a request's body, enforced
while it is read and before anything else looks at it. ``CrashGuard``: a crash becomes the envelope here, inside the
layers that add headers to every answer. ``HotPaths``: the gateway's own paths, found by a dictionary; what FastAPI's
router would do for them costs more than they do. They stay routes of the app, so that the OpenAPI page, 405 and all
else include them.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Iterable, Sequence
from contextvars import ContextVar

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.api.src.auth.authentication import SCOPE_KEY
from apps.api.src.exceptions import render
from apps.api.src.http.request import RawRoute
from apps.api.src.http.shutdown import ClientGone, Shutdown, ShuttingDown
from apps.api.src.observability.call_metrics import OTHER, route_label
from apps.api.src.observability.metrics import Metrics
from apps.api.src.observability.request_line import RequestLine, current_line
from apps.api.src.observability.tracing import served_by, trace_of
from apps.core.errors import AppError, InternalError, InvalidValue, PayloadTooLarge, forget_tracebacks
from apps.gateway.routing.config import FAMILIES

# whose clients know a request by a header of their own
ANTHROPIC = "/v1/messages"
CAPACITY = "/v1/capacity"
# asked for by what watches the service, all day long
PROBES = frozenset({"/health", "/healthz", "/ready", "/metrics", CAPACITY})
REQUEST_ID = re.compile(rb"[\w-]{1,128}")

request_id: ContextVar[str] = ContextVar("request_id", default="-")
access_log = logging.getLogger("apps.access")


class RequestScope:
    """Takes the caller's X-Request-ID where it is a plain one, else makes one; every answer carries it.

    ``fixed`` are the paths of routes without parameters.
    """

    def __init__(self, app: ASGIApp, shutdown: Shutdown, metrics: Metrics, fixed: frozenset[str]) -> None:
        self._app = app
        self._shutdown = shutdown
        self._metrics = metrics.requests
        self._lag = metrics.loop_lag
        self._fixed = fixed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        probes = scope["path"] in PROBES
        name = _request_id(scope)
        request_id.set(name)
        line = RequestLine(name)
        current_line.set(line)

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                line.status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", name.encode()),
                    *([(b"request-id", name.encode())] if scope["path"].startswith(ANTHROPIC) else ()),
                    (b"server-timing", b"app;dur=%.1f" % _milliseconds(started)),
                ]
            return send(message)

        if not probes:
            self._lag.began()
        try:
            with self._shutdown.request():
                await self._app(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            if not self._shutdown.forced:
                raise
            if line.status == 499:
                await render(ShuttingDown(), scope["path"])(scope, receive, send_with_headers)
        finally:
            if not probes:
                self._lag.ended()
            line.seconds = time.perf_counter() - started
            self._ended(scope, line)

    def _ended(self, scope: Scope, line: RequestLine) -> None:
        route = route_label(scope, self._fixed)
        self._metrics.ended(route, scope["method"], line.status, line.seconds)
        line.method, line.routed = scope["method"], route != OTHER
        line.path = route if line.routed else scope.get("raw_path", b"").decode("ascii", "backslashreplace")
        caller = scope.get(SCOPE_KEY)
        if caller is not None:
            line.key_id = caller.key_id
        line.trace = trace_of(scope)
        # gateways of a fleet ask several times a second: a line each would be all that the log has
        probe = line.path == CAPACITY and line.status == 200
        access_log.log(logging.DEBUG if probe else logging.INFO, line)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return f"{random.getrandbits(128):032x}"  # not a secret


def _milliseconds(since: float) -> float:
    return (time.perf_counter() - since) * 1000


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


# where documents come as a form, which is written to the disk while it is read
UPLOADS = re.compile(r"/rag/(?:collections|shared)/[^/]+/documents")
# where forms are sent on to an upstream while they are read
PASSAGES = re.compile(rf"/v1/(?:{'|'.join(FAMILIES)})(?:/.*)?")


class BodyLimit:
    """Refuses a Content-Length over the limit at once; a body that only turns out too large, when it does.

    ``max_upload_bytes`` is the limit of forms with documents in them, ``max_passage_bytes`` of those for upstreams.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_upload_bytes: int, max_passage_bytes: int) -> None:
        self._app = app
        self._max_passage_bytes = max_passage_bytes
        self._max_bytes = max_bytes
        self._max_upload_bytes = max_upload_bytes

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        length, most = _content_length(scope), self._limit(scope)
        if length is not None:
            # the server reads no more than what was announced, so there is nothing left to count
            if length > most:
                return render(_too_large(most), scope["path"])(scope, receive, send)
            return self._app(scope, receive, send)
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise _too_large(most)
            return message

        return self._app(scope, limited, send)

    def _limit(self, scope: Scope) -> int:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        most = self._max_bytes
        if scope["method"] == "POST" and UPLOADS.fullmatch(path):
            most = self._max_upload_bytes
        elif scope["method"] == "POST" and PASSAGES.fullmatch(path):
            most = self._max_passage_bytes
        if most == self._max_bytes:
            return most
        kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        return most if kind.lower().startswith(b"multipart/form-data") else self._max_bytes


def _too_large(most: int) -> PayloadTooLarge:
    # what is left of the body is not worth reading, so the connection ends with the answer
    return PayloadTooLarge(
        f"Request body must be at most {most} bytes", details={"max_bytes": most}, headers={"Connection": "close"}
    )


def _content_length(scope: Scope) -> int | None:
    """What the body's length is announced to be; None where it is not."""
    length = None
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length" and value.isdigit():
            length = int(value)
    return length


log = logging.getLogger(__name__)


class CrashGuard:
    """Answers INTERNAL_ERROR; where bytes are already out it ends the connection unfinished instead."""

    def __init__(self, app: ASGIApp, tracebacks: bool) -> None:
        self._app = app
        self._tracebacks = tracebacks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        def watched(message: Message) -> Awaitable[None]:
            nonlocal started
            started = True
            return send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if scope["type"] != "http":
                raise
            log.error("Crash: %s", type(error).__name__, exc_info=error if self._tracebacks else None)
            if not started:
                await render(InternalError("Internal server error"), scope["path"])(scope, receive, send)


class HotPaths:
    """Serves POST to the RawRoutes among ``routes``; hands everything else on."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes if isinstance(route, RawRoute) and "{" not in route.path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hot = scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path")
        route = self._routes.get(scope["path"]) if hot else None
        if route is None or route.methods != {"POST"}:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        served_by(scope, route.path)
        try:
            # both raise before a byte is out: a response that has begun ends by itself
            response = await route.handler(Request(scope, receive))
            await response(scope, receive, send)
        except AppError as error:
            await render(error, scope["path"])(scope, receive, send)
            forget_tracebacks(error)
        except (ClientGone, ClientDisconnect) as gone:
            await Response(status_code=499)(scope, receive, send)
            forget_tracebacks(gone)
