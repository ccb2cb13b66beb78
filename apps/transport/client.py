"""The client of one base address: requests as bytes, over the connections of a pool."""

import asyncio
import math
import ssl
from collections.abc import AsyncIterable, Mapping

from apps.transport.origin import Origin, lines
from apps.transport.pool import Connections, Pool
from apps.transport.response import Response

MOST_HEADS = 64


class Client:
    """Used from one event loop, which runs when this is made. How many calls run at once is not its business.

    ``headers`` go with every call; ``connect`` seconds are for name, connection and TLS together, and after ``write``
    seconds in which nothing of a request leaves it is given up. ``connections`` are closed by their owner; without
    them it has its own, which trust ``tls``.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        connect: float,
        tls: ssl.SSLContext | None = None,
        connections: Connections | None = None,
        write: float = math.inf,
    ) -> None:
        self._origin = Origin.of(base_url)
        self._headers = headers
        self._connect_seconds = connect
        self._write_seconds = write
        self._loop = asyncio.get_running_loop()
        self._heads: dict[str, bytes] = {}
        self._own = Connections(tls=tls) if connections is None else None
        self._connections = connections or self._own or Connections()
        self._pool: Pool | None = None

    @property
    def idle(self) -> int:
        """How many connections wait for a call."""
        return 0 if self._pool is None else self._pool.idle

    async def post(self, url: str, body: bytes, until: float, more: Mapping[str, str] | None = None) -> Response:
        """Send it, and wait for the answer's head till the time ``until``; ``more`` are headers of this call alone.

        Raises HttpFailure or TimeoutError; then nothing is left open. ``url`` lies beneath the base address.
        """
        pool = self._pool = self._pool or self._connections.lease(self._origin)
        head = self._heads.get(url) or self._make_head(url, pool)
        ending = b"%d\r\n\r\n" % len(body) if not more else b"%d\r\n%b\r\n" % (len(body), lines(more))
        connection = pool.take() or await pool.connect(min(until, self._loop.time() + self._connect_seconds))
        response = connection.send(head + ending, body)
        if connection.unsent:
            await connection.sent(response, min(self._write_seconds, until - self._loop.time()))
        await response.begun(until)
        return response

    async def stream(
        self,
        method: str,
        url: str,
        pieces: AsyncIterable[bytes] | None,
        length: int | None,
        headers: Mapping[str, str],
        seconds: float,
    ) -> Response:
        """Send a request of any method but HEAD, its body as it comes, and wait ``seconds`` for the answer's head.

        ``length`` None: it is not known before the end. The call cannot be made again, so the connection is a new one.
        Raises as `post`, and what ``pieces`` raise.
        """
        pool = self._pool = self._pool or self._connections.lease(self._origin)
        head = self._opening(method, url, {**self._headers, **headers}, pool)
        if pieces is not None:
            head += b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: %d\r\n" % length
        connection = await pool.connect(self._loop.time() + self._connect_seconds)
        response = connection.send(head + b"\r\n", b"")
        if pieces is not None:
            await connection.upload(response, pieces, self._write_seconds, chunked=length is None)
        await response.begun(self._loop.time() + seconds)
        return response

    async def aclose(self) -> None:
        """Close its own connections, those in use too: their answers are cut. Of shared ones, close what is idle."""
        if self._pool is not None:
            self._connections.release(self._origin)
            self._pool = None
        if self._own is not None:
            await self._own.aclose()

    def _make_head(self, url: str, pool: Pool) -> bytes:
        if len(self._heads) >= MOST_HEADS:
            self._heads.clear()
        head = self._heads[url] = self._opening("POST", url, self._headers, pool) + b"Content-Length: "
        return head

    def _opening(self, method: str, url: str, headers: Mapping[str, str], pool: Pool) -> bytes:
        proxy = pool.asked_through
        sent = dict(headers)
        if proxy is not None and proxy.authorization:
            sent["Proxy-Authorization"] = proxy.authorization
        return self._origin.opening(method, url, sent, absolute=proxy is not None)
