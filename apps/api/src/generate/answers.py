"""The answer of a generate route: a stream of deltas as JSON, as server-sent events, or as bare text."""

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response

from apps.api.src.http.headers import cache_control, cache_headers, cache_use
from apps.api.src.http.shutdown import Shutdown, guarded
from apps.api.src.http.streaming import EventStream, Framing, PlainText, StreamedResponse, raw
from apps.api.src.observability.request_line import note_messages
from apps.cache.front import CachedModel
from apps.core.deltas import Delta, citations_json, collect
from apps.core.errors import UpstreamError
from apps.core.messages import ChatRequest
from apps.models.metering import MeteredModel

UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


async def answer(request: Request, model: MeteredModel | CachedModel, chat: ChatRequest, *, stream: bool) -> Response:
    """Ask the model; the answer is collected into JSON, or streamed in the framing that Accept asks for."""
    shutdown: Shutdown = request.app.state.shutdown
    note_messages(request, chat.messages)
    chat = replace(chat, streamed=stream)
    record = model.new_record(chat)
    control = cache_control(request) if request.app.state.services.front is not None else chat.cache
    deltas = model.stream(replace(chat, cache=control, record=record))

    def late() -> dict[str, str]:
        cached = isinstance(model, CachedModel)
        return cache_headers(cache_use(record), record.age, record.score) if cached else {}

    if stream:
        return _streamed(deltas, framing_for(request.headers.get("accept", "")), shutdown, late)
    async with aclosing(deltas):
        whole = await guarded(collect(deltas), request.receive, shutdown)
    body: dict[str, Any] = {"response": whole.text}
    if whole.citations is not None:
        body["citations"] = citations_json(whole.citations)
    return JSONResponse(body, headers={**model_header(whole.model), **late()})


def framing_for(accept: str) -> Framing:
    """Server-sent events, unless the caller asks for plain text and not for them."""
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return PlainText() if "text/plain" in kinds and "text/event-stream" not in kinds else EventStream()


def model_header(model: str | None) -> dict[str, str]:
    """X-Model; what a header cannot hold becomes an underscore."""
    return {"X-Model": UNPRINTABLE.sub("_", model)} if model else {}


def _streamed(
    deltas: AsyncGenerator[Delta, None], framing: Framing, shutdown: Shutdown, late: Callable[[], dict[str, str]]
) -> StreamedResponse:
    """``late`` are headers that are known when the first frame is there."""
    headers: dict[str, str] = {}
    return StreamedResponse(
        _framed(deltas, framing, headers),
        media_type=framing.media_type,
        ping=framing.ping,
        error_frame=framing.error,
        headers=lambda: raw({**headers, **late()}),
        shutdown=shutdown,
    )


async def _framed(
    deltas: AsyncGenerator[Delta, None], framing: Framing, headers: dict[str, str]
) -> AsyncGenerator[bytes, None]:
    """A frame a delta that has text, then the terminal one; ``headers`` learns the model from the first delta."""
    last = Delta()
    async with aclosing(deltas):
        async for delta in deltas:
            last = Delta(
                finish_reason=delta.finish_reason or last.finish_reason,
                usage=delta.usage or last.usage,
                model=delta.model or last.model,
            )
            headers.update(model_header(last.model))
            if delta.citations is not None and (frame := framing.citations(delta.citations)):
                yield frame
            if delta.text:
                yield framing.delta(delta.text)
    if last.finish_reason is None:
        raise UpstreamError("The model's answer was cut off before its end")
    yield framing.done(last.finish_reason, last.model, last.usage)
