"""An answer: its status and headers once they are there, its body as it arrives; and its parser, over httptools.

The parser is strict, bounded, and takes one answer at a time. What is raised in a callback leaves ``feed`` as one of
``NOT_HTTP``, as whatever the parser itself finds does. Where a time runs out, it is the builtin TimeoutError.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser


class HttpFailure(Exception):
    """The base of them all. No message repeats what a server has sent."""


class BadRequest(HttpFailure):
    """An address or a header that cannot be sent."""


class ConnectionFailed(HttpFailure):
    """No connection came about: the name, the network, or the server's certificate."""


class Cut(HttpFailure):
    """The connection was lost, or its framing, before the answer was whole."""


class ProtocolError(HttpFailure):
    """What came instead of an answer's head is not HTTP/1.1, or more of it than an answer needs."""


class Source(Protocol):
    """The connection that an answer is read from."""

    loop: asyncio.AbstractEventLoop

    def take(self) -> bytes: ...

    def drop(self) -> None: ...

    def discard_rest(self, until: float) -> None: ...

    def watch(self, until: float) -> None: ...


class Response:
    """``status`` is 0 until the head is there. One reader at a time.

    It holds its connection until it is whole, cut or closed. Its receiver closes it, unless it was read to its end;
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
        try:
            while not self.status:
                if self._failure is not None:
                    raise self._failure
                await self._woken(until)
        except BaseException:
            self.close()
            raise

    async def chunk(self, silence: float, ends: float) -> bytes:
        """All that has arrived of the body; where that is nothing, the next bytes, and nothing at the end.

        Raises TimeoutError after ``silence`` seconds without a byte and at the time ``ends``; no clock runs where there
        is no wait. Raises Cut behind the last byte of a body that breaks off.
        """
        until = 0.0
        try:
            while (connection := self._connection) is not None:
                if data := connection.take():
                    return data
                until = until or min(self._loop.time() + silence, ends)
                await self._woken(until)
        except BaseException:
            self.close()
            raise
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
        """The rest is not wanted: the connection is closed at once, unless the answer was whole."""
        if self._connection is not None:
            self._connection.drop()

    def leave(self, seconds: float) -> None:
        """The rest is not wanted, but it is about to end: wait so long in the background, then close."""
        if self._connection is not None:
            self.unread = True
            self._connection.discard_rest(self._loop.time() + seconds)

    # what its connection calls

    @property
    def waits(self) -> bool:
        return self.unread or (self._waiter is not None and not self._waiter.done())

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def time_out(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())

    def end(self, rest: bytes, failure: HttpFailure | None) -> None:
        self._connection, self._rest, self._failure = None, rest, failure
        self.wake()

    def _woken(self, until: float) -> asyncio.Future[None]:
        """What is done when something has come; it fails at the time ``until``. Its connection is there."""
        waiter = self._waiter = self._loop.create_future()
        if self._connection is not None:
            self._connection.watch(until)
        return waiter


NOT_HTTP = (HttpParserError, HttpParserUpgrade)
HEAD_BYTES = 65_536
INTERIM_ANSWERS = 16


class AnswerParser:
    """The parser of one connection. The head goes into the answer that is expected, the body into ``parts``.

    ``whole``: it has ended, and ``reusable`` says whether its connection may serve again. ``until_eof``: its end is
    that of the connection.
    """

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        # the parser calls this without a frame of Python between
        self.on_body = self.parts.append
        self._parser = HttpResponseParser(self)
        self.feed: Callable[[bytes], None] = self._parser.feed_data
        self._response: Response | None = None
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = self._interim = 0
        self.whole = self.reusable = self.until_eof = False

    def expect(self, response: Response) -> None:
        self._response = response
        self._head_bytes = self._interim = 0
        self.whole = self.reusable = self.until_eof = False

    def on_message_begin(self) -> None:
        if self._response is None or self.whole:
            raise ProtocolError("An answer that nobody asked for")
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > HEAD_BYTES:
            raise ProtocolError("The headers are too long")
        name = name.lower()
        held = self._headers.get(name)
        self._headers[name] = value if held is None else held + b", " + value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._interim += 1
            if status < 100 or status == 101 or self._interim > INTERIM_ANSWERS:
                raise ProtocolError("An interim answer that nobody asked for")
            return
        coding = self._headers.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise ProtocolError("A transfer coding that nobody asked for")
        self.until_eof = coding is None and b"content-length" not in self._headers
        if self._response is not None:
            self._response.status, self._response.fields = status, self._headers
        # trailers are read into this, and dropped
        self._headers = {}

    def on_message_complete(self) -> None:
        if self._response is not None and self._response.status:
            self.whole = True
            self.reusable = self._parser.should_keep_alive()
