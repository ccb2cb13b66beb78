"""Parts of an upstream's API that are passed on as they are: any method, a body that is sent as it comes, any answer.

Nothing is read of either, but for an error's own words; nothing is tried again, since a body can be sent once.
"""

import math
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from apps.core.errors import NotFound
from apps.gateway.protocol import TraceHeaders
from apps.gateway.routing.config import ProviderConfig
from apps.gateway.upstream.access import (
    Body,
    access_headers,
    beginning,
    body_of,
    hidden_words,
    open_client,
    patience_for_words,
)
from apps.models.upstream_errors import (
    CALLERS_FAULT,
    FAILURES,
    missing_key,
    not_configured,
    read_rejection,
    status_error,
    translate,
)

if TYPE_CHECKING:
    from apps.transport.client import Client, Connections
    from apps.transport.response import Response

# what a caller names by himself is not there, or is not in a state for this
ABOUT_ITS_OBJECTS = frozenset({404, 409})
MOST_SEGMENTS = 8
# what an answer says of its body; a coding has been undone, and then its length is another one
PASSED_HEADERS = ("content-type", "content-disposition", "content-range", "accept-ranges")


@dataclass(frozen=True, slots=True)
class PassedCall:
    """``segments`` are the path behind /v1, decoded; ``length`` None: the body's end is not known before it."""

    method: str
    segments: tuple[str, ...]
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: AsyncIterable[bytes] | None = None
    length: int | None = None


class PassedReply:
    """A status between 200 and 299, the headers for the caller, and the body as it arrives; `close` must be called."""

    def __init__(self, response: "Response", body: Body, silence: float) -> None:
        self.status = response.status
        self.headers = {name: value for name in PASSED_HEADERS if (value := response.headers.get(name)) is not None}
        self._body = body
        self._silence = silence

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Raises UpstreamError or Timeout where it breaks off."""
        try:
            while data := await self._body.chunk(self._silence, math.inf):
                yield data
        except FAILURES as error:
            raise translate(error, begun=True) from error

    def close(self) -> None:
        self._body.close()


class Passage:
    """One provider's."""

    def __init__(
        self,
        provider: ProviderConfig,
        api_key: str,
        trace: TraceHeaders | None = None,
        connections: "Connections | None" = None,
    ) -> None:
        self._provider = provider
        self._trace = trace
        self._connections = connections
        self._headers = access_headers(provider, api_key)
        self._hidden = hidden_words(provider, api_key)
        self._missing = missing_key(provider.base_url, api_key, provider.api_key_env)
        self._client: Client | None = None

    async def open(self, call: PassedCall) -> PassedReply:
        """Send the call, and wait for the head of its answer. Raises errors of the tree, and what its body raises."""
        if self._missing:
            raise not_configured(self._missing)
        timeouts = self._provider.timeouts
        if self._client is None:
            self._client = open_client(self._provider, self._headers, self._connections)
        headers = {**call.headers, **(self._trace() if self._trace is not None else {})}
        try:
            response = await self._client.stream(
                call.method, self._address(call), call.body, call.length, headers, timeouts.total
            )
            try:
                if 200 <= response.status < 300:
                    return PassedReply(response, body_of(response), timeouts.first_token)
                body = await self._error_body(response)
            except BaseException:
                response.close()
                raise
        except FAILURES as error:
            raise translate(error) from error
        response.close()
        rejection = read_rejection(response.status, body, self._hidden) if body is not None else None
        raise status_error(response.status, response.headers, rejection)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _error_body(self, response: "Response") -> bytes | None:
        """What the upstream says of a call that failed for its caller's fault; None of any other failure."""
        if response.status not in CALLERS_FAULT | ABOUT_ITS_OBJECTS:
            return None
        return await beginning(response, patience_for_words(self._provider))

    def _address(self, call: PassedCall) -> str:
        """Raises NotFound for a path that would lead elsewhere."""
        if len(call.segments) > MOST_SEGMENTS or any(segment in ("", ".", "..") for segment in call.segments):
            raise NotFound("No such path")
        path = "/".join(quote(segment, safe="") for segment in call.segments)
        base, query = self._provider.base_url.rstrip("/"), call.query
        if self._provider.kind == "azure":
            base += "/openai"
            query = "&".join(filter(None, (query, f"api-version={quote(self._provider.api_version)}")))
        return f"{base}/{path}?{query}" if query else f"{base}/{path}"
