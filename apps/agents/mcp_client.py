"""A session with one MCP server. The only adapter of the client's side of the mcp package."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass

import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CONNECTION_CLOSED, CallToolResult

from apps.agents.config import McpServerConfig
from apps.agents.mcp_port import McpRefusal
from apps.agents.schema_check import SchemaCheck
from apps.agents.tools import Arguments
from apps.core.messages import JsonObject

MOST_PAGES = 20
SESSION_HEADER = "mcp-session-id"
# of the call under way: the answers to its requests that the session is not known; the package sends each request in
# the context of its call
unknown_session: ContextVar[list[httpx2.Response] | None] = ContextVar("unknown_session", default=None)


@dataclass(frozen=True, slots=True)
class ListedTool:
    name: str
    description: str
    schema: JsonObject
    checks: SchemaCheck


class McpSession:
    """What can be asked of a server within the session that `open_session` opens."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, tool: str, arguments: Arguments) -> tuple[str, bool]:
        """The tool's answer as text, and whether it is a failure. Raises McpRefusal."""
        unknown: list[httpx2.Response] = []
        reset = unknown_session.set(unknown)
        try:
            result = await self._client.call_tool(tool, arguments)
        except MCPError as error:
            raise McpRefusal(error.message, error.code == CONNECTION_CLOSED, bool(unknown)) from None
        finally:
            unknown_session.reset(reset)
        return _text(result), bool(result.is_error)

    async def tools(self, allowed: Sequence[str]) -> list[ListedTool]:
        """Those of the ``allowed`` tools that the server has."""
        tools: list[ListedTool] = []
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            tools += [
                ListedTool(tool.name, tool.description or tool.name, tool.input_schema, SchemaCheck(tool.input_schema))
                for tool in page.tools
                if tool.name in allowed
            ]
            cursor = page.next_cursor
            if cursor is None:
                break
        return tools


async def open_session(config: McpServerConfig, values: Mapping[str, str], stack: AsyncExitStack) -> McpSession:
    """Opens a session that ``stack`` closes. ``values`` are those of the variables that the configuration names."""
    if config.command:
        command, *arguments = config.command
        variables = {name: values[name] for name in config.env}
        parameters = StdioServerParameters(command=command, args=arguments, env=variables)
        # the standard error of now: the package takes that of the moment at which it was imported
        client = Client(stdio_client(parameters, errlog=sys.stderr))
        return McpSession(await stack.enter_async_context(client))
    headers = {header: values[variable] for header, variable in config.headers_env.items()}

    async def note(response: httpx2.Response) -> None:
        unknown, request = unknown_session.get(), response.request
        # the package resumes a broken answer with GET in the same context: that call has been looked at
        if unknown is None or request.method != "POST":
            return
        if response.status_code == 404 and SESSION_HEADER in request.headers:
            unknown.append(response)

    http = await stack.enter_async_context(
        httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(config.connect_seconds, read=config.call_seconds),
            event_hooks={"response": [note]},
        )
    )
    client = Client(streamable_http_client(config.url, http_client=http))
    return McpSession(await stack.enter_async_context(client))


def _text(result: CallToolResult) -> str:
    parts = [block.text if block.type == "text" else f"[{block.type}]" for block in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    return "\n".join(parts)
