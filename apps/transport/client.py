"""The client of one server: its idle connections, the newest first, and new ones where there is none."""

import asyncio
import functools
import ssl
from collections.abc import Mapping
from typing import Any

from apps.transport.connection import Connection, dial
from apps.transport.errors import ConnectionFailed
from apps.transport.origin import Origin, lines
from apps.transport.response import Response

IDLE_SECONDS = 15.0
MOST_IDLE = 256
MOST_HEADS = 64


class Client:
    """Used from one event loop, which runs when this is made. How many calls run at once is not its business.

    ``headers`` go with every call; ``connect`` seconds are for name, connection and TLS together. ``tls`` replaces the
    system's idea of whom to trust.
    """

    def __init__(
        self, base_url: str, headers: Mapping[str, str], connect: float, tls: ssl.SSLContext | None = None
    ) -> None:
        self._origin = Origin.of(base_url)
        self._headers = headers
        self._connect_seconds = connect
        self._loop = asyncio.get_running_loop()
        self._heads: dict[str, bytes] = {}
        # in the order in which they became idle
        self._idle: dict[Connection, float] = {}
        self._all: set[Connection] = set()
        self._closed: asyncio.Future[None] | None = None
        self._tls: dict[str, Any] = {}
        if self._origin.secure:
            self._tls = {"ssl": tls or _trusting_the_system(), "server_hostname": self._origin.host}

    @property
    def idle(self) -> int:
        """How many connections wait for a call."""
        return len(self._idle)

    async def post(self, url: str, body: bytes, until: float, more: Mapping[str, str] | None = None) -> Response:
        """Send it, and wait for the answer's head till the time ``until``; ``more`` are headers of this call alone.

        Raises HttpFailure or TimeoutError; then nothing is left open. ``url`` lies beneath the base address.
        """
        head = self._heads.get(url) or self._make_head(url)
        ending = b"%d\r\n\r\n" % len(body) if not more else b"%d\r\n%b\r\n" % (len(body), lines(more))
        connection = self._take() or await self._connect(until)
        response = connection.send(head + ending, body)
        await response.begun(until)
        return response

    async def aclose(self) -> None:
        """Close all connections, those in use too: their answers are cut."""
        if self._closed is None:
            self._closed = self._loop.create_future()
            for connection in list(self._all):
                connection.drop()
            if not self._all:
                self._closed.set_result(None)
        await asyncio.shield(self._closed)

    def _make_head(self, url: str) -> bytes:
        if len(self._heads) >= MOST_HEADS:
            self._heads.clear()
        head = self._heads[url] = self._origin.head(url, self._headers)
        return head

    def _take(self) -> Connection | None:
        while self._idle:
            connection, since = self._idle.popitem()
            if self._loop.time() - since > IDLE_SECONDS:
                connection.drop()
            elif connection.usable:
                return connection
        return None

    async def _connect(self, until: float) -> Connection:
        connection = Connection(self._loop, self._put_back, self._forget)
        until = min(until, self._loop.time() + self._connect_seconds)
        self._all.add(connection)
        try:
            async with asyncio.timeout_at(until):
                connected = await dial(self._origin.host, self._origin.port)
                # from here on it is the transport's, which closes it if this is cancelled
                await self._loop.create_connection(lambda: connection, sock=connected, **self._tls)
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

    def _put_back(self, connection: Connection) -> None:
        now = self._loop.time()
        self._idle[connection] = now
        while len(self._idle) > MOST_IDLE or now - next(iter(self._idle.values())) > IDLE_SECONDS:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            oldest.drop()

    def _forget(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        self._all.discard(connection)
        if self._closed is not None and not self._all and not self._closed.done():
            self._closed.set_result(None)


@functools.cache
def _trusting_the_system() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
