"""An MCP server over streamable HTTP: stateless, JSON answers. What its tools are is handed in, for each caller anew.

The only place of the server's side that knows the mcp package, which is imported with the first request.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apps.agents.tools import Arguments
from apps.core.callers import Caller
from apps.core.errors import AppError, InternalError, NotFound, quoted
from apps.core.lazy import import_aside
from apps.core.messages import JsonObject
from apps.core.version import NAME

if TYPE_CHECKING:
    from mcp.server import ServerRequestContext
    from mcp.server.lowlevel import Server
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams

LARGEST_BODY = 64 * 1024 * 1024
CLOSE_SECONDS = 5.0

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """What a tool answers: text for the model, and the same as JSON for programs."""

    text: str
    structured: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ServedTool:
    """``call`` raises errors of the tree; they are told as the protocol tells a tool's failure."""

    name: str
    description: str
    parameters: JsonObject
    call: Callable[[Scope, Arguments], Awaitable[Told]]


class McpEndpoint:
    """``tools_for`` says what a caller may use; ``caller_of`` finds him in the scope of the request."""

    def __init__(
        self,
        tools_for: Callable[[Caller], Sequence[ServedTool]],
        caller_of: Callable[[Scope], Caller],
        version: str,
    ) -> None:
        self._tools_for = tools_for
        self._caller_of = caller_of
        self._version = version
        self._closing = asyncio.Event()
        self._manager: asyncio.Future[StreamableHTTPSessionManager] | None = None
        self._holder: asyncio.Task[None] | None = None

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, whose body has a limit and whose caller is known."""
        if self._manager is None:
            self._manager = asyncio.get_running_loop().create_future()
            self._holder = asyncio.create_task(self._hold(self._manager), name="mcp-server")
        manager = await asyncio.shield(self._manager)
        await manager.handle_request(scope, receive, send)

    async def aclose(self) -> None:
        self._closing.set()
        if self._holder is not None:
            _, running = await asyncio.wait([self._holder], timeout=CLOSE_SECONDS)
            for task in running:
                task.cancel()

    async def _hold(self, ready: "asyncio.Future[StreamableHTTPSessionManager]") -> None:
        """Keep the package's tasks in one of ours: they have to end where they began."""
        await import_aside(import_mcp_server)
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        manager = StreamableHTTPSessionManager(
            self._server(), json_response=True, stateless=True, max_request_body_size=LARGEST_BODY
        )
        async with manager.run():
            ready.set_result(manager)
            await self._closing.wait()

    def _server(self) -> "Server[Any]":
        from mcp.server.lowlevel import Server
        from mcp_types import ListToolsResult, Tool

        async def list_tools(
            context: "ServerRequestContext[Any]", params: "PaginatedRequestParams | None"
        ) -> "ListToolsResult":
            tools = self._tools_for(self._caller_of(_scope(context)))
            return ListToolsResult(
                tools=[
                    Tool(name=tool.name, description=tool.description, input_schema=dict(tool.parameters))
                    for tool in tools
                ]
            )

        async def call_tool(context: "ServerRequestContext[Any]", params: "CallToolRequestParams") -> "CallToolResult":
            return await self._call(_scope(context), params.name, params.arguments or {})

        return Server(NAME, version=self._version, on_list_tools=list_tools, on_call_tool=call_tool)

    async def _call(self, scope: Scope, name: str, arguments: Arguments) -> "CallToolResult":
        tools = {tool.name: tool for tool in self._tools_for(self._caller_of(scope))}
        try:
            if name not in tools:
                raise NotFound(f"No tool is named {quoted(name)}", details={"available": list(tools)})
            return _result(await tools[name].call(scope, arguments), failed=False)
        except AppError as error:
            return _result(Told(f"{error.code}: {error.message}", error.envelope()), failed=True)
        except Exception:
            log.exception("The MCP tool %s failed", name if name in tools else "?")
            crash = InternalError("Internal server error")
            return _result(Told(f"{crash.code}: {crash.message}", crash.envelope()), failed=True)


def import_mcp_server() -> None:
    """What serves /mcp."""
    import mcp.server.lowlevel
    import mcp.server.streamable_http_manager
    import mcp_types

    del mcp, mcp_types


def _scope(context: "ServerRequestContext[Any]") -> Scope:
    if context.request is None:
        raise RuntimeError("this server is asked over HTTP only")
    scope: Scope = context.request.scope
    return scope


def _result(told: Told, *, failed: bool) -> "CallToolResult":
    from mcp_types import CallToolResult, TextContent

    structured = None if told.structured is None else dict(told.structured)
    return CallToolResult(
        content=[TextContent(type="text", text=told.text)], structured_content=structured, is_error=failed
    )
