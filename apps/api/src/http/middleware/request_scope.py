"""The outermost layer: a request's id, its time, its metrics, its line in the access log, and its end at shutdown."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.api.src.auth.caller import SCOPE_KEY
from apps.api.src.exceptions import render
from apps.api.src.http.shutdown import Shutdown, ShuttingDown
from apps.api.src.observability.call_metrics import OTHER, RequestMetrics, route_label
from apps.api.src.observability.request_line import RequestLine, current_line
from apps.api.src.observability.tracing import trace_of

# whose clients know a request by a header of their own
ANTHROPIC = "/v1/messages"
CAPACITY = "/v1/capacity"
REQUEST_ID = re.compile(rb"[\w-]{1,128}")

request_id: ContextVar[str] = ContextVar("request_id", default="-")
access_log = logging.getLogger("apps.access")


class RequestScope:
    """Takes the caller's X-Request-ID where it is a plain one, else makes one; every answer carries it.

    ``fixed`` are the paths of routes without parameters.
    """

    def __init__(self, app: ASGIApp, shutdown: Shutdown, metrics: RequestMetrics, fixed: frozenset[str]) -> None:
        self._app = app
        self._shutdown = shutdown
        self._metrics = metrics
        self._fixed = fixed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
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

        try:
            with self._shutdown.request():
                await self._app(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            if not self._shutdown.forced:
                raise
            if line.status == 499:
                await render(ShuttingDown(), scope["path"])(scope, receive, send_with_headers)
        finally:
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
