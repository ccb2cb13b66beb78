"""Reads answers as a client would: envelopes, event streams, and raw bytes off a socket."""

import json
import re
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

from apps.models.event_stream import EventStreamDecoder

KEYS = {"code", "message", "status", "field", "details"}
JSON = {"Content-Type": "application/json"}


@dataclass(slots=True)
class Streamed:
    """An event stream, read to its end: the text of its deltas, and its terminal events."""

    text: str = ""
    deltas: list[str] = field(default_factory=list)
    terminal: list[tuple[str, Any]] = field(default_factory=list)

    def take(self, kind: str, data: bytes) -> None:
        assert not self.terminal, "an event after the terminal one"
        if kind == "message":
            self.deltas.append(data.decode())
        elif kind == "delta":
            self.deltas.append(json.loads(data)["text"])
        else:
            assert kind in ("done", "error"), kind
            self.terminal.append((kind, json.loads(data)))
        self.text = "".join(self.deltas)

    @property
    def end(self) -> tuple[str, Any]:
        assert len(self.terminal) == 1, f"not exactly one terminal event: {self.terminal}"
        return self.terminal[0]


def read_events(data: bytes) -> Streamed:
    streamed = Streamed()
    for event in EventStreamDecoder().feed(data):
        streamed.take(event.type, event.data)
    return streamed


def envelope(response: httpx2.Response) -> dict[str, Any]:
    """The error of an answer, after checking that it is the contract's envelope."""
    assert response.headers["content-type"] == "application/json"
    assert "x-request-id" in response.headers
    return checked(response.json(), response.status_code)


def checked(body: Any, status: int) -> dict[str, Any]:
    """The error of a body that must be an envelope of ``status``."""
    error = body["error"]
    assert set(error) == KEYS
    assert error["status"] == status
    assert isinstance(error["code"], str)
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["field"] is None or isinstance(error["field"], str)
    assert isinstance(error["details"], dict)
    return dict(error)


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=90)


def post(path: str, body: bytes, *headers: str) -> bytes:
    """The bytes of a POST; a Content-Length among the headers wins over the true one."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", *headers]
    if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    if not any(header.lower().startswith("content-type") for header in headers):
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def ask(path: str, prompt: str = "hi", **fields: Any) -> bytes:
    return post(path, json.dumps({"prompt": prompt, **fields}).encode())


def read_to_end(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


def read_answer(connection: socket.socket) -> bytes:
    """One answer with a Content-Length, and not a byte of what comes behind it."""
    head = _read_until(connection, b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    assert length, head
    body = b""
    while len(body) < int(length[1]):
        more = connection.recv(int(length[1]) - len(body))
        assert more, head + body
        body += more
    return head + body


def _read_until(connection: socket.socket, end: bytes) -> bytes:
    read = b""
    while not read.endswith(end):
        byte = connection.recv(1)
        assert byte, read
        read += byte
    return read


def exchange(url: str, request: bytes) -> httpx2.Response:
    """Send bytes as they are, read one whole answer with a Content-Length, and close."""
    with connect(url) as connection:
        connection.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            assert part, f"closed after {data!r}"
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        length = int(dict((name.lower(), value) for name, value in headers).get("content-length", "0"))
        while len(body) < length:
            body += connection.recv(65536)
        return httpx2.Response(int(first.split()[1]), headers=headers, content=body[:length])


def receipt_in(data: bytes) -> dict[str, object]:
    """The receipt of a stream; it stands just before the last event."""
    head, _, tail = data.partition(b": receipt ")
    comment, _, rest = tail.partition(b"\n\n")
    assert rest == b"data: [DONE]\n\n"
    assert head.endswith(b"\n\n")
    return dict(json.loads(comment))
