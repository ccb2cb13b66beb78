"""How many functions of ours a relayed call runs: what a call costs cannot grow without this being seen.

Each counts once when it is called, and once more each time that it goes on behind an ``await``. A bound that is
exceeded on purpose is raised here, with the reason in the commit.
"""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from fastapi import FastAPI

from apps.api.src.application import create_app
from apps.api.src.wiring.gateway import build_cloud, build_gateway
from apps.api.src.wiring.services import on_record
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.serving import settings
from eval.mock_answers import chunk, completion, stream_head, stream_tail
from eval.mock_connection import JSON, SSE
from eval.mock_http import LAST_CHUNK, framed, head

APPS = str(Path(__file__).parents[3])
MODEL = "gpt-4o-mini"
WORDS = ["word "] * 30
# the rest of a call may be interrupted by timers: the least of so many is the call alone
CALLS = 10


class StepwiseUpstream(asyncio.Protocol):
    """Answers a chat, a stream event by event: each is sent when `go_on` is called."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        body = json.loads(data.partition(b"\r\n\r\n")[2])
        if not body["stream"]:
            answer = completion(MODEL, WORDS)
            self._transport.write(head(200, JSON, len(answer)) + answer)
            return
        words = WORDS[: body["max_tokens"]]
        first, *events = [framed(chunk(MODEL, {"content": word})) for word in words]
        self._events = [*events, b"".join(map(framed, stream_tail(MODEL, body, words))) + LAST_CHUNK]
        self._transport.write(head(200, SSE) + framed(stream_head(MODEL)) + first)

    def go_on(self) -> None:
        if self._events:
            self._transport.write(self._events.pop(0))


@asynccontextmanager
async def upstream() -> AsyncIterator[tuple[str, StepwiseUpstream]]:
    """Its address, and its one connection."""
    connection = StepwiseUpstream()
    server = await asyncio.get_running_loop().create_server(lambda: connection, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", connection
    finally:
        server.close()


@contextmanager
def counting() -> Iterator[list[str]]:
    """The names of our functions that run in this thread within the block."""
    ran: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(APPS) and "/tests/" not in code.co_filename:
            ran.append(code.co_qualname)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield ran
    finally:
        sys.setprofile(before)


async def functions_of_a_call(app: FastAPI, other: StepwiseUpstream, **fields: Any) -> int:
    """How many functions one call runs, the least of several."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **fields}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": headers}
    messages: list[dict[str, Any]] = []
    read = False

    async def receive() -> dict[str, Any]:
        nonlocal read
        if read:
            # the client stays: who watches for its leaving waits
            await asyncio.get_running_loop().create_future()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)
        if message.get("more_body"):
            other.go_on()

    counts = []
    for _ in range(CALLS):
        messages.clear()
        read = False
        with counting() as ran:
            await app({**scope, "client": ("127.0.0.1", 1), "http_version": "1.1"}, receive, send)
        assert messages[0]["status"] == 200
        assert not messages[-1].get("more_body", False)
        counts.append(len(ran))
    return min(counts)


@pytest.fixture
async def counted(caplog: pytest.LogCaptureFixture) -> AsyncIterator[tuple[FastAPI, StepwiseUpstream]]:
    # a line of the log is written when its request is over, several at a time
    caplog.set_level(logging.WARNING, "apps.access")
    async with upstream() as (address, connection):
        quiet = ScriptedModel(saying("hello"))
        configured = settings(openai_base_url=address, auth="off", log_level="warning")
        gateway = build_gateway(configured, quiet)
        services = on_record(configured, build_cloud(configured, gateway), quiet, gateway)
        yield create_app(configured, services), connection
        await gateway.aclose()


async def test_a_whole_answer_runs_few_functions(counted: tuple[FastAPI, StepwiseUpstream]) -> None:
    assert await functions_of_a_call(*counted, stream=False) <= 185


async def test_a_streamed_answer_runs_few_functions_and_few_more_for_each_event(
    counted: tuple[FastAPI, StepwiseUpstream],
) -> None:
    short = await functions_of_a_call(*counted, stream=True, max_tokens=10)
    long = await functions_of_a_call(*counted, stream=True, max_tokens=30)
    each = (long - short) / 20
    assert each <= 38
    assert short - 10 * each <= 235
