"""A streamed response, and the framing of its deltas as bytes: the last step of an answer.

Server-sent events follow the HTML standard (9.2.6). A line of data cannot hold a carriage return there, so a
delta that has one goes out as ``event: delta`` with the JSON ``{"text": ...}``; every other delta is plain text.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from apps.api.src.http.shutdown import ClientGone, Shutdown, guarded
from apps.core.calls import Usage
from apps.core.deltas import Citation, Forwarded, citations_json
from apps.core.errors import AppError, InternalError, forget_tracebacks
from apps.models.event_stream import json_event

PING_AFTER = 15.0

RawHeaders = list[tuple[bytes, bytes]]

UNBUFFERED = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))

log = logging.getLogger(__name__)


def raw(headers: Mapping[str, str]) -> RawHeaders:
    """Headers in the form that a response keeps them in."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


class LastFrame(bytes):
    """A frame that is known to be the last one: the end of the body goes out with it, not behind it."""


class StreamedResponse(Response):
    """Sends its status once the first frame is there: what fails before that is raised, and has its own status.

    What fails later goes through ``error_frame``; where that is empty the connection is cut. Whatever happens, the
    generator of frames is closed before the response is over. ``headers`` is asked when the first frame is there.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        ping: bytes,
        error_frame: Callable[[AppError], bytes],
        headers: Callable[[], RawHeaders],
        shutdown: Shutdown,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.media_type = media_type
        whole_type = media_type if "charset=" in media_type else f"{media_type}; charset=utf-8"
        self.raw_headers = [(b"content-type", whole_type.encode()), *UNBUFFERED]
        self._frames = frames
        self._ping = ping
        self._error_frame = error_frame
        self._late_headers = headers
        self._refused: Callable[[AppError], None] | None = None
        self._shutdown = shutdown
        self._started = False
        self._sending = False
        self._active_at = 0.0
        self._stalled_after = 0.0

    def become(
        self,
        media_type: str,
        translate: Callable[[AsyncGenerator[bytes, None]], AsyncGenerator[bytes, None]],
        error_frame: Callable[[AppError], bytes],
        ping: bytes = b"",
    ) -> None:
        """Send the frames as another API's, before any of them has been sent."""
        self.media_type = media_type
        self.raw_headers = [(b"content-type", media_type.encode()), *UNBUFFERED]
        self._frames, self._error_frame, self._ping = translate(self._frames), error_frame, ping

    def when_refused(self, tell: Callable[[AppError], None]) -> None:
        """Have ``tell`` called with an error that comes before the first frame: it takes the place of this response."""
        self._refused = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        self._stalled_after = scope["app"].state.settings.stalled_after
        try:
            await guarded(self._stream(), receive, self._shutdown, self._tick)
        except ClientGone:
            if not self._started:
                raise
        except Exception as error:
            if not self._started:
                if self._refused is not None and isinstance(error, AppError):
                    self._refused(error)
                raise
            await self._end_with(_as_app_error(error, tracebacks=scope["app"].state.settings.debug))
            forget_tracebacks(error)

    async def _stream(self) -> None:
        frames, last = self._frames, LastFrame()
        send, time = self._send, asyncio.get_running_loop().time
        async with Forwarded(frames):
            async for frame in frames:
                if not self._started:
                    self.raw_headers += self._late_headers()
                    await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                    self._active_at, self._started = time(), True
                if isinstance(frame, LastFrame):
                    last = frame
                    break
                self._active_at, self._sending = time(), True
                await send({"type": "http.response.body", "body": frame, "more_body": True})
                # silence begins when the client has taken what was sent
                self._active_at, self._sending = time(), False
        if not self._started:
            raise RuntimeError("a stream has a first frame")
        # the generator is closed, and what it held is free, before the client may know that the answer is whole
        await self._write_last(last)

    async def _write_last(self, frame: bytes) -> None:
        self._active_at, self._sending = asyncio.get_running_loop().time(), True
        await self._send({"type": "http.response.body", "body": frame, "more_body": False})

    async def _tick(self) -> None:
        """Keep a silent stream alive; give up on a client that has stopped reading, under whatever server."""
        if not self._started:
            return
        time = asyncio.get_running_loop().time
        silence = time() - self._active_at
        if self._sending and silence > self._stalled_after:
            raise ClientGone
        if not self._sending and silence > PING_AFTER and self._ping:
            try:
                async with asyncio.timeout(self._stalled_after):
                    await self._send({"type": "http.response.body", "body": self._ping, "more_body": True})
            except TimeoutError:
                raise ClientGone from None
            if not self._sending:
                self._active_at = time()

    async def _end_with(self, error: AppError) -> None:
        frame = self._error_frame(error)
        if frame:
            await self._write_last(frame)
        # else: returning without the end of the body makes the server cut the connection


def _as_app_error(error: Exception, *, tracebacks: bool) -> AppError:
    if isinstance(error, AppError):
        return error
    log.error("Crash in a stream: %s", type(error).__name__, exc_info=error if tracebacks else None)
    return InternalError("Internal server error")


class Framing(Protocol):
    """``ping``, ``citations`` and ``error`` may be empty: nothing is sent then.

    An error ends the connection unfinished where there is no frame for it.
    """

    media_type: str
    ping: bytes

    def citations(self, citations: Sequence[Citation]) -> bytes: ...

    def delta(self, text: str) -> bytes: ...

    def done(self, finish_reason: str, model: str | None, usage: Usage | None) -> bytes: ...

    def error(self, error: AppError) -> bytes: ...


class EventStream:
    """``text/event-stream``: an event a delta, then exactly one of ``done`` and ``error``."""

    media_type = "text/event-stream"
    ping = b": ping\n\n"

    def citations(self, citations: Sequence[Citation]) -> bytes:
        return json_event(citations_json(citations), "citations")

    def delta(self, text: str) -> bytes:
        if "\r" in text:
            return json_event({"text": text}, "delta")
        return b"data: " + text.replace("\n", "\ndata: ").encode() + b"\n\n"

    def done(self, finish_reason: str, model: str | None, usage: Usage | None) -> bytes:
        return json_event({"finish_reason": finish_reason, "model": model, "usage": usage_json(usage)}, "done")

    def error(self, error: AppError) -> bytes:
        return json_event(error.envelope(), "error")


class PlainText:
    """``text/plain``: the bare text; there is no room in it for pings or errors."""

    media_type = "text/plain; charset=utf-8"
    ping = b""

    def citations(self, citations: Sequence[Citation]) -> bytes:
        return b""

    def delta(self, text: str) -> bytes:
        return text.encode()

    def done(self, finish_reason: str, model: str | None, usage: Usage | None) -> bytes:
        return b""

    def error(self, error: AppError) -> bytes:
        return b""


def usage_json(usage: Usage | None) -> dict[str, int] | None:
    """The usage in OpenAI's words; None where the model does not count."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
    }
