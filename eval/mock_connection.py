"""One client connection of the mock upstream: reads requests, answers each as its model's name says, and counts.

The behaviours are listed in mock_upstream.py.
"""

import asyncio
import json
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

from eval import mock_answers as answers
from eval import mock_v1
from eval.mock_http import LAST_CHUNK, Request, framed, head, take_request

JSON, SSE = "application/json", "text/event-stream"


@dataclass(slots=True)
class Stats:
    """What happened since the last reset. ``open`` calls and ``connections`` are as of now.

    ``waited`` sums the seconds for which it was to hold answers back, by its own settings.
    """

    requests: int = 0
    open: int = 0
    aborted: int = 0
    waited: float = 0
    connections: set["Connection"] = field(default_factory=set)
    by_model: Counter[str] = field(default_factory=Counter)
    last_body: Any = None
    last_headers: dict[str, str] = field(default_factory=dict)

    def reset(self) -> None:
        self.requests = self.aborted = 0
        self.waited = 0
        self.by_model.clear()
        self.last_body, self.last_headers = None, {}

    def as_json(self) -> dict[str, Any]:
        names = ("requests", "open", "aborted", "waited", "by_model", "last_body", "last_headers")
        return {name: getattr(self, name) for name in names} | {"connections": len(self.connections)}


@dataclass(frozen=True, slots=True)
class Options:
    tokens: int = 20
    delay_ms: float = 0


class Connection(asyncio.Protocol):
    """One client connection: reads requests, answers each as its model's name says."""

    transport: asyncio.Transport

    def __init__(self, options: Options, stats: Stats) -> None:
        self.options, self.stats = options, stats
        self.buffer = bytearray()
        self.tasks: set[asyncio.Task[None]] = set()
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # a stream protocol gets one; uvloop's is no subclass
        self.stats.connections.add(self)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        self.stats.connections.discard(self)
        for task in self.tasks:
            task.cancel()
        if self.busy:
            self.stats.aborted += 1
            self._done()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while request := take_request(self.buffer):
            self._handle(request)

    def _handle(self, request: Request) -> None:
        if request.path == "/stats":
            self._send_json(200, self.stats.as_json())
        elif request.path == "/reset":
            self.stats.reset()
            self._send_json(200, {})
        elif request.path.endswith("/models"):
            self._send_json(200, answers.MODELS)
        elif request.path.endswith("/chat/completions") or self._serves(request.path):
            self._begin_call(request)
        else:
            self._send_json(404, answers.error_body("no such route", "invalid_request_error"))

    def _serves(self, path: str) -> bool:
        return path.endswith(mock_v1.PATHS) and not path.startswith(mock_v1.CHAT_ONLY)

    def _begin_call(self, request: Request) -> None:
        self.stats.requests += 1
        self.stats.open += 1
        self.busy = True
        try:
            body = json.loads(request.body)
            model = str(body["model"])
        except (ValueError, KeyError, TypeError):
            return self._send_json(400, answers.error_body("bad request", "invalid_request_error"))
        self.stats.last_body, self.stats.last_headers = body, request.headers
        self.stats.by_model[model] += 1
        return self._answer(request.path, body, model, answers.behaviour_of(model))

    def _answer(self, path: str, body: dict[str, Any], model: str, behaviour: answers.Behaviour) -> None:
        match behaviour.kind:
            case "status":
                status = behaviour.number
                self._send_json(status, answers.error_body(f"mock {status}"), behaviour.retry_after)
            case "flaky" if self.stats.by_model[model] <= behaviour.number:
                self._send_json(503, answers.error_body("mock flaky", "server_error"))
            case "200error":
                self._send_json(200, answers.error_body("mock error in a 200", "server_error"))
            case "rst":
                self._reset()
            case "hang":
                pass
            case "no-options" if "stream_options" in body:
                self._send_json(400, answers.error_body("Unrecognized request argument supplied: stream_options"))
            case _ if not path.endswith("/chat/completions"):
                self._beside_chat(path, body)
            case _ if body.get("stream"):
                self._stream(body, model, behaviour)
            case _:
                self._whole(body, model, behaviour)

    def _beside_chat(self, path: str, body: dict[str, Any]) -> None:
        words = answers.words_of(body, answers.Behaviour("answer"), self.options.tokens)
        if body.get("stream") is True:
            self._send_events(mock_v1.events(path, body, words))
        else:
            self._send_json(200, mock_v1.whole(path, body, words))

    def _whole(self, body: dict[str, Any], model: str, behaviour: answers.Behaviour) -> None:
        words = answers.words_of(body, behaviour, self.options.tokens)
        tool = behaviour.kind == "tool-call"
        data = answers.tool_completion(model, body) if tool else answers.completion(model, words)
        half = len(data) // 2
        match behaviour.kind:
            case "badjson" | "nofinish":
                self._send(head(200, JSON, half) + data[:half])
            case "stall":
                self.transport.write(head(200, JSON, len(data)) + data[:half])
            case "cut":
                self.transport.write(head(200, JSON, len(data)) + data[:half])
                self._later(0.05, None)
            case "error":
                self._send_json(200, answers.error_body("mock error in a 200", "server_error"))
            case _:
                data = mock_v1.with_future_fields(data) if behaviour.kind == "future" else data
                reply = head(200, JSON, len(data)) + data
                wait = self._wait(behaviour)
                self._later(wait, reply) if wait else self._send(reply)

    def _stream(self, body: dict[str, Any], model: str, behaviour: answers.Behaviour) -> None:
        if behaviour.kind == "tool-call":
            return self._send_events(answers.tool_stream(model, body))
        words = answers.words_of(body, behaviour, self.options.tokens)
        tokens = [answers.chunk(model, {"content": word}) for word in words]
        tail = answers.stream_tail(model, body, words)
        wait = self._wait(behaviour)
        if not wait and behaviour.kind not in answers.FAULTS:
            events = [answers.stream_head(model), *tokens, *tail]
            future = behaviour.kind == "future"
            return self._send_events([mock_v1.with_future_fields(one) for one in events] if future else events)
        task = asyncio.get_running_loop().create_task(self._stream_slowly(model, tokens, tail, behaviour.kind, wait))
        return self._keep(task)

    async def _stream_slowly(self, model: str, tokens: list[bytes], tail: list[bytes], kind: str, wait: float) -> None:
        await self._hold_back(wait)
        self.transport.write(head(200, SSE) + framed(answers.stream_head(model)))
        half = len(tokens) // 2 if kind in answers.FAULTS else len(tokens)
        for token in tokens[:half]:
            self.transport.write(framed(token))
            await self._hold_back(wait)
        await self._end_stream(model, tail, kind)

    async def _end_stream(self, model: str, tail: list[bytes], kind: str) -> None:
        """The end of a stream that is slow, or that fails here after half of its tokens."""
        match kind:
            case "cut":
                await asyncio.sleep(0.05)  # so that what was written leaves before the reset drops it
                self._reset()
            case "stall":
                return
            case "badjson":
                broken = b'data: {"id": "chatcmpl-mock", "choi\n\n'
                self._send(b"".join(map(framed, [broken, *tail])) + LAST_CHUNK)
            case "error":
                self._send(framed(answers.event(answers.error_body("mock mid-stream error"))) + LAST_CHUNK)
            case "nofinish":
                self._send(LAST_CHUNK)
            case _:
                self._send(b"".join(map(framed, tail)) + LAST_CHUNK)

    def _wait(self, behaviour: answers.Behaviour) -> float:
        """Seconds before the first byte and between tokens."""
        return (behaviour.number if behaviour.kind == "slow" else self.options.delay_ms) / 1000

    async def _hold_back(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.stats.waited += seconds

    def _later(self, seconds: float, reply: bytes | None) -> None:
        """Send the reply, or reset the connection where it is None, after a while."""
        self._keep(asyncio.get_running_loop().create_task(self._after(seconds, reply)))

    async def _after(self, seconds: float, reply: bytes | None) -> None:
        await self._hold_back(seconds)
        if reply is None:
            self._reset()
        else:
            self._send(reply)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _send_json(self, status: int, body: Any, retry_after: int | None = None) -> None:
        data = json.dumps(body).encode()
        self._send(head(status, JSON, len(data), retry_after) + data)

    def _send_events(self, events: list[bytes]) -> None:
        self._send(head(200, SSE) + b"".join(map(framed, events)) + LAST_CHUNK)

    def _send(self, data: bytes) -> None:
        self.transport.write(data)
        self._done()

    def _reset(self) -> None:
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._done()
        self.transport.abort()

    def _done(self) -> None:
        if self.busy:
            self.busy = False
            self.stats.open -= 1
