"""An upstream over HTTP whose bytes pass through: the gateway's own client, on aiohttp.

The SDK and httpx cost a multiple of the rest of the path (see apps/DECISIONS.md); this knows no more of the API than
where a call goes and what a failure means. aiohttp is imported when the first call needs it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from apps.core.errors import UpstreamError
from apps.models.gateway.blocks import ERROR_KEY, whole_events
from apps.models.gateway.config import ProviderConfig
from apps.models.gateway.response_blocks import whole_responses
from apps.models.gateway.wire import WireCall, WireReply

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
Cut = Callable[[AsyncIterable[bytes]], AsyncGenerator[bytes, None]]


class HttpTarget:
    """One provider: a pooled client with keep-alive, its address, its key and its timeouts."""

    def __init__(self, provider: ProviderConfig, api_key: str) -> None:
        self._provider = provider
        self._client: aiohttp.ClientSession | None = None
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if api_key and provider.kind == "azure":
            self._headers["api-key"] = api_key
        elif api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    async def open(self, call: WireCall, model: str) -> WireReply:
        from apps.models.gateway.http_errors import translated_errors

        timeouts = self._provider.timeouts
        with translated_errors():
            # what a caller of a whole answer waits for is its last token, so only the total time bounds it
            async with asyncio.timeout(timeouts.first_token if call.stream else timeouts.total):
                response = await self._session().post(
                    self._url(call.path, model), data=call.for_model(model), allow_redirects=False
                )
                try:
                    return await self._reply(call, response)
                except BaseException:
                    response.close()
                    raise

    async def aclose(self) -> None:
        if self._client:
            await self._client.close()

    async def _reply(self, call: WireCall, response: "aiohttp.ClientResponse") -> WireReply:
        from apps.models.gateway.http_errors import status_error

        if response.status != 200:
            raise status_error(response.status, response.headers)
        content_type = response.headers.get("Content-Type", "application/json")
        if call.stream and "event-stream" in content_type:
            blocks = self._blocks(response, whole_responses if call.path == "/responses" else whole_events)
            return WireReply(content_type, await anext(blocks), blocks)
        body = await response.read()
        if call.stream or not body.rstrip().endswith(b"}") or ERROR_KEY.match(body.lstrip()[1:].lstrip()):
            raise UpstreamError("The upstream's answer could not be understood")
        return WireReply(content_type, body)

    async def _blocks(self, response: "aiohttp.ClientResponse", whole: Cut) -> AsyncGenerator[bytes, None]:
        from apps.models.gateway.http_errors import translated_errors

        between = self._provider.timeouts.between_tokens
        try:
            with translated_errors():
                async with aclosing(whole(_patient(response.content.iter_any(), between))) as blocks:
                    async for block in blocks:
                        yield block
        finally:
            response.close()

    def _session(self) -> "aiohttp.ClientSession":
        if self._client is None:
            import aiohttp

            timeouts = self._provider.timeouts
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=timeouts.total, sock_connect=timeouts.connect),
                headers=self._headers,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._client

    def _url(self, path: str, model: str) -> str:
        base = self._provider.base_url.rstrip("/")
        if self._provider.kind == "azure":
            return f"{base}/openai/deployments/{model}{path}?api-version={self._provider.api_version}"
        return base + path


async def _patient(chunks: AsyncIterator[T], seconds: float) -> AsyncGenerator[T, None]:
    """The chunks, none later than ``seconds`` after the one before; a slow reader's own time does not count."""
    while True:
        try:
            async with asyncio.timeout(seconds):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        yield chunk
