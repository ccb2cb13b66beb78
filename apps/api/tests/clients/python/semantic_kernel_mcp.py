"""Semantic Kernel as a client of MCP."""

import asyncio

from semantic_kernel.connectors.mcp import MCPStreamableHttpPlugin
from support import HELLO, SCRIPTED


async def main():
    async with MCPStreamableHttpPlugin("here", f"{SCRIPTED}/mcp", load_prompts=False) as plugin:
        (told,) = await plugin.call_tool("local_generate", prompt="Hello")
        assert told.text == HELLO


asyncio.run(main())
