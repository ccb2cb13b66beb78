"""The client of one base address: requests as bytes, over the connections of a pool.

A pool holds the connections to one server: the idle ones, the newest first, and new ones.
"""

import asyncio
import math
import os
import ssl
from collections import Counter, OrderedDict
from collections.abc import AsyncIterable, Mapping
from contextlib import suppress

from apps.transport.connection import Connection
from apps.transport.dialing import Proxies, Proxy, TlsContext, client_context, open_connection
from apps.transport.origin import Origin, lines
from apps.transport.response import ConnectionFailed, Cut, Response

IDLE_SECONDS = 15.0
MOST_IDLE = 256


class Pool:
    """The connections to one server. Used from one event loop, which runs when this is made."""

    def __init__(self, server: Origin, proxy: Proxy | None, tls: TlsContext) -> None:
        self._server = server
        self._proxy = proxy
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        # in the order in which they became idle
        self._idle: OrderedDict[Connection, float] = OrderedDict()
        self._all: set[Connection] = set()
        self._closed: asyncio.Future[None] | None = None

    @property
    def idle(self) -> int:
        """How many connections wait for a call."""
        return len(self._idle)

    @property
    def forward_proxy(self) -> Proxy | None:
        """The proxy that requests themselves go to, in absolute form; a tunnel's sees none of them."""
        return None if self._server.secure else self._proxy

    def take(self) -> Connection | None:
        """An idle connection that can be used, or None."""
        while self._idle:
            connection, since = self._idle.popitem()
            if self._loop.time() - since > IDLE_SECONDS:
                connection.drop()
            elif connection.usable:
                return connection
        return None

    async def connect(self, until: float) -> Connection:
        """A new connection. Raises ConnectionFailed, or TimeoutError at the time ``until``; then nothing is open."""
        connection = Connection(self._loop, self._put_back, self._forget)
        self._all.add(connection)
        try:
            async with asyncio.timeout_at(until):
                await open_connection(connection, self._server, self._proxy, self._tls)
            if self._closed is not None or not connection.usable:
                raise ConnectionFailed("The connection was closed before it was used")
        except BaseException as error:
            connection.drop()
            # uvloop does not say that a connection is lost while its making is cancelled
            self._forget(connection)
            if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                raise ConnectionFailed("No connection to the upstream") from error
            raise
        return connection

    def drop_idle(self) -> None:
        """Close the connections that wait for a call."""
        while self._idle:
            self._idle.popitem()[0].drop()

    async def aclose(self) -> None:
        """Close all connections, those in use too: their answers are cut."""
        if self._closed is None:
            self._closed = self._loop.create_future()
            for connection in list(self._all):
                connection.drop()
            if not self._all:
                self._closed.set_result(None)
        await asyncio.shield(self._closed)

    def _put_back(self, connection: Connection) -> None:
        now = self._loop.time()
        self._idle[connection] = now
        while len(self._idle) > MOST_IDLE or now - next(iter(self._idle.values())) > IDLE_SECONDS:
            self._idle.popitem(last=False)[0].drop()

    def _forget(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        self._all.discard(connection)
        if self._closed is not None and not self._all and not self._closed.done():
            self._closed.set_result(None)


class Connections:
    """The pools of all servers, by one rule for proxies and certificates, which the environment gives.

    ``tls`` replaces the certificates of the environment.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._tls = tls
        self._proxies: Proxies | None = None
        self._pools: dict[Origin, Pool] = {}
        self._clients: Counter[Origin] = Counter()
        self._closed = False

    def pool(self, server: Origin) -> Pool:
        """The pool of a server. Raises ConnectionFailed where its proxy cannot be used, or where all is closed."""
        pool = self._pools.get(server)
        if pool is None:
            if self._closed:
                raise ConnectionFailed("The connections are closed")
            self._proxies = self._proxies or Proxies(self._environment)
            pool = self._pools[server] = Pool(server, self._proxies.of(server), self._context)
        return pool

    def lease(self, server: Origin) -> Pool:
        """The pool of a server for one more client, which calls `release` at its end. Raises as `pool` does."""
        pool = self.pool(server)
        self._clients[server] += 1
        return pool

    def release(self, server: Origin) -> None:
        """One client less: with the last one, connections that wait for a call are closed."""
        self._clients[server] -= 1
        if self._clients[server] <= 0:
            del self._clients[server]
            self._pools[server].drop_idle()

    async def aclose(self) -> None:
        """Close the connections to all servers."""
        self._closed = True
        for pool in self._pools.values():
            await pool.aclose()

    def _context(self) -> ssl.SSLContext:
        self._tls = self._tls or client_context(self._environment)
        return self._tls


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

    async def get(self, url: str, until: float) -> Response:
        """Ask for what is there, and wait for the answer's head till the time ``until``.

        It may be asked for once more: where the server has closed an idle connection meanwhile, over a new one. Raises
        as `post`.
        """
        pool = self._pool = self._pool or self._connections.lease(self._origin)
        head = self._opening("GET", url, self._headers, pool) + b"\r\n"
        if (kept := pool.take()) is not None:
            response = kept.send(head, b"")
            with suppress(Cut):
                await response.begun(until)
                return response
        connection = await pool.connect(min(until, self._loop.time() + self._connect_seconds))
        response = connection.send(head, b"")
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
        proxy = pool.forward_proxy
        sent = dict(headers)
        if proxy is not None and proxy.authorization:
            sent["Proxy-Authorization"] = proxy.authorization
        return self._origin.opening(method, url, sent, absolute=proxy is not None)
