"""An answer is written as uvicorn writes it, byte for byte, and refused where uvicorn refuses it."""

import asyncio
import logging
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from apps.api.src.http.answer_writing import Cycle

Headers = list[tuple[bytes, bytes]]
TEXT = [(b"Content-Type", b"text/plain"), (b"X-A", b"a\tb\xff")]


class Written:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.data = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def start(headers: Headers, status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


LENGTH = (b"Content-Length", b"5")
ANSWERS: dict[str, list[dict[str, Any]]] = {
    "with a length": [start([*TEXT, LENGTH]), body(b"hello")],
    "with a length, in parts": [start([LENGTH]), body(b"hel", True), body(b"", True), body(b"lo")],
    "longer than its length": [start([LENGTH]), body(b"hello!")],
    "shorter than its length": [start([LENGTH]), body(b"hell")],
    "in chunks": [start(TEXT), body(b"hel", True), body(b"", True), body(b"lo" * 400)],
    "in chunks, with an empty end": [start(TEXT), body(b"hello", True), body()],
    "in chunks that are announced": [start([(b"Transfer-Encoding", b"Chunked")]), body(b"hello")],
    "without a body": [start([], 204), body()],
    "not modified": [start(TEXT, 304), body()],
    "that closes": [start([*TEXT, (b"Connection", b"x, Close"), LENGTH]), body(b"hello")],
    "that keeps": [start([(b"Connection", b"keep-alive"), LENGTH]), body(b"hello")],
    "without headers": [{"type": "http.response.start", "status": 200}, {"type": "http.response.body"}],
    "of an unknown status": [start([LENGTH], 299), body(b"hello")],
    "with a line end in a value": [start([(b"X-A", b"a\r\nX-B: b")]), body()],
    "with a NUL in a value": [start([(b"X-A", b"a\0")]), body()],
    "with a line end in a name": [start([(b"X-A\r\nX-B", b"b")]), body()],
    "with a colon in a name": [start([(b"X:A", b"b")]), body()],
    "with a space in a name": [start([(b"X A", b"b")]), body()],
    "begun twice": [start(TEXT), start(TEXT)],
    "without a beginning": [body(b"hello")],
    "that goes on behind its end": [start(TEXT), body(b"hello"), body(b"hello")],
    "of a length that is none": [start([(b"Content-Length", b"five")]), body(b"hello")],
}


async def sent(kind: Any, method: str, keep_alive: bool, messages: list[dict[str, Any]]) -> tuple[Any, ...]:
    """What came out of it: the bytes, how it ended, and what was raised."""
    transport, ended = Written(), []
    cycle = kind(
        scope={"type": "http", "method": method, "headers": []},
        transport=transport,
        flow=FlowControl(transport),  # type: ignore[arg-type]
        logger=logging.getLogger("uvicorn.error"),
        access_logger=logging.getLogger("uvicorn.access"),
        access_log=False,
        default_headers=[(b"server", b"s")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: ended.append(True),
    )
    raised = None
    for message in messages:
        try:
            await cycle.send(message)
        except Exception as error:
            raised = type(error)
            break
    return transport.data, transport.closed, ended, cycle.response_complete, cycle.keep_alive, raised


@pytest.mark.parametrize("kind", ANSWERS)
async def test_an_answer_is_written_as_uvicorn_writes_it(kind: str) -> None:
    for method in ("GET", "HEAD"):
        for keep_alive in (True, False):
            ours, theirs = [
                await sent(each, method, keep_alive, ANSWERS[kind]) for each in (Cycle, RequestResponseCycle)
            ]
            assert ours == theirs
