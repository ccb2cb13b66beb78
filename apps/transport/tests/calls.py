"""A client and the server that it asks, for one test."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from apps.transport.client import Client
from apps.transport.response import Response
from apps.transport.tests.raw_server import RawServer, Script, raw_server


@dataclass(frozen=True, slots=True)
class Call:
    server: RawServer
    client: Client

    async def post(self, body: bytes = b"{}", seconds: float = 60.0, **more: Any) -> Response:
        return await self.client.post(self.server.url + "/v1/chat", body, in_seconds(seconds), **more)

    async def ask(self, body: bytes = b"{}", seconds: float = 60.0) -> tuple[int, bytes]:
        """Status and body of an answer that is read to its end."""
        response = await self.post(body, seconds)
        return response.status, await response.read(seconds, in_seconds(seconds))


class Start(Protocol):
    async def __call__(self, script: Script, **options: Any) -> Call: ...


def in_seconds(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


@asynccontextmanager
async def served(
    script: Script,
    *,
    connect: float = 2.0,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    trust: ssl.SSLContext | None = None,
) -> AsyncIterator[Call]:
    """Both are closed at the end."""
    server = await raw_server(script, tls, host)
    client = Client(server.url, {"X-Fixed": "yes"}, connect, trust)
    try:
        yield Call(server, client)
    finally:
        async with asyncio.timeout(90):
            await client.aclose()
            await server.aclose()
