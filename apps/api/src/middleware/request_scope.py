"""The outermost layer: a request's id, its time, its line in the access log, and its end at shutdown."""

import asyncio
import logging
import re
import secrets
import time
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.api.src.exceptions import render
from apps.api.src.shutdown import Shutdown, ShuttingDown

REQUEST_ID = re.compile(rb"[\w-]{1,128}")

request_id: ContextVar[str] = ContextVar("request_id", default="-")
access_log = logging.getLogger("apps.access")


class RequestScope:
    """Takes the caller's X-Request-ID where it is a plain one, else makes one; every answer carries it."""

    def __init__(self, app: ASGIApp, shutdown: Shutdown) -> None:
        self._app = app
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        name = _request_id(scope)
        request_id.set(name)
        status = 499

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", name.encode()),
                    (b"server-timing", b"app;dur=%.1f" % _milliseconds(started)),
                ]
            await send(message)

        try:
            with self._shutdown.request():
                await self._app(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            if not self._shutdown.forced:
                raise
            if status == 499:
                await render(ShuttingDown(), scope["path"])(scope, receive, send_with_headers)
        finally:
            path = scope.get("raw_path", b"").decode("ascii", "replace")
            access_log.info("%s %s %d %.1fms", scope["method"], path, status, _milliseconds(started))


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return secrets.token_hex(16)


def _milliseconds(since: float) -> float:
    return (time.perf_counter() - since) * 1000
