"""One connection: writes requests, parses what comes back with httptools, and trusts nothing behind an answer's end.

A connection carries one answer at a time. It is given back for the next call once the answer has ended as HTTP says and
no byte came with it or after it that nobody asked for; in every other case it is aborted.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from apps.models.http1.errors import Cut, HttpFailure, ProtocolError
from apps.models.http1.response import Response

HEAD_BYTES = 65_536
INTERIM_ANSWERS = 16
MOST_BUFFERED = 262_144
ONE_WRITE = 65_536
# a timer may come this much early: a millisecond is what uvloop counts in
EARLY = 0.002


class Connection(asyncio.Protocol):
    """``idle`` is called when the next call may use it, ``gone`` when it is lost."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        idle: Callable[["Connection"], None],
        gone: Callable[["Connection"], None],
    ) -> None:
        self.loop = loop
        self._idle, self._gone = idle, gone
        self._transport: asyncio.Transport | None = None
        self._response: Response | None = None
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        # the parser calls this without a frame of Python between
        self.on_body = self._parts.append
        self._parser = HttpResponseParser(self)
        self._whole = self._reusable = self._until_eof = self._paused = False
        self._head_bytes = self._silent_bytes = self._buffered = self._interim = 0
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0

    @property
    def usable(self) -> bool:
        return self._response is None and self._transport is not None and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes) -> Response:
        """Write a request; its answer has not begun. Nothing waits for the write: the body is in memory already."""
        response = self._response = Response(self)
        self._whole = self._until_eof = False
        self._head_bytes = self._silent_bytes = self._buffered = self._interim = 0
        transport = cast(asyncio.Transport, self._transport)
        if len(body) > ONE_WRITE:
            transport.write(head)
            transport.write(body)
        else:
            transport.write(head + body)
        return response

    def take(self) -> bytes:
        """What has come of the body since the last time."""
        data = b"".join(self._parts)
        self._parts.clear()
        self._buffered = 0
        if self._paused:
            self._resume()
        return data

    def watch(self, until: float) -> None:
        """Have the answer's waiter fail at that time. One timer serves many waits: it looks again when it is due."""
        self._deadline = until
        if self._timer is not None:
            if self._timer.when() <= until:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(until, self._tick)

    def drop(self) -> None:
        """Close at once, whatever is under way; an answer that is not whole is cut."""
        response, self._response = self._response, None
        self._parts.clear()
        if self._transport is not None:
            self._transport.abort()
        if response is not None:
            response.end(b"", Cut("The connection was closed here"))

    def discard_rest(self, until: float) -> None:
        """Let the rest of the answer come, unread, so that the next call can use the connection."""
        self.take()
        self.watch(until)

    # what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            return self.drop()
        before = len(self._parts)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            return self._broken(response, error)
        if self._whole:
            return self._finish(None)
        if len(self._parts) > before:
            self._silent_bytes = 0
            self._hold(len(data), response)
        else:
            self._silent_bytes += len(data)
            if self._silent_bytes > HEAD_BYTES:
                return self._broken(response, None)
        return response.wake()

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._gone(self)
        self._ended(exc)

    # what the parser calls; what is raised here arrives as an error of its own

    def on_message_begin(self) -> None:
        if self._whole:
            raise ProtocolError("Another answer behind the one that was asked for")
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
        self._until_eof = coding is None and b"content-length" not in self._headers
        response = cast(Response, self._response)
        response.status, response.fields = status, self._headers
        # trailers are read into this, and dropped
        self._headers = {}

    def on_message_complete(self) -> None:
        if cast(Response, self._response).status:
            self._whole = True
            self._reusable = self._parser.should_keep_alive()

    # how it ends

    def _ended(self, cause: Exception | None) -> None:
        """The other side has no more to say."""
        response = self._response
        if response is None:
            self.drop()
        elif response.status and self._until_eof and cause is None:
            self._reusable = False
            self._finish(None)
        else:
            failure = Cut("The connection was lost before the answer was whole")
            failure.__cause__ = cause
            self._finish(failure)

    def _broken(self, response: Response, cause: Exception | None) -> None:
        self._reusable = False
        if self._whole:  # what is wrong stands behind it
            return self._finish(None)
        kind = Cut if response.status else ProtocolError
        failure = kind("The answer is not HTTP/1.1")
        failure.__cause__ = cause
        return self._finish(failure)

    def _finish(self, failure: HttpFailure | None) -> None:
        response, self._response = cast(Response, self._response), None
        transport = cast(asyncio.Transport, self._transport)
        response.end(self.take(), failure)
        # a server that answered before it had the whole request would take the rest of that for the next one
        if failure is None and self._reusable and not transport.is_closing() and not transport.get_write_buffer_size():
            self._idle(self)
        else:
            transport.abort()

    # backpressure and time

    def _hold(self, received: int, response: Response) -> None:
        if response.unread:
            self._parts.clear()
            return
        self._buffered += received
        if self._buffered > MOST_BUFFERED and not self._paused:
            self._paused = True
            cast(asyncio.Transport, self._transport).pause_reading()

    def _resume(self) -> None:
        self._paused = False
        transport = cast(asyncio.Transport, self._transport)
        if not transport.is_closing():
            transport.resume_reading()

    def _tick(self) -> None:
        self._timer = None
        response = self._response
        if response is None or not response.waits:
            return
        if self._deadline - self.loop.time() > EARLY:
            self._timer = self.loop.call_at(self._deadline, self._tick)
        elif response.unread:
            self.drop()
        else:
            response.time_out()
