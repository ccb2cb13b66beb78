"""The answer of a generate route: a stream of deltas as JSON, as server-sent events, or as bare text."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response

from apps.api.src.http.cache_control import cache_headers, wishes_of
from apps.api.src.http.guard import guarded
from apps.api.src.http.shutdown import Shutdown
from apps.api.src.http.sse import EventStream, Framing, PlainText
from apps.api.src.http.streaming import StreamedResponse, raw
from apps.api.src.observability.request_line import note_messages
from apps.core.citations import citations_json
from apps.core.deltas import CacheNote, Delta, collect
from apps.core.errors import UpstreamError
from apps.core.messages import ChatRequest
from apps.core.ports import ChatModel

UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


async def answer(request: Request, model: ChatModel, chat: ChatRequest, *, stream: bool) -> Response:
    """Ask the model; the answer is collected into JSON, or streamed in the framing that Accept asks for."""
    shutdown: Shutdown = request.app.state.shutdown
    note_messages(request, chat.messages)
    if request.app.state.v1_cache is not None:
        chat = replace(chat, cache=wishes_of(request))
    deltas = model.stream(replace(chat, streamed=stream))
    if stream:
        return _streamed(deltas, framing_for(request.headers.get("accept", "")), shutdown)
    async with aclosing(deltas):
        whole = await guarded(collect(deltas), request.receive, shutdown)
    body: dict[str, Any] = {"response": whole.text}
    if whole.citations is not None:
        body["citations"] = citations_json(whole.citations)
    return JSONResponse(body, headers={**model_header(whole.model), **_cache(whole.cache)})


def framing_for(accept: str) -> Framing:
    """Server-sent events, unless the caller asks for plain text and not for them."""
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return PlainText() if "text/plain" in kinds and "text/event-stream" not in kinds else EventStream()


def model_header(model: str | None) -> dict[str, str]:
    """X-Model; what a header cannot hold becomes an underscore."""
    return {"X-Model": UNPRINTABLE.sub("_", model)} if model else {}


def _cache(note: CacheNote | None) -> dict[str, str]:
    return {} if note is None else cache_headers(note.use, note.age, note.score)


def _streamed(deltas: AsyncGenerator[Delta, None], framing: Framing, shutdown: Shutdown) -> StreamedResponse:
    headers: dict[str, str] = {}
    return StreamedResponse(
        _framed(deltas, framing, headers),
        media_type=framing.media_type,
        ping=framing.ping,
        error_frame=framing.error,
        headers=lambda: raw(headers),
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
            headers.update(_cache(delta.cache))
            if delta.citations is not None and (frame := framing.citations(delta.citations)):
                yield frame
            if delta.text:
                yield framing.delta(delta.text)
    if last.finish_reason is None:
        raise UpstreamError("The model's answer was cut off before its end")
    yield framing.done(last.finish_reason, last.model, last.usage)
