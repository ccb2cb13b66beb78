"""The openai SDK over the project's own connections: typed calls, and its failures by the one table of upstreams.

The SDK is heavy, so this module is imported when the first call needs it. Its own retries are off.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import openai

from apps.core.errors import AppError
from apps.models.upstream_errors import FAILURES, not_understood, parsed_object, status_error, translate
from apps.transport.client import Connections
from apps.transport.httpx_transport import HttpxTransport


class OpenAIClient:
    """A client of one OpenAI-compatible upstream. ``connections`` are closed by their owner."""

    def __init__(self, base_url: str, api_key: str, timeout: httpx.Timeout, connections: Connections) -> None:
        # an upstream that redirects would carry texts to wherever it likes
        http_client = httpx.AsyncClient(transport=HttpxTransport(connections), follow_redirects=False, timeout=timeout)
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            # the SDK insists on a key; an upstream that needs none is sent none
            api_key=api_key or "unused",
            max_retries=0,
            timeout=timeout,
            http_client=http_client,
        )
        self._headers = {} if api_key else {"Authorization": openai.Omit()}

    @classmethod
    def open(
        cls, base_url: str, api_key: str, timeouts: tuple[float, float, float], connections: Connections
    ) -> "OpenAIClient":
        """``timeouts`` are seconds to connect, to wait for each piece of an answer, and to write."""
        connect, read, write = timeouts
        return cls(base_url, api_key, httpx.Timeout(connect=connect, read=read, write=write, pool=None), connections)

    async def embeddings(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST /embeddings; the answer, parsed. Raises only errors of apps.core.errors."""
        create: Any = self._client.embeddings.with_raw_response.create
        with translated_errors():
            response = await create(**body, extra_headers=self._headers)
            return parsed_object(response.content)

    async def rerank(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST /rerank, which is not OpenAI's; the answer, parsed. Raises only errors of apps.core.errors."""
        options: Any = {"headers": self._headers}
        with translated_errors():
            response = await self._client.post("/rerank", cast_to=httpx.Response, body=dict(body), options=options)
            return parsed_object(response.content)

    async def aclose(self) -> None:
        await self._client.close()


@contextmanager
def translated_errors() -> Iterator[None]:
    """Vendor errors in, errors of apps.core.errors out."""
    try:
        yield
    except (openai.OpenAIError, httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
        raise _translated(error) from error


def _translated(error: Exception) -> AppError:
    """A status comes from the answer; what went wrong below the SDK and httpx is the cause of what they raise."""
    if isinstance(error, openai.APIStatusError):
        return status_error(error.status_code, error.response.headers)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, FAILURES):
            return translate(cause)
        cause = cause.__cause__
    return not_understood()
