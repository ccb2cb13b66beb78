"""The MCP server's route: streamable HTTP without sessions, behind the same layers as every other route.

Calls are cancelled by `notifications/cancelled`, which older revisions send as a request of its own. The server keeps
no sessions: what `initialize` hands out is a name that cannot be guessed, under which a client's calls are found while
they run. A client of the current revision closes its request in place of all this.

Source: MCP specification 2025-06-18, utilities/cancellation and transports (streamable HTTP).
"""

import asyncio
import json
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from apps.agents.mcp_port import ENDED_BY, Served
from apps.api.src.auth.authentication import caller_of
from apps.api.src.http.openapi import error_responses
from apps.api.src.http.request import RawRoute
from apps.api.src.http.shutdown import ClientGone, Shutdown, guarded
from apps.api.src.limits.limiter import RateLimits
from apps.core import errors
from apps.core.callers import Caller
from apps.core.calls import CANCELLED
from apps.core.errors import Forbidden
from apps.core.process import import_aside
from apps.core.settings import Settings
from apps.models.metering import cut_off_with, outcome_of

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    from apps.agents.mcp_server import ProtocolServer

SESSION_HEADER = "mcp-session-id"
SESSION = re.compile(r"[\x21-\x7e]{1,128}")
CANCELLATION = "notifications/cancelled"

Key = tuple[str | None, str, str]


class Stopped(Exception):
    """Its client has cancelled the call and waits for no answer."""


class RunningCalls:
    """The calls under way in this process, by key of the caller, session and id of the request."""

    def __init__(self) -> None:
        self._running: dict[Key, asyncio.Task[Any]] = {}
        self._stopped: set[asyncio.Task[Any]] = set()

    @contextmanager
    def running(self, key: Key | None) -> Iterator[None]:
        """While the call of ``key`` runs in this task it can be stopped, which raises Stopped here."""
        task = asyncio.current_task()
        if key is None or task is None or key in self._running:
            yield
            return
        self._running[key] = task
        try:
            yield
        except asyncio.CancelledError:
            if task in self._stopped and task.uncancel() == 0:
                raise Stopped from None
            raise
        finally:
            del self._running[key]
            self._stopped.discard(task)

    def stop(self, key: Key) -> None:
        """Stop the call of ``key``; one that is unknown or has ended is passed over."""
        task = self._running.get(key)
        if task is not None and task not in self._stopped:
            self._stopped.add(task)
            task.cancel(CANCELLED)


def new_session() -> str:
    return secrets.token_urlsafe(24)


def read_message(body: bytes) -> dict[str, Any]:
    """The JSON-RPC message of a request; empty where it is none, which the server says itself."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def call_key(caller: Caller, session: str | None, id: Any) -> Key | None:
    """None without a session or a proper id: such a call cannot be distinguished from others."""
    if session is None or not SESSION.fullmatch(session) or isinstance(id, bool) or not isinstance(id, str | int):
        return None
    return caller.key_id, session, json.dumps(id)


PATH = "/mcp"
CLOSE_SECONDS = 5.0
PROGRESS = b'"progressToken"'
OWN_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}, "example": CALL}},
    }
}
ANSWER = {"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": "generate", "inputSchema": {"type": "object"}}]}}
ERRORS = (errors.Unauthorized, errors.Forbidden, errors.PayloadTooLarge, errors.RateLimitExceeded)


class McpEndpoint:
    """The MCP server of the mcp package, which is imported and started with the first request."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._closing = asyncio.Event()
        self._managers: asyncio.Future[tuple[StreamableHTTPSessionManager, StreamableHTTPSessionManager]] | None = None
        self._holder: asyncio.Task[None] | None = None

    async def handle(self, scope: Scope, receive: Receive, send: Send, *, streamed: bool = False) -> None:
        """One request, whose body has a limit and whose caller is known; ``streamed`` answers with events."""
        if self._managers is None:
            self._managers = asyncio.get_running_loop().create_future()
            self._holder = asyncio.create_task(self._hold(self._managers), name="mcp-server")
        managers = await asyncio.shield(self._managers)
        await managers[streamed].handle_request(scope, receive, send)

    async def aclose(self) -> None:
        self._closing.set()
        if self._holder is not None:
            _, running = await asyncio.wait([self._holder], timeout=CLOSE_SECONDS)
            for task in running:
                task.cancel()

    async def _hold(
        self, ready: "asyncio.Future[tuple[StreamableHTTPSessionManager, StreamableHTTPSessionManager]]"
    ) -> None:
        """Keep the package's tasks in one of ours: they have to end where they began."""
        server = (await import_aside(load_protocol_server))(self._served)
        whole, streamed = server.manager(streamed=False), server.manager(streamed=True)
        async with whole.run(), streamed.run():
            ready.set_result((whole, streamed))
            await self._closing.wait()


def load_protocol_server() -> "type[ProtocolServer]":
    from apps.agents.mcp_server import ProtocolServer

    return ProtocolServer


def mcp_router(endpoint: McpEndpoint, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(route_class=limits.route_class("mcp", settings.rate_limit_mcp, RawRoute), tags=["agents"])
    described: dict[int | str, dict[str, Any]] = {
        200: {"description": "An answer of JSON-RPC", "content": {"application/json": {"example": ANSWER}}},
        202: {"description": "A notification was taken"},
        **error_responses(*ERRORS),
    }

    running = RunningCalls()

    async def mcp(request: Request) -> Response:
        """The Model Context Protocol: models, agents and a search as tools, documents as resources, and prompts."""
        _check_origin(request.headers.get("origin"), settings.allowed_origins)
        body = await request.body()
        message, session = read_message(body), request.headers.get(SESSION_HEADER)
        if message.get("method") == CANCELLATION and isinstance(message.get("params"), dict):
            cancelled = call_key(caller_of(request), session, message["params"].get("requestId"))
            if cancelled is not None:
                running.stop(cancelled)
        key = call_key(caller_of(request), session, message.get("id"))
        response = McpResponse(endpoint, body, request.app.state.shutdown, running, key)
        if message.get("method") == "initialize":
            response.headers[SESSION_HEADER] = new_session()
        return response

    router.add_api_route(PATH, mcp, methods=["POST"], responses=described, openapi_extra=BODY)
    return router


class McpResponse(Response):
    """Hands the request on to the MCP server; a client that leaves ends its call, and so does one that cancels it."""

    def __init__(
        self, endpoint: McpEndpoint, body: bytes, shutdown: Shutdown, running: RunningCalls, key: Key | None
    ) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = []
        self._endpoint = endpoint
        self._taken = body
        self._shutdown = shutdown
        self._running = running
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # who wants to hear of progress gets events; whether it is the field itself, the package finds out
        streamed = PROGRESS in self._taken
        messages: list[Message] = [{"type": "http.request", "body": self._taken, "more_body": False}]

        async def replay() -> Message:
            # a client that leaves is noticed by the guard, which ends all this
            return messages.pop() if messages else await asyncio.get_running_loop().create_future()

        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            # what the route's layers have put here, the limits' standing above all, goes out with the server's own
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self.raw_headers]
            await send(message)

        def cut_off(error: asyncio.CancelledError) -> str:
            scope[ENDED_BY] = outcome_of(error)
            return str(scope[ENDED_BY])

        try:
            with self._running.running(self._key):
                handled = self._endpoint.handle(scope, replay, answer, streamed=streamed)
                await guarded(cut_off_with(handled, cut_off), receive, self._shutdown)
        except ClientGone:
            return
        except Stopped:
            # a cancelled request is not answered: taken is all that can be said of it
            if not begun:
                await send({"type": "http.response.start", "status": 202, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _check_origin(origin: str | None, allowed: Sequence[str]) -> None:
    """A browser says where a page comes from: one of a stranger's must not speak to a server behind a firewall."""
    if origin is not None and origin not in allowed and not OWN_ORIGIN.fullmatch(origin):
        raise Forbidden("Pages of that origin may not use this server: see ALLOWED_ORIGINS", field="Origin")
