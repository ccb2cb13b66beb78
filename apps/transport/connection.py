"""One connection: writes requests, has what comes back parsed, and trusts nothing behind an answer's end.

A connection carries one answer at a time. It is given back for the next call once the answer has ended as HTTP says and
no byte came with it or after it that belongs to no response; in every other case it is aborted.
"""

import asyncio
import math
import os
import threading
from collections.abc import AsyncIterable, Callable
from typing import cast

from apps.transport.response import HEAD_BYTES, NOT_HTTP, AnswerParser, Cut, HttpFailure, ProtocolError, Response

# a caller that reads nothing costs as much, and there may be hundreds
MOST_BUFFERED = 32_768
ONE_WRITE = 65_536
ONE_READ = 32_768
# a timer may come this much early: a millisecond is what uvloop counts in
EARLY = 0.002


class _Read(threading.local):
    """Where the loop of a thread reads into: what has come is copied before it reads again."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(ONE_READ))


_read = _Read()


class Connection(asyncio.BufferedProtocol):
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
        self._parser = AnswerParser()
        self._parts = self._parser.parts
        # Windows reads for many connections at the same time
        self._own_buffer = memoryview(bytearray(ONE_READ)) if os.name == "nt" else None
        self._paused = self._uploading = False
        self._drained: asyncio.Future[None] | None = None
        self._silent_bytes = self._buffered = 0
        self._timer: asyncio.TimerHandle | None = None
        # when the timer is due: uvloop's handles do not all know
        self._due = self._deadline = 0.0

    @property
    def usable(self) -> bool:
        return self._response is None and self._transport is not None and not self._transport.is_closing()

    @property
    def unsent(self) -> int:
        """Bytes of the request that have not left for the network."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    async def sent(self, response: Response, stall: float) -> None:
        """Wait until the request has left, or its answer has begun.

        Raises TimeoutError where nothing leaves for ``stall`` seconds; the connection is closed then.
        """
        try:
            while (left := self.unsent) and not response.status and self._response is response:
                self._drained = self.loop.create_future()
                await asyncio.wait({self._drained}, timeout=None if stall == math.inf else stall)
                if not self._drained.done() and self.unsent >= left:
                    raise TimeoutError
        except BaseException:
            self.drop()
            raise
        finally:
            self._drained = None

    def send(self, head: bytes, body: bytes) -> Response:
        """Write a request; its answer has not begun. Nothing waits for the write here: see `sent`."""
        response = self._response = Response(self)
        self._parser.expect(response)
        self._silent_bytes = self._buffered = 0
        transport = cast(asyncio.Transport, self._transport)
        if len(body) > ONE_WRITE:
            transport.write(head)
            transport.write(body)
        else:
            transport.write(head + body)
        return response

    async def upload(self, response: Response, pieces: AsyncIterable[bytes], stall: float, *, chunked: bool) -> None:
        """Write a request's body as it comes, in chunks where its length is not announced.

        Ends early where the answer has begun, and then the connection is not used again. Raises TimeoutError where
        nothing leaves for ``stall`` seconds, and what ``pieces`` raise; the connection is closed then.
        """
        self._uploading = True
        try:
            async for piece in pieces:
                if self._response is not response or response.status:
                    return
                if piece:
                    cast(asyncio.Transport, self._transport).write(
                        b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
                    )
                if self.unsent > ONE_WRITE:
                    await self.sent(response, stall)
            if self._response is not response or response.status:
                return
            if chunked:
                cast(asyncio.Transport, self._transport).write(b"0\r\n\r\n")
            self._uploading = False
            await self.sent(response, stall)
        except BaseException:
            self.drop()
            raise

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
            if self._due <= until:
                return
            self._timer.cancel()
        self._timer, self._due = self.loop.call_at(until, self._tick), until

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

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:
        """As much as is read at once; a loop by itself would read and keep eight times that for a slow caller."""
        return _read.buffer if self._own_buffer is None else self._own_buffer

    def buffer_updated(self, nbytes: int) -> None:
        buffer = _read.buffer if self._own_buffer is None else self._own_buffer
        self.data_received(bytes(buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        if self._drained is not None:
            self.resume_writing()
        response = self._response
        if response is None:
            return self.drop()
        before = len(self._parts)
        try:
            self._parser.feed(data)
        except NOT_HTTP as error:
            return self._broken(response, error)
        if self._parser.whole:
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
        self.resume_writing()

    # how it ends

    def _ended(self, cause: Exception | None) -> None:
        """The other side has no more to say."""
        response = self._response
        if response is None:
            self.drop()
        elif response.status and self._parser.until_eof and cause is None:
            self._parser.reusable = False
            self._finish(None)
        else:
            failure = Cut("The connection was lost before the answer was whole")
            failure.__cause__ = cause
            self._finish(failure)

    def _broken(self, response: Response, cause: Exception | None) -> None:
        self._parser.reusable = False
        if self._parser.whole:  # what is wrong stands behind it
            return self._finish(None)
        kind = Cut if response.status else ProtocolError
        failure = kind("The answer is not HTTP/1.1")
        failure.__cause__ = cause
        return self._finish(failure)

    def _finish(self, failure: HttpFailure | None) -> None:
        response, self._response = cast(Response, self._response), None
        transport = cast(asyncio.Transport, self._transport)
        response.end(self.take(), failure)
        sound = failure is None and self._parser.reusable and not transport.is_closing()
        # a server that answered before it had the whole request would take the rest of that for the next one
        if sound and not self._uploading and not transport.get_write_buffer_size():
            self._idle(self)
        else:
            transport.abort()

    # backpressure and time

    def _hold(self, received: int, response: Response) -> None:
        if response.unread:
            self._parts.clear()
            return
        self._buffered += received
        if self._buffered >= MOST_BUFFERED and not self._paused:
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
            self._timer, self._due = self.loop.call_at(self._deadline, self._tick), self._deadline
        elif response.unread:
            self.drop()
        else:
            response.time_out()
