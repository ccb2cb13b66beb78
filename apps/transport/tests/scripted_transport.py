"""A transport without a socket, for what a connection makes of bytes in every possible order of arrival."""

import asyncio

from apps.transport.connection import Connection
from apps.transport.response import HttpFailure, Response


class ScriptedTransport(asyncio.Transport):
    """Keeps what is written; ``unsent`` bytes of it have not left."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unsent = 0
        self.closed = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Exchange:
    """A connection on such a transport, with one request sent on it. ``idle`` counts how often it was given back."""

    def __init__(self) -> None:
        self.idle = 0
        self.transport = ScriptedTransport()
        self.connection = Connection(asyncio.get_running_loop(), self._count, lambda connection: None)
        self.connection.connection_made(self.transport)
        self.response = self.ask()

    def ask(self) -> Response:
        return self.connection.send(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n", b"{}")

    def feed(self, *packets: bytes) -> "Exchange":
        for packet in packets:
            if not self.transport.closed:
                self.connection.data_received(packet)
        return self

    def end(self, cause: Exception | None = None) -> "Exchange":
        """The other side closes, or is lost for a cause."""
        if cause is None and not self.transport.closed:
            self.connection.eof_received()
        self.connection.connection_lost(cause)
        return self

    async def outcome(self) -> tuple[int, bytes] | type[HttpFailure]:
        """Status and body, or what went wrong."""
        ends = asyncio.get_running_loop().time() + 1
        try:
            await self.response.begun(ends)
            return self.response.status, await self.response.read(1, ends)
        except HttpFailure as error:
            return type(error)

    def _count(self, connection: Connection) -> None:
        self.idle += 1
