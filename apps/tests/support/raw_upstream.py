"""An upstream that answers every call with given bytes, for what no well-behaved server would send."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@dataclass(slots=True)
class RawUpstream:
    """``requests`` holds each request's head and body as they came; ``open`` counts connections."""

    base_url: str = ""
    open: int = 0
    requests: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def raw_upstream(*reply: bytes | float) -> AsyncIterator[RawUpstream]:
    """Bytes are sent as they are, a number is a wait in seconds; then the connection is closed."""
    upstream = RawUpstream()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.open += 1
        try:
            upstream.requests.append(await _request(reader))
            await _send(writer, reply)
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the caller went away, as some tests want it to
        finally:
            upstream.open -= 1
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    upstream.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield upstream


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    return head + await reader.readexactly(length)


async def _send(writer: asyncio.StreamWriter, reply: Sequence[bytes | float]) -> None:
    for step in reply:
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        else:
            await asyncio.sleep(step)


def answer(body: bytes, *headers: str, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    """A whole response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


def events(*data: str, end: str = "\n") -> bytes:
    """Server-sent events, without the response's head."""
    return "".join(f"data: {one}{end}{end}" for one in data).encode()
