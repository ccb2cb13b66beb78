"""An upstream over HTTP whose bytes pass through: the gateway's own client, on aiohttp.

The SDK and httpx cost a multiple of the rest of the path (see apps/DECISIONS.md); this knows no more of the API than
where a call goes and what a failure means. aiohttp is imported when the first call needs it.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from apps.core.errors import ModelUnavailable
from apps.models.gateway.blocks import EventBlocks, whole_json
from apps.models.gateway.config import ProviderConfig
from apps.models.gateway.receipts import note_usage
from apps.models.gateway.response_blocks import ResponseBlocks
from apps.models.gateway.stream_usage import UsageReader, asking_for_usage, lacks_usage, names_the_wish
from apps.models.gateway.upstream_blocks import Patience, UpstreamBlocks, drain
from apps.models.gateway.wire import TraceHeaders, Used, WireCall, WireReply
from apps.models.upstream_errors import nonsense, status_error

if TYPE_CHECKING:
    import aiohttp
    import yarl

SEVERAL = 64
MANY = 1024
ERROR_BYTES = 65_536
# what an upstream answers to a field that it does not know
UNKNOWN_FIELD = (400, 422)
log = logging.getLogger(__name__)


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
        # paths and models whose upstream has refused to be asked for usage
        self._mute_on_usage: set[tuple[str, str]] = set()
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
        task = asyncio.create_task(drain(response))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _send(self, call: WireCall, model: str, ends: float) -> WireReply:
        asking = lacks_usage(call) and self._provider.stream_usage and (call.path, model) not in self._mute_on_usage
        session = self._client or self._open_session()
        body = asking_for_usage(call, model) if asking else call.for_model(model)
        response = await session.post(
            self._url(call.path, model),
            data=body,
            headers=self._trace() if self._trace else None,
            allow_redirects=False,
        )
        try:
            if response.status == 200:
                return await self._reply(call, response, ends, hidden=asking)
            if not (asking and response.status in UNKNOWN_FIELD and names_the_wish(await _beginning(response))):
                raise status_error(response.status, response.headers)
        except BaseException:
            response.close()
            raise
        response.close()
        self._note_refusal(call.path, model)
        return await self._send(call, model, ends)

    def _note_refusal(self, path: str, model: str) -> None:
        if len(self._mute_on_usage) >= MANY:
            self._mute_on_usage.clear()
        self._mute_on_usage.add((path, model))
        log.warning("An upstream refuses stream_options on %s: the tokens of its streams are estimated", path)

    async def _reply(
        self, call: WireCall, response: "aiohttp.ClientResponse", ends: float, *, hidden: bool
    ) -> WireReply:
        content_type = response.headers.get("Content-Type", "application/json")
        patience = Patience(response, self._provider.timeouts.between_tokens, ends)
        used = Used()
        if not call.stream:
            body = whole_json(await patience.whole())
            note_usage(used, body)
            return WireReply(content_type, body, used=used)
        if "event-stream" not in content_type:
            whole_json(await patience.whole())
            raise nonsense("The upstream did not stream its answer")
        events = ResponseBlocks() if call.path == "/responses" else EventBlocks()
        blocks = UpstreamBlocks(response, patience, self.drain, events, UsageReader(used, hidden=hidden))
        return WireReply(content_type, await blocks.first(), blocks, used)

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


async def _beginning(response: "aiohttp.ClientResponse") -> bytes:
    """As much of an error's body as is needed to see what it is about."""
    body = b""
    while len(body) < ERROR_BYTES and (chunk := await response.content.readany()):
        body += chunk
    return body
