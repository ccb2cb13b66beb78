"""An upstream over HTTP whose bytes pass through: the gateway's own client, on aiohttp.

The SDK and httpx cost a multiple of the rest of the path (see apps/DECISIONS.md); this knows no more of the API than
where a call goes and what a failure means. aiohttp is imported when the first call needs it.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from apps.core.errors import ModelUnavailable
from apps.models.gateway.blocks import EventBlocks, is_silent, whole_json
from apps.models.gateway.config import ProviderConfig
from apps.models.gateway.response_blocks import ResponseBlocks
from apps.models.gateway.wire import TraceHeaders, WireCall, WireReply
from apps.models.upstream_errors import nonsense, status_error

if TYPE_CHECKING:
    import aiohttp
    import yarl

SEVERAL = 64
DRAIN_SECONDS = 1.0


class HttpTarget:
    """One provider: a pooled client with keep-alive, its address, its key and its timeouts.

    ``trace`` makes the headers that tie a call to its trace, where there is one.
    """

    def __init__(self, provider: ProviderConfig, api_key: str, trace: TraceHeaders | None = None) -> None:
        self._provider = provider
        self._trace = trace
        self._client: aiohttp.ClientSession | None = None
        self._urls: dict[tuple[str, str], yarl.URL] = {}
        self._draining: set[asyncio.Task[None]] = set()
        self._configured = bool(api_key) or not provider.api_key_env
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if api_key and provider.kind == "azure":
            self._headers["api-key"] = api_key
        elif api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def not_configured(self) -> str:
        """What an operator has to do before this can be called; empty where nothing is missing."""
        return "" if self._configured else f"set {self._provider.api_key_env}"

    async def open(self, call: WireCall, model: str) -> WireReply:
        if not self._configured:
            raise ModelUnavailable(f"The provider is not configured: {self.not_configured()}", retry_after=60)
        from apps.models.gateway.http_errors import FAILURES, translate

        timeouts = self._provider.timeouts
        ends = asyncio.get_running_loop().time() + timeouts.total
        try:
            if not call.stream:
                # what this caller waits for is the last token, so only the total time bounds it: see Attempts
                return await self._send(call, model, ends)
            async with asyncio.timeout(timeouts.first_token):
                return await self._send(call, model, ends)
        except FAILURES as error:
            raise translate(error) from error

    async def aclose(self) -> None:
        if self._client:
            await self._client.close()

    def drain(self, response: "aiohttp.ClientResponse") -> None:
        """Wait in the background for the last bytes behind ``[DONE]``: then the connection can be used again."""
        task = asyncio.create_task(_drain(response))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _send(self, call: WireCall, model: str, ends: float) -> WireReply:
        session = self._client or self._open_session()
        response = await session.post(
            self._url(call.path, model),
            data=call.for_model(model),
            headers=self._trace() if self._trace else None,
            allow_redirects=False,
        )
        try:
            if response.status != 200:
                raise status_error(response.status, response.headers)
            return await self._reply(call, response, ends)
        except BaseException:
            response.close()
            raise

    async def _reply(self, call: WireCall, response: "aiohttp.ClientResponse", ends: float) -> WireReply:
        content_type = response.headers.get("Content-Type", "application/json")
        patience = _Patience(response, self._provider.timeouts.between_tokens, ends)
        if not call.stream:
            return WireReply(content_type, whole_json(await patience.whole()))
        if "event-stream" not in content_type:
            whole_json(await patience.whole())
            raise nonsense("The upstream did not stream its answer")
        events = ResponseBlocks() if call.path == "/responses" else EventBlocks()
        blocks = UpstreamBlocks(response, patience, self.drain, events)
        return WireReply(content_type, await blocks.first(), blocks)

    def _open_session(self) -> "aiohttp.ClientSession":
        import aiohttp

        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._provider.timeouts.connect),
            headers=self._headers,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self._client

    def _url(self, path: str, model: str) -> "yarl.URL":
        key = (path, model if self._provider.kind == "azure" else "")
        url = self._urls.get(key)
        if url is None:
            import yarl

            if len(self._urls) >= SEVERAL:
                self._urls.clear()
            url = self._urls[key] = yarl.URL(self._address(path, model))
        return url

    def _address(self, path: str, model: str) -> str:
        base = self._provider.base_url.rstrip("/")
        if self._provider.kind == "azure":
            return f"{base}/openai/deployments/{model}{path}?api-version={self._provider.api_version}"
        return base + path


class UpstreamBlocks:
    """The blocks of a streamed answer behind its first; closing it ends the upstream's work."""

    def __init__(
        self,
        response: "aiohttp.ClientResponse",
        patience: "_Patience",
        drain: "Callable[[aiohttp.ClientResponse], None]",
        events: EventBlocks | ResponseBlocks,
    ) -> None:
        self._response = response
        self._drain = drain
        self._patience = patience
        self._events = events

    async def first(self) -> bytes:
        """Everything up to the first block that says something: only then has the answer begun."""
        head = b""
        while True:
            chunk = await self._patience.chunk_before_the_first_token()
            block = self._feed(chunk)
            head += block
            if self._events.fault is not None and (not head or is_silent(head)):
                raise self._events.fault
            if block and not is_silent(block):
                return head

    def __aiter__(self) -> "UpstreamBlocks":
        return self

    async def __anext__(self) -> bytes:
        from apps.models.gateway.http_errors import FAILURES, translate

        while not self._events.ended:
            if self._events.fault is not None:
                raise self._events.fault
            try:
                block = self._feed(await self._patience.chunk())
            except FAILURES as error:
                raise translate(error, begun=True) from error
            if block:
                return block
        raise StopAsyncIteration

    async def aclose(self) -> None:
        if not self._events.ended:
            self._response.close()
        elif not self._response.content.at_eof():
            self._drain(self._response)

    def _feed(self, chunk: bytes) -> bytes:
        if chunk:
            return self._events.feed(chunk)
        self._events.finish()
        return b""


class _Patience:
    """Reads a body: no silence longer than ``between`` seconds, and nothing after the time ``ends``.

    A slow reader's own time does not count, since the clock runs while a read waits and not between two of them.
    """

    def __init__(self, response: "aiohttp.ClientResponse", between: float, ends: float) -> None:
        self._content = response.content
        self._between = between
        self._ends = ends

    async def chunk(self) -> bytes:
        """The next bytes; empty at the end."""
        until = asyncio.get_running_loop().time() + self._between
        async with asyncio.timeout_at(min(until, self._ends)):
            return await self._content.readany()

    async def chunk_before_the_first_token(self) -> bytes:
        """The same, for a caller who runs a clock of its own."""
        return await self._content.readany()

    async def whole(self) -> bytes:
        """The rest, whole. Raises UpstreamError or Timeout where it breaks off."""
        from apps.models.gateway.http_errors import FAILURES, translate

        if self._content.is_eof():
            return self._content.read_nowait()
        parts = []
        try:
            while chunk := await self.chunk():
                parts.append(chunk)
        except FAILURES as error:
            raise translate(error, begun=True) from error
        return b"".join(parts)


async def _drain(response: "aiohttp.ClientResponse") -> None:
    from apps.models.gateway.http_errors import FAILURES

    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while await response.content.readany():
                pass
    except FAILURES:
        # the answer was whole; this connection is just not used again
        response.close()
    finally:
        if not response.content.at_eof():
            response.close()
