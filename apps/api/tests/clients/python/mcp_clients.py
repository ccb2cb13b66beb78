"""MCP clients: the Python SDK of an older revision, openai-agents' and AutoGen's."""

import asyncio

from agents.mcp import MCPServerStreamableHttp
from autogen_core import CancellationToken
from autogen_ext.tools.mcp import StreamableHttpServerParams, mcp_server_tools
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from support import HELLO, SCRIPTED

URL = f"{SCRIPTED}/mcp"
TOOL, ASKED = "local_generate", {"prompt": "Hello"}


async def python_sdk():
    heard = []

    async def report(progress, total, message):
        heard.append(progress)

    async with streamablehttp_client(URL) as (reading, writing, _), ClientSession(reading, writing) as session:
        await session.initialize()
        assert TOOL in [tool.name for tool in (await session.list_tools()).tools]
        assert (await session.call_tool(TOOL, ASKED, progress_callback=report)).content[0].text == HELLO
        assert heard
        assert (await session.call_tool(TOOL, {})).isError
        await session.list_resources()
        assert "compare_models" in [prompt.name for prompt in (await session.list_prompts()).prompts]


async def openai_agents():
    async with MCPServerStreamableHttp({"url": URL}, client_session_timeout_seconds=60) as server:
        assert TOOL in [tool.name for tool in await server.list_tools()]
        assert (await server.call_tool(TOOL, ASKED)).content[0].text == HELLO


async def autogen():
    tools = {tool.name: tool for tool in await mcp_server_tools(StreamableHttpServerParams(url=URL))}
    told = await tools[TOOL].run_json(ASKED, CancellationToken())
    assert HELLO in tools[TOOL].return_value_as_string(told)


async def main():
    for client in (python_sdk, openai_agents, autogen):
        await client()


asyncio.run(main())
