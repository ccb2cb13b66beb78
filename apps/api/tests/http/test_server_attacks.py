"""Attacks on a real process of the service: each is bounded in memory and in time, and others are served meanwhile."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from apps.tests.support.processes import Running, running
from apps.tests.support.reading import ask, post
from apps.tests.support.scraping import scrape
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream, mock_upstream

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process from /proc"),
]

TIMES = {"HEAD_TIMEOUT": "1", "BODY_GRACE": "1", "IDLE_TIMEOUT": "2", "DRAIN_TIMEOUT": "1", "STALLED_AFTER": "2"}
MOST_GROWTH = 20
HANG = 60.0
FLOOD = 64 * 2**20
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[MockUpstream]:
    with mock_upstream(tokens=20) as mock:
        yield mock


@pytest.fixture
def service(tmp_path: Path, upstream: MockUpstream) -> Iterator[Running]:
    with running(tmp_path, OPENAI_BASE_URL=upstream.base_url, **TIMES) as started:
        # what the first requests of a process leave behind is no attack's doing
        for _ in range(50):
            assert httpx2.get(f"{started.url}/healthz", trust_env=False, timeout=90).status_code == 200
        scrape(started.url)
        yield started


def megabytes(service: Running) -> float:
    pages = int(Path(f"/proc/{service.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors(service: Running) -> int:
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


def open_to(service: Running) -> socket.socket:
    parts = urlsplit(service.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=HANG)


def closed_for(service: Running, *reasons: str) -> float:
    seen = scrape(service.url)
    return sum(seen.sum("genai_connections_closed_total", reason=reason) for reason in reasons)


def others_are_served(service: Running) -> None:
    assert httpx2.get(f"{service.url}/healthz", timeout=HANG, trust_env=False).status_code == 200


FLOODS = {
    "one long header": (GET + b"X-A: ", b"a" * 65536),
    "many small headers": (GET, b"X-B: c\r\n" * 8192),
    "a long path": (b"GET /healthz?", b"a" * 65536),
    "trailers": (post("/generate", b"", "Transfer-Encoding: chunked") + b"0\r\nX-A: ", b"a" * 65536),
    "many trailers": (post("/generate", b"", "Transfer-Encoding: chunked") + b"0\r\n", b"X-B: c\r\n" * 8192),
    "chunk extensions": (post("/generate", b"", "Transfer-Encoding: chunked") + b"5;", b"a" * 65536),
    "pipelined requests": (b"", (GET + b"\r\n") * 1000),
    "a body that is refused": (post("/generate", b"", "Content-Length: 99999999999"), b"x" * 65536),
    "chunks over the limit": (
        post("/generate", b"", "Transfer-Encoding: chunked"),
        b"10000\r\n" + b"x" * 65536 + b"\r\n",
    ),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_is_closed_and_kept_nowhere(kind: str, service: Running) -> None:
    start, block = FLOODS[kind]
    before = megabytes(service)
    with open_to(service) as connection:
        connection.settimeout(HANG)
        with pytest.raises(OSError):
            connection.sendall(start)
            sent = 0
            while True:
                connection.sendall(block)
                sent += len(block)
                assert sent < 100 * FLOOD, "it is never closed"
        others_are_served(service)
    assert megabytes(service) - before < MOST_GROWTH


SLOW = {
    "heads": (GET, b"X", "head_timeout"),
    "bodies": (post("/v1/chat/completions", b"", "Content-Length: 100000"), b" ", "body_too_slow"),
    "silence": (b"", b"", "idle"),
    "silence behind an answer": (GET + b"\r\n", b"", "idle"),
}


@pytest.mark.parametrize("kind", SLOW)
def test_two_hundred_slow_clients_are_closed_and_their_descriptors_free(kind: str, service: Running) -> None:
    start, byte, reason = SLOW[kind]
    memory, files = megabytes(service), descriptors(service)
    with ExitStack() as stack:
        held = [stack.enter_context(open_to(service)) for _ in range(200)]
        for connection in held:
            connection.sendall(start)
            connection.setblocking(False)
        alive, ends = set(held), time.monotonic() + HANG
        while alive and time.monotonic() < ends:
            others_are_served(service)
            for connection in tuple(alive):
                try:
                    if byte:
                        connection.send(byte)
                    while connection.recv(65536):
                        pass
                    alive.discard(connection)
                except BlockingIOError:
                    continue
                except OSError:
                    alive.discard(connection)
        assert not alive
    assert closed_for(service, reason) >= 200
    assert megabytes(service) - memory < MOST_GROWTH
    others_are_served(service)
    assert descriptors(service) < files + 20
    assert "Closed " in service.log.read_text() or reason == "idle"


def test_health_is_answered_when_the_descriptors_are_used_up(tmp_path: Path, upstream: MockUpstream) -> None:
    with running(tmp_path, DESCRIPTORS="160", OPENAI_BASE_URL=upstream.base_url, IDLE_TIMEOUT="600") as service:
        with ExitStack() as stack:
            for _ in range(400):
                stack.enter_context(open_to(service)).sendall(GET)
            for _ in range(20):
                others_are_served(service)
            refused = httpx2.post(f"{service.url}/generate", json={"prompt": "hi"}, timeout=HANG, trust_env=False)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "OVERLOADED")
        ends = time.monotonic() + HANG
        while (
            httpx2.post(f"{service.url}/generate", content=ask("")[:0], trust_env=False, timeout=90).status_code == 503
        ):
            assert time.monotonic() < ends
            time.sleep(0.2)
        assert closed_for(service, "descriptors") > 0
        # a line a tick of the sweep
        assert until(lambda: "file descriptors" in service.log.read_text())
