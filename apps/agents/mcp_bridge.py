"""Our MCP server for clients that only start programs: stdio on this side, streamable HTTP to the service.

GENAI_API_KEY=... python -m apps.agents.mcp_bridge http://localhost:8000/mcp

A program of its own that knows nothing of the service but its address: what may be called is decided there.
"""

import asyncio
import os
import sys
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams

from apps.core.process import NAME, VERSION

KEY_VARIABLE = "GENAI_API_KEY"
# an agent may take its five minutes
READ_SECONDS = 330.0


async def bridge(url: str, key: str) -> None:
    """Serve on stdin and stdout until the client closes them."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(10, read=READ_SECONDS)) as http,
        Client(streamable_http_client(url, http_client=http)) as service,
        stdio_server() as (reading, writing),
    ):

        async def list_tools(
            context: ServerRequestContext[Any], params: PaginatedRequestParams | None
        ) -> ListToolsResult:
            return await service.list_tools(cursor=params.cursor if params else None, cache_mode="refresh")

        async def call_tool(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
            return await service.call_tool(params.name, params.arguments or {})

        server: Server[Any] = Server(NAME, version=VERSION, on_list_tools=list_tools, on_call_tool=call_tool)
        await server.run(reading, writing, server.create_initialization_options())


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1].startswith(("http://", "https://")):
        sys.exit("usage: python -m apps.agents.mcp_bridge http://localhost:8000/mcp (the key in GENAI_API_KEY)")
    serve_bridge(sys.argv[1], os.environ.get(KEY_VARIABLE, ""))


def serve_bridge(url: str, key: str) -> None:
    """Run the bridge until the client leaves; exits with one line where the service cannot be reached."""
    try:
        asyncio.run(bridge(url, key))
    except* (httpx2.HTTPError, OSError) as errors:
        sys.exit(f"The service cannot be reached: {type(errors.exceptions[0]).__name__}")


if __name__ == "__main__":
    main()
