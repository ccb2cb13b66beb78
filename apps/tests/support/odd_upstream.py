"""An upstream with odd manners, which the name of the model chooses: exact bytes, over real sockets."""

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CLOSE = b"Connection: close\r\n\r\n"


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def chunk(delta: Mapping[str, Any] | None = None, finish: str | None = None, index: int = 0) -> bytes:
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "odd", "choices": [choice]})


DONE = event(b"[DONE]")
USAGE = event(
    {
        "id": "c",
        "object": "chat.completion.chunk",
        "model": "odd",
        "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }
)
ROLE = chunk({"role": "assistant", "content": ""})
TEXT = [chunk({"content": "Hel"}), chunk({"content": "lo there"})]
STOP = chunk(finish="stop")
HELLO = b"".join([ROLE, *TEXT, STOP])
ALIVE = b": keep-alive\n\n"


def whole(message: Mapping[str, Any] | None = None, usage: Any = True, **more: Any) -> bytes:
    said = {"role": "assistant", "content": "Hello there"} if message is None else message
    answer = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "odd",
        "choices": [{"index": 0, "message": said, "finish_reason": "stop"}],
        **more,
    }
    if isinstance(usage, dict):
        answer["usage"] = usage
    elif usage:
        answer["usage"] = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return json.dumps(answer).encode()


def streamed(*parts: bytes | float, head: bytes = STREAM_HEAD) -> list[bytes | float]:
    """An answer whose body ends with its connection; numbers are seconds of waiting."""
    return [head + CLOSE, *parts]


def chunked(*parts: bytes) -> list[bytes | float]:
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return [STREAM_HEAD + b"Transfer-Encoding: chunked\r\n" + CLOSE + body + b"0\r\n\r\n"]


def answered(
    body: bytes, *headers: str, status: str = "200 OK", kind: str | None = "application/json"
) -> list[bytes | float]:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    lines += [f"Content-Type: {kind}"] if kind is not None else []
    return ["\r\n".join(lines).encode() + b"\r\n" + CLOSE + body]


Reply = Sequence[bytes | float]


@dataclass(slots=True)
class OddUpstream:
    """``replies`` to a call that is streamed, and to one that is not, by the name of the model."""

    streams: Mapping[str, Reply]
    wholes: Mapping[str, Reply]
    base_url: str = ""
    port: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            self.seen.append(body)
            for step in self._reply(head, body):
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                else:
                    await asyncio.sleep(step)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the test is over, or its caller went away, as some tests want it to
        finally:
            writer.close()

    def _reply(self, head: bytes, body: dict[str, Any]) -> Reply:
        if b"/responses " in head:
            return answered(b'{"error": {"message": "no such path"}}', status="404 Not Found")
        if b"/embeddings " in head:
            data = [{"index": i, "embedding": [1.0] * 8} for i in range(len(body["input"]))]
            return answered(json.dumps({"data": data, "usage": {"prompt_tokens": 1}}).encode())
        replies = self.streams if body.get("stream") else self.wholes
        return replies[body["model"]]


@contextmanager
def odd_upstream(
    streams: Mapping[str, Reply], wholes: Mapping[str, Reply] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[OddUpstream]:
    """The upstream on a loop of its own, for the length of the block."""
    running = OddUpstream(streams, wholes or {})
    started, ended = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        server = await asyncio.start_server(running.serve, "127.0.0.1", 0, ssl=tls)
        running.port = server.sockets[0].getsockname()[1]
        running.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{running.port}/v1"
        loops.append(asyncio.get_running_loop())
        started.set()
        await ended.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # closed transports leave the loop in its next turns

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(60)
    try:
        yield running
    finally:
        loops[0].call_soon_threadsafe(ended.set)
        thread.join(60)
