"""What goes back on /v1: bytes of a whole answer or of a stream, with a receipt among the headers."""

import json
from collections.abc import AsyncGenerator, Callable
from functools import lru_cache

from fastapi import Request
from starlette.responses import Response

from apps.api.src.exceptions import envelope
from apps.api.src.generate.answers import model_header
from apps.api.src.http.cache_control import age_headers
from apps.api.src.http.sse import EventStream
from apps.api.src.http.streaming import RawHeaders, StreamedResponse, raw
from apps.core.errors import AppError
from apps.gateway.protocol import Receipt


class WholeResponse(Response):
    """A whole answer: the bytes as they came, and a receipt among the headers."""

    def __init__(self, content_type: str, body: bytes, receipt: Receipt) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", content_type.encode("latin-1")),
            *receipt_headers(receipt),
        ]


def receipt_headers(receipt: Receipt) -> RawHeaders:
    """What is known when the headers go out."""
    headers = [
        *_model_header(receipt.model),
        (b"x-provider", receipt.provider.encode("latin-1")),
        (b"x-attempts", b"%d" % receipt.attempts),
        (b"x-cache", receipt.cache.encode()),
        (b"x-queue-ms", b"%.1f" % (receipt.queued * 1000)),
    ]
    if receipt.age is not None:
        headers += raw(age_headers(receipt.age, receipt.score))
    if receipt.first_token is not None:
        headers.append((b"x-first-token-ms", b"%.1f" % (receipt.first_token * 1000)))
    if receipt.prompt_tokens is not None:
        headers.append((b"x-prompt-tokens", b"%d" % receipt.prompt_tokens))
        headers.append((b"x-completion-tokens", b"%d" % (receipt.completion_tokens or 0)))
    if receipt.cost is not None:
        headers.append((b"x-cost-usd", b"%.8f" % receipt.cost))
    return headers


@lru_cache(maxsize=1024)
def _model_header(model: str) -> RawHeaders:
    return raw(model_header(model))


def streamed_reply(
    request: Request, frames: AsyncGenerator[bytes, None], receipt: Callable[[], Receipt]
) -> StreamedResponse:
    path: str = request.scope["path"]
    error_frame = _response_error_frame if path.endswith("/responses") else _error_frame
    return StreamedResponse(
        frames,
        media_type="text/event-stream",
        ping=EventStream.ping,
        error_frame=lambda error: error_frame(error, path),
        headers=lambda: receipt_headers(receipt()),
        shutdown=request.app.state.shutdown,
    )


async def joined(frames: AsyncGenerator[bytes, None]) -> bytes:
    """The body of a whole answer, whose frames they are."""
    return b"".join([frame async for frame in frames])


def _error_frame(error: AppError, path: str) -> bytes:
    return b"data: " + json.dumps(envelope(error, path), ensure_ascii=False).encode() + b"\n\n"


def _response_error_frame(error: AppError, path: str) -> bytes:
    """OpenAI's error event of a response stream, with the envelope in it: its clients raise APIError."""
    body = envelope(error, path)
    fields = {name: body["error"][name] for name in ("code", "message", "param")}
    return (
        b"event: error\ndata: " + json.dumps({"type": "error", **fields, **body}, ensure_ascii=False).encode() + b"\n\n"
    )
