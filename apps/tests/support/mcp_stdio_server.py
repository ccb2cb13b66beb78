"""A small MCP server over stdio, as a program of its own: for the tests of our client."""

import asyncio
import os
import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("small")


@server.tool()
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
async def secret() -> str:
    """Tell the server's own key."""
    return f"my key is {os.environ.get('SMALL_SERVER_KEY', 'unset')} and {os.environ.get('OTHER_SECRET', 'unset')}"


@server.tool()
async def forbidden() -> str:
    """Is not on the allow-list."""
    return "never"


@server.tool()
async def sleep(seconds: float) -> str:
    """Sleep."""
    await asyncio.sleep(seconds)
    return "awake"


@server.tool()
async def die() -> str:
    """End the process."""
    os._exit(3)


if __name__ == "__main__":
    if "hang" in sys.argv:
        sys.stdin.read()
    server.run()
