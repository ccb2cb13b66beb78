"""A server with small limits, and its answers as they come over a socket."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apps.tests.support.reading import connect, post, read_to_end
from apps.tests.support.scraping import scrape

HEAD_BYTES, HEADERS = 4096, 20
SMALL: dict[str, Any] = {
    "max_head_bytes": HEAD_BYTES,
    "max_headers": HEADERS,
    "head_timeout": 0.3,
    "body_grace": 0.3,
    "idle_timeout": 0.6,
    "drain_timeout": 0.3,
    "max_pipelined": 4,
}


TIMES = ("head_timeout", "body_grace", "idle_timeout", "drain_timeout")
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"


def closed(url: str, reason: str) -> float:
    return scrape(url).sum("genai_connections_closed_total", reason=reason)


@contextmanager
def counting(url: str, reason: str) -> Iterator[None]:
    """One more connection is closed for the reason in the block."""
    before = closed(url, reason)
    yield
    assert closed(url, reason) == before + 1


def answers(data: bytes) -> list[tuple[int, dict[str, str], Any]]:
    """Whole answers in a row, each with its status, its headers and its JSON."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers["content-length"])
        found.append((int(first.split()[1]), headers, json.loads(data[:length])))
        data = data[length:]
    return found


def only_answer(url: str, request: bytes) -> tuple[int, dict[str, str], Any]:
    with connect(url) as connection:
        connection.sendall(request)
        (answer,) = answers(read_to_end(connection))
    return answer


CHUNKED = post("/generate", b"", "Transfer-Encoding: chunked")
