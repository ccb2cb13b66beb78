"""The one place that touches the openai SDK and httpx: a request body in, parsed chunks out.

It knows timeouts and errors, not what a chunk means. Both libraries are heavy, so this module is imported when
the first call, or the start in the background, needs it. The SDK's own retries are off: `retry.py` owns them.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import openai

from apps.core.errors import AppError
from apps.models.event_stream import EventStreamDecoder
from apps.models.upstream_errors import not_understood, parsed_object, status_error, timed_out, unreachable

Chunk = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; ``read`` is the longest silence between bytes, not the length of an answer."""

    connect: float
    read: float
    write: float


class OpenAITransport:
    """A pooled client of one OpenAI-compatible upstream.

    ``trace`` makes the headers that tie a call to its trace, where there is one.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        timeouts: Timeouts,
        trace: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        self._trace = trace
        timeout = httpx.Timeout(
            connect=timeouts.connect, read=timeouts.read, write=timeouts.write, pool=timeouts.connect
        )
        # an upstream that redirects would carry prompts to wherever it likes
        http_client = openai.DefaultAsyncHttpxClient(follow_redirects=False, timeout=timeout)
        # the SDK insists on a key; an upstream that needs none is sent none
        self._headers = {} if api_key else {"Authorization": openai.Omit()}
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or "unused",
            max_retries=0,
            timeout=timeout,
            http_client=http_client,
        )
        # the SDK refuses to call without a key unless each call says that this is meant
        self._headers = {} if api_key else {"Authorization": openai.Omit()}

    async def chat(self, body: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        """POST /chat/completions with ``"stream": true``; yields each chunk, parsed.

        Raises only errors of apps.core.errors. Ends without a word where the upstream does: whether the
        answer was whole is for the caller to judge.
        """
        create: Any = self._client.chat.completions.with_streaming_response.create
        usage = {"include_usage": True}
        headers = {**self._headers, **self._trace()} if self._trace else self._headers
        with translated_errors():
            async with create(**body, stream=True, stream_options=usage, extra_headers=headers) as response:
                http_response = response.http_response
                if "event-stream" not in http_response.headers.get("content-type", ""):
                    yield parsed_object(await http_response.aread())
                    return
                decoder = EventStreamDecoder()
                async for part in http_response.aiter_bytes():
                    for event in decoder.feed(part):
                        if event.data == b"[DONE]":
                            return
                        if event.data:  # some upstreams send empty ones to keep the connection alive
                            yield parsed_object(event.data)

    async def embeddings(self, body: Mapping[str, Any]) -> Chunk:
        """POST /embeddings; the answer, parsed. Raises only errors of apps.core.errors."""
        create: Any = self._client.embeddings.with_raw_response.create
        with translated_errors():
            response = await create(**body, extra_headers=self._headers)
            return parsed_object(response.content)

    async def aclose(self) -> None:
        await self._client.close()


@contextmanager
def translated_errors() -> Iterator[None]:
    """Vendor errors in, errors of apps.core.errors out."""
    try:
        yield
    except (openai.OpenAIError, httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
        raise translate(error) from error


def translate(error: Exception) -> AppError:
    """Look the error up; the table's first match counts, so subclasses stand before their bases."""
    return next(make(error) for kind, make in ERRORS if isinstance(error, kind))


def _status_error(error: Any) -> AppError:
    return status_error(error.status_code, error.response.headers)


def _timeout(error: Exception) -> AppError:
    return timed_out()


def _unreachable(error: Exception) -> AppError:
    return unreachable()


def _connection(error: Exception) -> AppError:
    """The SDK wraps what the HTTP client raised: look at that where it is known."""
    cause = error.__cause__
    return translate(cause) if isinstance(cause, httpx.HTTPError) else _unreachable(error)


def _nonsense(error: Exception) -> AppError:
    return not_understood()


ERRORS: list[tuple[type[Exception], Callable[[Any], AppError]]] = [
    (openai.APIStatusError, _status_error),
    (openai.APITimeoutError, _timeout),
    (openai.APIConnectionError, _connection),
    (openai.OpenAIError, _nonsense),
    (httpx.TimeoutException, _timeout),
    (httpx.DecodingError, _nonsense),
    (httpx.TooManyRedirects, _nonsense),
    (httpx.UnsupportedProtocol, _nonsense),
    (httpx.SSEError, _nonsense),
    (httpx.TransportError, _unreachable),
    (httpx.HTTPError, _nonsense),
    (httpx.StreamError, _unreachable),
    (httpx.InvalidURL, _nonsense),
]
