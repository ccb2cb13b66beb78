"""What goes back on /v1: bytes of a whole answer or of a stream, with a receipt among the headers."""

import json
from collections.abc import AsyncGenerator
from functools import lru_cache

from fastapi import Request
from starlette.responses import Response

from apps.api.src.exceptions import envelope
from apps.api.src.generate.answers import model_header
from apps.api.src.http.headers import age_headers, cache_use
from apps.api.src.http.shutdown import guarded
from apps.api.src.http.streaming import EventStream, RawHeaders, StreamedResponse, raw
from apps.api.src.v1.execution import WholeFrame
from apps.core.calls import CacheUse, CallRecord
from apps.core.errors import AppError


class WholeResponse(Response):
    """A whole answer: the bytes as they came, and the receipt of ``record`` among the headers."""

    def __init__(self, content_type: str, body: bytes, record: CallRecord, cache: CacheUse | None = None) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", content_type.encode("latin-1")),
            *receipt_headers(record, cache),
        ]


def receipt_headers(record: CallRecord, cache: CacheUse | None = None) -> RawHeaders:
    """What is known when the headers go out; ``cache`` where it is not what the record says."""
    headers = [
        *_model_header(record.model),
        (b"x-provider", record.provider.encode("latin-1")),
        (b"x-attempts", b"%d" % record.attempts),
        (b"x-cache", (cache or cache_use(record)).encode()),
        (b"x-queue-ms", b"%.1f" % (record.queued * 1000)),
    ]
    if record.age is not None:
        headers += raw(age_headers(record.age, record.score))
    if record.latency is not None:
        headers.append((b"x-first-token-ms", b"%.1f" % (record.latency * 1000)))
    usage = record.usage
    if usage is not None:
        headers.append((b"x-prompt-tokens", b"%d" % usage.prompt_tokens))
        headers.append((b"x-completion-tokens", b"%d" % usage.completion_tokens))
    cost = record.cost
    if cost is not None:
        headers.append((b"x-cost-usd", b"%.8f" % cost))
    return headers


@lru_cache(maxsize=1024)
def _model_header(model: str) -> RawHeaders:
    return raw(model_header(model))


def streamed_reply(
    request: Request, frames: AsyncGenerator[bytes, None], record: CallRecord, cache: CacheUse | None = None
) -> StreamedResponse:
    """A stream of frames, with what the record says when the first one is there among the headers."""
    path: str = request.scope["path"]
    error_frame = ERROR_FRAMES.get(path.removeprefix("/v1"), _error_frame)
    return StreamedResponse(
        frames,
        media_type="text/event-stream",
        ping=EventStream.ping,
        error_frame=lambda error: error_frame(error, path),
        headers=lambda: receipt_headers(record, cache),
        shutdown=request.app.state.shutdown,
    )


async def whole_reply(
    request: Request, frames: AsyncGenerator[bytes, None], record: CallRecord, cache: CacheUse | None = None
) -> WholeResponse:
    """A whole answer, which is the only frame."""
    try:
        frame = await guarded(anext(frames), request.receive, request.app.state.shutdown)
    finally:
        await frames.aclose()
    return whole_response(frame, record, cache)


def whole_response(frame: bytes, record: CallRecord, cache: CacheUse | None = None) -> WholeResponse:
    if not isinstance(frame, WholeFrame):
        raise TypeError("a whole answer is one frame")
    return WholeResponse(frame.content_type, frame, record, cache)


def _error_frame(error: AppError, path: str) -> bytes:
    return b"data: " + json.dumps(envelope(error, path), ensure_ascii=False).encode() + b"\n\n"


def _response_error_frame(error: AppError, path: str) -> bytes:
    """OpenAI's error event of a response stream, with the envelope in it: its clients raise APIError."""
    body = envelope(error, path)
    fields = {name: body["error"][name] for name in ("code", "message", "param")}
    return (
        b"event: error\ndata: " + json.dumps({"type": "error", **fields, **body}, ensure_ascii=False).encode() + b"\n\n"
    )


def _message_error_frame(error: AppError, path: str) -> bytes:
    return b"event: error\ndata: " + json.dumps(envelope(error, path), ensure_ascii=False).encode() + b"\n\n"


ERROR_FRAMES = {"/responses": _response_error_frame, "/messages": _message_error_frame}
