"""A server that sends exact bytes in exact packets, and hears what its client does: a script for each connection."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable

PACKET_SECONDS = 0.005


class Talk:
    """One connection, as its script sees it."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """The next request, whole. Raises IncompleteReadError where the client is gone."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        _, named, rest = head.lower().rpartition(b"content-length: ")
        return head + await self.reader.readexactly(int(rest.split(b"\r\n")[0]) if named else 0)

    async def send(self, *packets: bytes) -> None:
        for packet in packets:
            self._writer.write(packet)
            await self._writer.drain()
            await asyncio.sleep(PACKET_SECONDS)

    async def gone(self) -> None:
        """Wait until the client has closed."""
        while await self.reader.read(65_536):
            pass

    def reset(self) -> None:
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Script = Callable[[Talk], Awaitable[None]]


class RawServer:
    """``accepted`` counts connections, ``open`` those whose script still runs."""

    def __init__(self, script: Script) -> None:
        self.accepted = self.open = 0
        self.url = ""
        self._ended = asyncio.Event()
        self._script = script
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    async def listen(self, tls: ssl.SSLContext | None, host: str) -> None:
        self._server = await asyncio.start_server(self._accept, host, 0, ssl=tls)
        port = self._server.sockets[0].getsockname()[1]
        named = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if tls else 'http'}://{named}:{port}"

    async def until_nobody(self, seconds: float = 1.0, most: int = 0) -> None:
        """Wait till every script but ``most`` has ended, as it does when its client is gone."""
        async with asyncio.timeout(seconds):
            while self.open > most:
                self._ended.clear()
                await self._ended.wait()

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._talks):
            task.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        self.accepted += 1
        self.open += 1
        try:
            await self._script(Talk(self.accepted, reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away, as some tests want it to
        finally:
            self.open -= 1
            self._ended.set()
            self._talks.discard(task)
            writer.close()


async def raw_server(script: Script, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> RawServer:
    server = RawServer(script)
    await server.listen(tls, host)
    return server


def always(*packets: bytes) -> Script:
    """Every request of every connection is answered by these packets."""

    async def script(talk: Talk) -> None:
        while True:
            await talk.request()
            await talk.send(*packets)

    return script


def once(*packets: bytes) -> Script:
    """The same, and the connection is closed behind the first answer."""

    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.send(*packets)

    return script


def whole(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", b""]) + body


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
