"""Answers on the wire: a stream of deltas as JSON, as server-sent events, or as bare text."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from apps.api.src.guard import ClientGone, guarded
from apps.api.src.shutdown import Shutdown
from apps.api.src.sse import EventStream, Framing, PlainText
from apps.core.deltas import Delta, collect
from apps.core.errors import AppError, InternalError, UpstreamError
from apps.core.messages import ChatRequest
from apps.core.ports import ChatModel

PING_AFTER = 15.0
STALLED_AFTER = 60.0

log = logging.getLogger(__name__)


async def answer(request: Request, model: ChatModel, chat: ChatRequest, *, stream: bool) -> Response:
    """Ask the model; the answer is collected into JSON, or streamed in the framing that Accept asks for."""
    shutdown: Shutdown = request.app.state.shutdown
    deltas = model.stream(chat)
    if stream:
        framing = framing_for(request.headers.get("accept", ""))
        return StreamedAnswer(deltas, framing, shutdown, tracebacks=request.app.state.settings.debug)
    async with aclosing(deltas):
        whole = await guarded(collect(deltas), request.receive, shutdown)
    return JSONResponse({"response": whole.text}, headers=_model_header(whole.model))


def framing_for(accept: str) -> Framing:
    """Server-sent events, unless the caller asks for plain text and not for them."""
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return PlainText() if "text/plain" in kinds and "text/event-stream" not in kinds else EventStream()


class StreamedAnswer(Response):
    """Sends its status once the first delta is there: what fails before that is raised, and has its own status.

    What fails later ends the stream with an error event (or, as bare text, cuts the connection). Whatever happens,
    the generator is closed before the response is over.
    """

    def __init__(
        self, deltas: AsyncGenerator[Delta, None], framing: Framing, shutdown: Shutdown, tracebacks: bool = False
    ) -> None:
        self.status_code = 200
        self.background = None
        self.media_type = framing.media_type
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._deltas = deltas
        self._framing = framing
        self._shutdown = shutdown
        self._tracebacks = tracebacks
        self._started = False
        self._sending = False
        self._ended = False
        self._active_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        try:
            await guarded(self._stream(), receive, self._shutdown, self._tick)
        except ClientGone:
            if not self._started:
                raise
        except Exception as error:
            if not self._started:
                raise
            await self._end_with(self._as_app_error(error))

    async def _stream(self) -> None:
        async with aclosing(self._deltas) as deltas:
            first = await anext(deltas, None)
            if first is None:
                raise UpstreamError("The model's answer was cut off before its end")
            await self._start(first)
            finish, model, usage = first.finish_reason, first.model, first.usage
            await self._write(first.text)
            async for delta in deltas:
                await self._write(delta.text)
                finish = delta.finish_reason or finish
                model, usage = delta.model or model, delta.usage or usage
        if finish is None:
            raise UpstreamError("The model's answer was cut off before its end")
        await self._body(self._framing.done(finish, model, usage), more=False)

    async def _start(self, first: Delta) -> None:
        self.headers.update(_model_header(first.model))
        await self._send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        self._started = True

    async def _write(self, text: str) -> None:
        if text:
            await self._body(self._framing.delta(text))

    async def _body(self, data: bytes, *, more: bool = True) -> None:
        self._sending = True
        self._ended = not more
        self._active_at = asyncio.get_running_loop().time()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self._sending = False

    async def _tick(self) -> None:
        """Keep a silent stream alive; give up on a client that has stopped reading."""
        if not self._started or self._ended:
            return
        silence = asyncio.get_running_loop().time() - self._active_at
        if self._sending and silence > STALLED_AFTER:
            raise ClientGone
        if not self._sending and silence > PING_AFTER and self._framing.ping:
            await self._body(self._framing.ping)

    async def _end_with(self, error: AppError) -> None:
        frame = self._framing.error(error)
        if frame:
            await self._body(frame, more=False)
        # else: returning without the end of the body makes the server cut the connection

    def _as_app_error(self, error: Exception) -> AppError:
        if isinstance(error, AppError):
            return error
        log.error("Crash in a stream: %s", type(error).__name__, exc_info=error if self._tracebacks else None)
        return InternalError("Internal server error")


def _model_header(model: str | None) -> dict[str, str]:
    return {"X-Model": re.sub(r"[^\x21-\x7e]", "_", model)} if model else {}
