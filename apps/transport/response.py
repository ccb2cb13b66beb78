"""An answer: its status and headers once they are there, and its body as it arrives."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from apps.transport.errors import HttpFailure


class Source(Protocol):
    """The connection that an answer is read from."""

    loop: asyncio.AbstractEventLoop

    def take(self) -> bytes: ...

    def drop(self) -> None: ...

    def discard_rest(self, until: float) -> None: ...

    def watch(self, until: float) -> None: ...


class Response:
    """``status`` is 0 until the head is there. One reader at a time.

    It holds its connection until it is whole, cut or closed. Whoever gets it closes it, unless it was read to its end;
    a wait that is cancelled, or whose time runs out, closes it too.
    """

    __slots__ = ("_connection", "_failure", "_loop", "_rest", "_waiter", "fields", "status", "unread")

    def __init__(self, connection: Source) -> None:
        self._connection: Source | None = connection
        self._loop = connection.loop
        self._waiter: asyncio.Future[None] | None = None
        self._rest = b""
        self._failure: HttpFailure | None = None
        self.fields: dict[bytes, bytes] = {}
        self.status = 0
        self.unread = False

    def header(self, name: bytes) -> str | None:
        """A field's value; ``name`` is lower case. Fields of one name are one, with commas between."""
        value = self.fields.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def headers(self) -> Mapping[str, str]:
        """All of them, by lower-case names."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.fields.items()}

    async def begun(self, until: float) -> None:
        """Wait for the head. Raises TimeoutError, Cut or ProtocolError."""
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._wait(until)

    async def chunk(self, silence: float, ends: float) -> bytes:
        """All that has arrived of the body; where that is nothing, the next bytes, and nothing at the end.

        Raises TimeoutError after ``silence`` seconds without a byte and at the time ``ends``; no clock runs where there
        is no wait. Raises Cut behind the last byte of a body that breaks off.
        """
        until = 0.0
        while self._connection is not None:
            if data := self._connection.take():
                return data
            until = until or min(self._loop.time() + silence, ends)
            await self._wait(until)
        rest, self._rest = self._rest, b""
        if not rest and self._failure is not None:
            raise self._failure
        return rest

    async def read(self, silence: float, ends: float) -> bytes:
        """The rest of the body, whole."""
        if self._connection is None and self._failure is None:
            rest, self._rest = self._rest, b""
            return rest
        parts = []
        while data := await self.chunk(silence, ends):
            parts.append(data)
        return b"".join(parts)

    def close(self) -> None:
        """Nobody wants the rest: the connection is closed at once, unless the answer was whole."""
        if self._connection is not None:
            self._connection.drop()

    def leave(self, seconds: float) -> None:
        """Nobody wants the rest, but it is about to end: wait so long in the background, then close."""
        if self._connection is not None:
            self.unread = True
            self._connection.discard_rest(self._loop.time() + seconds)

    # what its connection calls

    @property
    def waits(self) -> bool:
        return self.unread or self._waiter is not None

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def time_out(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())

    def end(self, rest: bytes, failure: HttpFailure | None) -> None:
        self._connection, self._rest, self._failure = None, rest, failure
        self.wake()

    async def _wait(self, until: float) -> None:
        connection = self._connection
        if connection is None:
            return
        self._waiter = self._loop.create_future()
        try:
            connection.watch(until)
            await self._waiter
        except BaseException:
            self.close()
            raise
        finally:
            self._waiter = None
