"""One MCP server and the tools on its allow-list.

It is connected to when a run first needs it. One that is dead, or hangs, is an error within a bound; the next run tries
again. The only place of the agents' side that knows the mcp package; it is imported with the first server.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apps.agents.config import McpServerConfig
from apps.agents.tools import AgentTool, Arguments, ToolContext, ToolError
from apps.core.errors import ModelUnavailable
from apps.core.messages import JsonObject
from apps.core.process import import_aside

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult

CLOSE_SECONDS = 7.0
RETRY_SECONDS = 3.0
MOST_PAGES = 20
LONGEST_DESCRIPTION = 1_000
SESSION_HEADER = "mcp-session-id"
NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")

log = logging.getLogger(__name__)


class _SessionForgotten(Exception):
    """The server does not know the session that a call was made in."""


@dataclass(slots=True)
class _Connection:
    """A session that one task holds open and closes: the mcp package wants both in the same task."""

    client: "Client"
    tools: dict[str, AgentTool]
    closing: asyncio.Event
    forgotten: asyncio.Event
    """Set once the server has answered 404 to the session's id: it will never know it again."""
    calls: int = 0


@dataclass(slots=True)
class McpServer:
    name: str
    config: McpServerConfig
    values: Mapping[str, str] = field(repr=False)
    """Of the variables that the configuration names."""
    holders: int = 0
    _closing: asyncio.Task[None] | None = None
    _connection: _Connection | None = None
    _holder: asyncio.Task[None] | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _failure: ModelUnavailable | None = None
    _failed_at: float = 0.0

    async def tools(self, wanted: str) -> list[AgentTool]:
        connection = await self._connected()
        if wanted == "*":
            return [connection.tools[tool] for tool in self.config.tools if tool in connection.tools]
        if wanted not in connection.tools:
            raise self._unavailable(f"has no tool {wanted}")
        return [connection.tools[wanted]]

    async def call(self, tool: str, arguments: Arguments) -> str:
        """What the tool answers, as text. Raises ToolError.

        A server that has forgotten the session has done nothing: it is initialised anew, once, and asked again.
        """
        await import_aside(import_mcp_client)
        for last in (False, True):
            try:
                connection = await self._connected()
            except ModelUnavailable as error:
                raise ToolError(error.message) from None
            try:
                return _text(await self._asked(connection, tool, arguments))
            except _SessionForgotten:
                if last:
                    raise ToolError(f"The MCP server {self.name} forgets its sessions at once") from None
        raise AssertionError("the second attempt returns or raises")

    async def _asked(self, connection: _Connection, tool: str, arguments: Arguments) -> "CallToolResult":
        """Raises ToolError, and _SessionForgotten where the call has not been looked at."""
        from mcp import MCPError

        connection.calls += 1
        try:
            async with asyncio.timeout(self.config.call_seconds):
                return await connection.client.call_tool(tool, arguments)
        except TimeoutError:
            if connection.calls == 1:
                self._drop(connection)
            raise ToolError(f"The MCP server {self.name} did not answer in {self.config.call_seconds:g} s") from None
        except MCPError as error:
            if connection.forgotten.is_set():
                self._drop(connection)
                raise _SessionForgotten from None
            if self._holder is None or self._holder.done() or error.code == _closed_code():
                self._drop(connection)
            raise ToolError(f"The MCP server {self.name} refused: {error.message[:500]}") from None
        except Exception as error:
            self._drop(connection)
            raise ToolError(f"The MCP server {self.name} failed ({type(error).__name__})") from None
        finally:
            connection.calls -= 1

    @property
    def closing(self) -> bool:
        return self._closing is not None and not self._closing.done()

    def release(self) -> None:
        """The last one has it closed; where it is needed once more after all, it is connected to anew."""
        self.holders -= 1
        if self.holders == 0 and self._holder is not None and not self._holder.done():
            self._closing = asyncio.create_task(self.aclose(), name=f"mcp-{self.name}-closing")

    async def aclose(self) -> None:
        holder = self._holder
        if self._connection is not None:
            self._drop(self._connection)
        if holder is not None and not holder.done():
            _, running = await asyncio.wait([holder], timeout=CLOSE_SECONDS)
            for task in running:
                task.cancel()

    async def _connected(self) -> _Connection:
        """Raises ModelUnavailable within the bound, at once where it has just failed."""
        async with self._turn:
            if self._failure is not None and time.monotonic() - self._failed_at < RETRY_SECONDS:
                raise self._failure
            if self._connection is not None and self._holder is not None and not self._holder.done():
                return self._connection
            ready: asyncio.Future[_Connection] = asyncio.get_running_loop().create_future()
            self._holder = holder = asyncio.create_task(self._hold(ready), name=f"mcp-{self.name}")
            try:
                async with asyncio.timeout(self.config.connect_seconds):
                    self._connection = await asyncio.shield(ready)
            except TimeoutError:
                holder.cancel()
                ready.cancel()
                words = f"did not answer within {self.config.connect_seconds:g} seconds"
                raise self._failed(self._unavailable(words)) from None
            except ModelUnavailable as error:
                raise self._failed(error) from None
            except BaseException:
                holder.cancel()
                raise
            self._failure = None
            return self._connection

    def _failed(self, error: ModelUnavailable) -> ModelUnavailable:
        """Remember it for those who wait for the same server: one after the other, they would wait for ever."""
        self._failure, self._failed_at = error, time.monotonic()
        return error

    async def _hold(self, ready: "asyncio.Future[_Connection]") -> None:
        """Open the session, and close it when it is asked to; a failure is raised to the waiting callers."""
        closing, forgotten = asyncio.Event(), asyncio.Event()
        try:
            async with AsyncExitStack() as stack:
                client = await self._open(stack, forgotten)
                tools = await self._listed(client)
                if not ready.cancelled():
                    ready.set_result(_Connection(client, tools, closing, forgotten))
                await closing.wait()
        except Exception as error:
            log.warning("The MCP server %s failed: %s", self.name, _named(error))
            if not ready.done():
                ready.set_exception(self._unavailable(f"cannot be reached ({_named(error)})"))

    async def _open(self, stack: AsyncExitStack, forgotten: asyncio.Event) -> "Client":
        await import_aside(import_mcp_client)
        from mcp import Client, StdioServerParameters
        from mcp.client.streamable_http import streamable_http_client

        config = self.config
        if config.command:
            command, *arguments = config.command
            variables = {name: self.values[name] for name in config.env}
            return await stack.enter_async_context(
                Client(StdioServerParameters(command=command, args=arguments, env=variables))
            )
        import httpx2

        headers = {header: self.values[variable] for header, variable in config.headers_env.items()}

        async def note(response: httpx2.Response) -> None:
            if response.status_code == 404 and SESSION_HEADER in response.request.headers:
                forgotten.set()

        http = await stack.enter_async_context(
            httpx2.AsyncClient(
                headers=headers,
                timeout=httpx2.Timeout(config.connect_seconds, read=config.call_seconds),
                event_hooks={"response": [note]},
            )
        )
        return await stack.enter_async_context(Client(streamable_http_client(config.url, http_client=http)))

    async def _listed(self, client: "Client") -> dict[str, AgentTool]:
        """The tools of the allow-list that the server has."""
        tools: dict[str, AgentTool] = {}
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                if tool.name in self.config.tools:
                    tools[tool.name] = self._tool(tool.name, tool.description or tool.name, tool.input_schema)
            cursor = page.next_cursor
            if cursor is None:
                break
        return tools

    def _tool(self, name: str, description: str, schema: JsonObject) -> AgentTool:
        # imports jsonschema, which has been imported aside
        from apps.agents.schema_check import SchemaCheck

        checks = SchemaCheck(schema)

        async def invoke(context: ToolContext, arguments: Arguments) -> str:
            if faults := checks.faults(arguments):
                raise ToolError(f"Wrong arguments: {'; '.join(faults)}")
            return await self.call(name, arguments)

        shown = NOT_IN_A_NAME.sub("_", f"{self.name}_{name}")[:64]
        return AgentTool(shown, description[:LONGEST_DESCRIPTION], schema, invoke)

    def _drop(self, connection: _Connection) -> None:
        connection.closing.set()
        if self._connection is connection:
            self._connection = None

    def _unavailable(self, what: str) -> ModelUnavailable:
        return ModelUnavailable(
            f"The MCP server {self.name} {what}", details={"mcp_server": self.name}, retry_after=RETRY_SECONDS
        )


def import_mcp_client() -> None:
    """What asks MCP servers, and what checks the arguments of their tools."""
    import httpx2
    import mcp.client.streamable_http
    import mcp_types

    import apps.agents.schema_check as checks

    del httpx2, mcp, mcp_types, checks


def _text(result: "CallToolResult") -> str:
    parts = [block.text if block.type == "text" else f"[{block.type}]" for block in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    text = "\n".join(parts)
    if result.is_error:
        raise ToolError(text or "The tool failed")
    return text


def _closed_code() -> int:
    from mcp_types import CONNECTION_CLOSED

    return int(CONNECTION_CLOSED)


def _named(error: BaseException) -> str:
    """The kind of the error that is behind it all: anyio wraps it into groups, and its words may hold a secret."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
