"""A transport of httpx over the project's own connections: for the openai SDK, and for whatever else uses httpx."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx

from apps.transport.client import Connections, Pool
from apps.transport.origin import Origin
from apps.transport.response import BadRequest, ConnectionFailed, Cut, ProtocolError, Response

# what this transport writes by itself, or what is about one connection
OWN_HEADERS = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive"})


class HttpxTransport(httpx.AsyncBaseTransport):
    """Sends a request over ``connections``, which are closed by their owner.

    A timeout of httpx for reading is the longest silence between bytes, the head's included. HEAD is not supported.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "HEAD":
            raise httpx.UnsupportedProtocol("HEAD is not supported", request=request)
        timeouts: dict[str, Any] = request.extensions.get("timeout", {})
        read = _seconds(timeouts.get("read"))
        body = await request.aread()
        clock = asyncio.get_running_loop().time
        with _httpx_errors(request, httpx.ConnectTimeout):
            server = Origin.of(str(request.url))
            pool = self._connections.pool(server)
            head = _head(request, server, pool, len(body))
            connection = pool.take() or await pool.connect(clock() + _seconds(timeouts.get("connect")))
        response = connection.send(head, body)
        with _httpx_errors(request, httpx.WriteTimeout):
            await connection.sent(response, _seconds(timeouts.get("write")))
        with _httpx_errors(request, httpx.ReadTimeout):
            await response.begun(clock() + read)
        headers = list(response.fields.items())
        stream = _Body(request, response, read)
        return httpx.Response(response.status, headers=headers, stream=stream, extensions={"http_version": b"HTTP/1.1"})


class _Body(httpx.AsyncByteStream):
    def __init__(self, request: httpx.Request, response: Response, silence: float) -> None:
        self._request = request
        self._response = response
        self._silence = silence

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _httpx_errors(self._request, httpx.ReadTimeout):
            while data := await self._response.chunk(self._silence, math.inf):
                yield data

    async def aclose(self) -> None:
        self._response.close()


def _head(request: httpx.Request, server: Origin, pool: Pool, length: int) -> bytes:
    proxy = pool.forward_proxy
    fields = [(name, value) for name, value in request.headers.raw if name.lower() not in OWN_HEADERS]
    fields.insert(0, (b"Host", server.authority.encode("ascii")))
    if server.credentials and "authorization" not in request.headers:
        fields.append((b"Authorization", server.credentials.encode("ascii")))
    if proxy is not None and proxy.authorization:
        fields.append((b"Proxy-Authorization", proxy.authorization.encode("ascii")))
    if length or request.method not in ("GET", "DELETE", "OPTIONS"):
        fields.append((b"Content-Length", b"%d" % length))
    if any(ending in value for _, value in fields for ending in (b"\r", b"\n", b"\0")):
        raise BadRequest("A header's value has more than one line")
    first = f"{request.method} {server.target(str(request.url), absolute=proxy is not None)} HTTP/1.1\r\n"
    return first.encode("ascii") + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"


@contextmanager
def _httpx_errors(request: httpx.Request, timeout: type[httpx.TimeoutException]) -> Iterator[None]:
    """Failures of the connections as httpx's own, which keep them as their cause."""
    try:
        yield
    except TimeoutError as error:
        raise timeout("The time ran out", request=request) from error
    except ConnectionFailed as error:
        raise httpx.ConnectError(str(error), request=request) from error
    except Cut as error:
        raise httpx.ReadError(str(error), request=request) from error
    except ProtocolError as error:
        raise httpx.RemoteProtocolError(str(error), request=request) from error
    except BadRequest as error:
        raise httpx.LocalProtocolError(str(error), request=request) from error


def _seconds(value: float | None) -> float:
    return math.inf if value is None else value
