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
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
)

from apps.core.process import NAME, VERSION

KEY_VARIABLE = "GENAI_API_KEY"
# an agent may take its five minutes
READ_SECONDS = 330.0
Context = ServerRequestContext[Any]


async def bridge(url: str, key: str) -> None:
    """Serve on stdin and stdout until the client closes them."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(10, read=READ_SECONDS)) as http,
        Client(streamable_http_client(url, http_client=http)) as service,
        stdio_server() as (reading, writing),
    ):
        server = bridging(service)
        await server.run(reading, writing, server.create_initialization_options())


def bridging(service: Client) -> Server[Any]:
    """A server whose every answer is the service's: tools with their progress, resources and prompts."""

    async def list_tools(context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        return await service.list_tools(cursor=_cursor(params), cache_mode="refresh")

    async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult:
        # reports nothing to a client that has not asked for it
        report = context.session.report_progress
        return await service.call_tool(params.name, params.arguments or {}, progress_callback=report)

    async def list_resources(context: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
        return await service.list_resources(cursor=_cursor(params), cache_mode="refresh")

    async def list_templates(context: Context, params: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
        return await service.list_resource_templates(cursor=_cursor(params), cache_mode="refresh")

    async def read_resource(context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        return await service.read_resource(str(params.uri), cache_mode="refresh")

    async def list_prompts(context: Context, params: PaginatedRequestParams | None) -> ListPromptsResult:
        return await service.list_prompts(cursor=_cursor(params), cache_mode="refresh")

    async def get_prompt(context: Context, params: GetPromptRequestParams) -> GetPromptResult:
        return await service.get_prompt(params.name, params.arguments)

    return Server(
        NAME,
        version=VERSION,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
    )


def _cursor(params: PaginatedRequestParams | None) -> str | None:
    return params.cursor if params else None


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
