"""SIGTERM: nothing new begins, short answers end, long ones are ended properly, and the process is gone in time."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from apps.tests.support.processes import COMMANDS, Running, running
from apps.tests.support.reading import ask, checked, connect, read_events, read_to_end
from apps.tests.support.waiting import HANG_SECONDS, until
from eval.mock_upstream import MockUpstream, mock_upstream

GRACE = 1.5
ENDLESS = 3600


@pytest.fixture(scope="module")
def upstream() -> Iterator[MockUpstream]:
    with mock_upstream(tokens=200) as mock:
        yield mock


@pytest.fixture(params=COMMANDS)
def service(request: pytest.FixtureRequest, tmp_path: Path, upstream: MockUpstream) -> Iterator[Running]:
    upstream.reset()
    with running(
        tmp_path, request.param, OPENAI_BASE_URL=upstream.base_url, SHUTDOWN_GRACE=str(GRACE), READ_TIMEOUT="60"
    ) as started:
        yield started


def body_of(answer: bytes) -> bytes:
    """The body of an answer that is in chunks, or that the end of the connection ends."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return body
    whole, rest = b"", body
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        whole, rest = whole + rest[:length], rest[length + 2 :]
        if not length:
            return whole
    raise AssertionError("the body has no end")


def asked(url: str, request: bytes, pool: ThreadPoolExecutor) -> "Future[bytes]":
    connection = connect(url)
    connection.sendall(request)

    def read() -> bytes:
        with connection:
            return read_to_end(connection)

    return pool.submit(read)


@pytest.mark.long
def test_everything_at_once(service: Running, upstream: MockUpstream) -> None:
    with ThreadPoolExecutor() as pool:
        short = asked(service.url, ask("/generate?stream=true", model="slow-4"), pool)
        long = [asked(service.url, ask("/generate?stream=true", model="slow-100"), pool) for _ in range(2)]
        whole = [asked(service.url, ask("/generate", model="slow-100"), pool) for _ in range(2)]
        silent = asked(service.url, ask("/generate?stream=true", model="fault-hang"), pool)
        half = asked(service.url, ask("/generate")[:-5], pool)
        idle = connect(service.url)
        stalled = connect(service.url)
        stalled.sendall(ask("/generate?stream=true", model="slow-100"))
        assert until(lambda: upstream.stats()["requests"] == 7)
        time.sleep(0.3)
        service.terminate()
        assert until(lambda: refused(service.url))
        service.process.wait(HANG_SECONDS)
        assert idle.recv(1) == b""
        assert read_events(body_of(short.result())).end[0] == "done"
        for stream in long:
            streamed = read_events(body_of(stream.result()))
            kind, body = streamed.end
            assert (kind, checked(body, 503)["code"]) == ("error", "MODEL_UNAVAILABLE")
            assert streamed.deltas
        for answer in (*whole, silent, half):
            assert_says_goodbye(answer.result())
    idle.close()
    stalled.close()
    assert until(lambda: upstream.stats()["open"] == 0)
    assert "Traceback" not in service.log.read_text()


def assert_says_goodbye(answer: bytes) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 "), answer
    assert b"retry-after:" in head.lower()
    assert checked(json.loads(body), 503)["code"] == "MODEL_UNAVAILABLE"


def refused(url: str) -> bool:
    try:
        connect(url).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.long
def test_without_work_it_is_gone_before_its_grace_is_over(kind: str, tmp_path: Path) -> None:
    with running(tmp_path, kind, SHUTDOWN_GRACE=str(ENDLESS)) as service, connect(service.url) as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(15) == b"HTTP/1.1 200 OK"
        service.end()


@pytest.mark.long
def test_a_client_that_does_not_read_cannot_hold_it(service: Running) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        host, port = service.url.removeprefix("http://").split(":")
        client.connect((host, int(port)))
        client.sendall(b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        time.sleep(0.5)
        service.end()
