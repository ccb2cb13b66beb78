"""One provider's wire, put together of several: each path of OpenAI's API may have a target of its own.

An upstream over HTTP whose bytes pass through, by the client of `transport/`.

The SDK and httpx cost a multiple of the rest of the path, and aiohttp a quarter of it (see apps/DECISIONS.md); this
knows no more of the API than where a call goes and what a failure means. The client is imported when the first call
needs it.
"""

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from apps.core.errors import ModelUnavailable, NotFound
from apps.gateway.protocol import TraceHeaders, WireCall, WireReply, WireTarget
from apps.gateway.routing.config import ProviderConfig
from apps.gateway.upstream.event_blocks import EventBlocks, whole_json
from apps.gateway.upstream.patience import UpstreamBlocks, read_whole
from apps.gateway.upstream.response_blocks import ResponseBlocks
from apps.gateway.upstream.usage import UsageReader, asking_for_usage, lacks_usage, names_stream_options, usage_in
from apps.models.upstream_errors import FAILURES, nonsense, status_error, translate

if TYPE_CHECKING:
    from apps.transport.client import Client
    from apps.transport.response import Response


class ByPath:
    """Implements WireTarget. Paths that are not listed go to ``rest``; without it they are NotFound."""

    def __init__(self, targets: Mapping[str, WireTarget], rest: WireTarget | None = None) -> None:
        self._targets = dict(targets)
        self._rest = rest

    async def open(self, call: WireCall, model: str) -> WireReply:
        target = self._targets.get(call.path, self._rest)
        if target is None:
            raise NotFound(f"This model does not serve {call.path}", field="model")
        return await target.open(call, model)

    async def aclose(self) -> None:
        for target in [*self._targets.values(), *([self._rest] if self._rest else [])]:
            await target.aclose()


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
        self._base = provider.base_url.rstrip("/")
        self._trace = trace
        self._client: Client | None = None
        # paths and models whose upstream has refused to be asked for usage
        self._mute_on_usage: set[tuple[str, str]] = set()
        self._configured = bool(api_key) or not provider.api_key_env
        self._headers = {
            "User-Agent": "genai-project",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }
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
        timeouts = self._provider.timeouts
        now = asyncio.get_running_loop().time()
        ends = now + timeouts.total
        # where it is not streamed, its caller waits for the last token, so only the total time bounds it: see Attempts
        begins = min(now + timeouts.first_token, ends) if call.stream else ends
        try:
            return await self._send(call, model, begins, ends)
        except FAILURES as error:
            raise translate(error) from error

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _send(self, call: WireCall, model: str, begins: float, ends: float) -> WireReply:
        asking = lacks_usage(call) and self._provider.stream_usage and (call.path, model) not in self._mute_on_usage
        client = self._client or self._open_client()
        body = asking_for_usage(call, model) if asking else call.for_model(model)
        trace = self._trace() if self._trace is not None else None
        response = await client.post(self._address(call.path, model), body, begins, trace)
        try:
            if response.status == 200:
                return await self._reply(call, response, begins, ends, hidden=asking)
            refused = asking and response.status in UNKNOWN_FIELD
            if not (refused and names_stream_options(await _beginning(response, begins))):
                raise status_error(response.status, response.headers)
        except BaseException:
            response.close()
            raise
        response.close()
        self._note_refusal(call.path, model)
        return await self._send(call, model, begins, ends)

    def _note_refusal(self, path: str, model: str) -> None:
        if len(self._mute_on_usage) >= MANY:
            self._mute_on_usage.clear()
        self._mute_on_usage.add((path, model))
        log.warning("An upstream refuses stream_options on %s: the tokens of its streams are estimated", path)

    async def _reply(
        self, call: WireCall, response: "Response", begins: float, ends: float, *, hidden: bool
    ) -> WireReply:
        content_type = response.header(b"content-type") or "application/json"
        silence = self._provider.timeouts.between_tokens
        if not call.stream:
            body = whole_json(await read_whole(response, silence, ends))
            if call.record is not None:
                call.record.usage = usage_in(body)
            return WireReply(content_type, body)
        if "event-stream" not in content_type:
            whole_json(await read_whole(response, silence, begins))
            raise nonsense("The upstream did not stream its answer")
        events = ResponseBlocks() if call.path == "/responses" else EventBlocks()
        blocks = UpstreamBlocks(response, silence, ends, events, UsageReader(call.record, hidden=hidden))
        return WireReply(content_type, await blocks.first(begins), blocks)

    def _open_client(self) -> "Client":
        from apps.transport.client import Client

        self._client = Client(self._provider.base_url, self._headers, self._provider.timeouts.connect)
        return self._client

    def _address(self, path: str, model: str) -> str:
        if self._provider.kind == "azure":
            deployment = f"/openai/deployments/{quote(model, safe='')}"
            return f"{self._base}{deployment}{path}?api-version={self._provider.api_version}"
        return self._base + path


async def _beginning(response: "Response", until: float) -> bytes:
    """As much of an error's body as is needed to see what it is about."""
    body = b""
    while len(body) < ERROR_BYTES and (chunk := await response.chunk(math.inf, until)):
        body += chunk
    return body
