"""How an upstream is asked: a client, its key in the header of its kind, and what is read of its refusals."""

import asyncio
import math
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from apps.gateway.routing.config import ProviderConfig
from apps.models.upstream_errors import FAILURES

if TYPE_CHECKING:
    from apps.transport.client import Client
    from apps.transport.pool import Connections
    from apps.transport.response import Response

ANTHROPIC_VERSION = "2023-06-01"
ERROR_BYTES = 65_536
FIXED = {"User-Agent": "genai-project", "Accept-Encoding": "identity"}


def access_headers(provider: ProviderConfig, api_key: str) -> dict[str, str]:
    """The headers of every call, the key among them where there is one."""
    headers = dict(FIXED)
    if provider.kind == "anthropic":
        headers["anthropic-version"] = ANTHROPIC_VERSION
        return {**headers, "x-api-key": api_key} if api_key else headers
    if api_key and provider.kind == "azure":
        headers["api-key"] = api_key
    elif api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


def hidden_words(provider: ProviderConfig, api_key: str) -> tuple[str, ...]:
    """What no caller may read in an upstream's own words: its host, its address, its key."""
    base = provider.base_url.rstrip("/")
    return tuple(filter(None, (urlsplit(provider.base_url).hostname, base, api_key)))


def open_client(provider: ProviderConfig, headers: dict[str, str], connections: "Connections | None") -> "Client":
    """A client for the provider's address, which sends ``headers`` with each call."""
    from apps.transport.client import Client

    timeouts = provider.timeouts
    return Client(provider.base_url, headers, timeouts.connect, connections=connections, write=timeouts.write)


async def beginning(response: "Response", until: float) -> bytes:
    """As much of an error's body as is needed to see what it is about, or as came before it broke off."""
    body = b""
    try:
        while len(body) < ERROR_BYTES and (chunk := await response.chunk(math.inf, until)):
            body += chunk
    except FAILURES:
        return body
    return body


def patience_for_words(provider: ProviderConfig) -> float:
    """Until when, in the event loop's time, an upstream may take to say why it refuses."""
    return asyncio.get_running_loop().time() + provider.timeouts.between_tokens
