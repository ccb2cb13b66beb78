"""The mcp package's own client, connected to a service under test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


@asynccontextmanager
async def connected(url: str, key: str = "", mode: str = "auto") -> AsyncIterator[Client]:
    """``mode`` is the package's: auto takes the newest protocol, legacy begins with the older one's handshake."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=90) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def text_of(result: Any) -> str:
    return "".join(block.text for block in result.content)
