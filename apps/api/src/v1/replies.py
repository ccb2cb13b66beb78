"""What goes back on /v1: bytes of a whole answer or of a stream, with a receipt among the headers."""

import json
from collections.abc import AsyncGenerator, Callable, Iterable

from fastapi import Request
from starlette.responses import Response

from apps.api.src.answers import model_header
from apps.api.src.cache_headers import cache_headers
from apps.api.src.exceptions import envelope
from apps.api.src.sse import EventStream
from apps.api.src.streamed import StreamedResponse
from apps.core.errors import AppError
from apps.models.gateway.wire import Receipt


class WholeResponse(Response):
    """A whole answer: the bytes as they came, and a receipt among the headers."""

    def __init__(self, content_type: str, body: bytes, receipt: Receipt) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-length", str(len(body)).encode()),
            (b"content-type", content_type.encode("latin-1")),
            *_raw(receipt_headers(receipt).items()),
        ]


def receipt_headers(receipt: Receipt) -> dict[str, str]:
    """What is known when the headers go out."""
    headers = {
        **model_header(receipt.model),
        "X-Provider": receipt.provider,
        "X-Attempts": str(receipt.attempts),
        **cache_headers(receipt.cache, receipt.age, receipt.score),
        "X-Queue-Ms": f"{receipt.queued * 1000:.1f}",
    }
    if receipt.first_token is not None:
        headers["X-First-Token-Ms"] = f"{receipt.first_token * 1000:.1f}"
    if receipt.prompt_tokens is not None:
        headers["X-Prompt-Tokens"] = str(receipt.prompt_tokens)
        headers["X-Completion-Tokens"] = str(receipt.completion_tokens)
    if receipt.cost is not None:
        headers["X-Cost-USD"] = f"{receipt.cost:.8f}"
    return headers


def _raw(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def streamed_reply(
    request: Request, frames: AsyncGenerator[bytes, None], receipt: Callable[[], Receipt]
) -> StreamedResponse:
    path = request.url.path
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
