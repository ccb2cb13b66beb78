"""What the server bounds in time: slow heads and bodies, silence, the rest of a refused body, readers that stall."""

import http.client
import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from apps.core.deltas import Delta
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.reading import ask, checked, connect, exchange, post, read_answer, read_to_end
from apps.tests.support.scraping import scrape
from apps.tests.support.serving import serving_models
from apps.tests.support.small_server import (
    CHUNKED,
    GET,
    SMALL,
    answers,
    closed,
    counting,
    only_answer,
)

SLOW = {
    "a head": (GET + b"X-A: ", 408, "head_timeout"),
    "a body": (post("/generate", b"", "Content-Length: 1000"), 408, "body_too_slow"),
    "a chunk": (CHUNKED + b"5\r\nab", 408, "body_too_slow"),
    "a trailer": (CHUNKED + b"0\r\nX-A: ", 408, "body_too_slow"),
}


@pytest.mark.parametrize("kind", SLOW)
def test_what_comes_too_slowly_is_refused_and_closed(kind: str, hurried: str) -> None:
    request, status, reason = SLOW[kind]
    with counting(hurried, reason):
        got, _, body = only_answer(hurried, request)
    assert (got, checked(body, status)["code"]) == (status, "REQUEST_TIMEOUT")


def test_a_byte_now_and_then_does_not_keep_a_head_or_a_body_alive(hurried: str) -> None:
    for request, byte in ((GET, b"X"), (post("/generate", b"", "Content-Length: 1000"), b" ")):
        with connect(hurried) as connection:
            connection.sendall(request)
            connection.settimeout(0.05)
            answer = b""
            while not answer:
                try:
                    connection.sendall(byte)
                    answer = connection.recv(65536)
                except TimeoutError:
                    continue
            assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("before", [b"", GET + b"\r\n"])
def test_a_silent_connection_is_closed(before: bytes, hurried: str) -> None:
    with counting(hurried, "idle"), connect(hurried) as connection:
        connection.sendall(before)
        assert len(answers(read_to_end(connection))) == bool(before)


@pytest.mark.long
def test_an_answer_that_takes_its_time_is_waited_for() -> None:
    slow = ScriptedModel(lambda request: [1.5, *saying("late")(request)])
    with serving_models(cloud=slow, **SMALL) as base:
        assert exchange(base, ask("/generate")).json() == {"response": "late"}


def test_a_client_that_waits_for_100_continue_is_not_slow() -> None:
    with serving_models(cloud=ScriptedModel(saying("ok")), **SMALL) as base, connect(base) as connection:
        head, _, body = ask("/generate").partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.long
def test_a_413_reaches_a_sender_that_reads_when_it_has_sent_all(chunked: bool) -> None:
    size = 4 * 2**20
    with serving_models(max_body_bytes=2048) as base:
        parts = urlsplit(base)
        for _ in range(10):
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
            part = b"x" * 65536
            body: Any = iter([part] * (size // len(part))) if chunked else b"x" * size
            connection.request("POST", "/generate", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert checked(json.loads(answer.read()), 413)["code"] == "PAYLOAD_TOO_LARGE"
            connection.close()


def test_the_rest_of_a_refused_body_is_waited_for_no_longer_than_the_limit(hurried: str) -> None:
    with counting(hurried, "body_after_answer"), connect(hurried) as connection:
        connection.sendall(post("/generate", b"", f"Content-Length: {2**30}"))
        status, _, body = answers(read_to_end(connection))[0]
        assert checked(body, status)["code"] == "PAYLOAD_TOO_LARGE"
        # the server's end of it is over; ours is found to be when it is written to
        with pytest.raises(OSError):
            while True:
                connection.sendall(b"x" * 65536)


@pytest.mark.long
def test_a_reader_that_stalls_is_cut_off_and_its_answer_ended() -> None:
    endless = ScriptedModel(lambda request: [Delta("x" * 8192)] * 100_000)
    with serving_models(cloud=endless, stalled_after=0.5) as base:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            parts = urlsplit(base)
            client.connect((parts.hostname or "", parts.port or 0))
            client.sendall(ask("/generate?stream=true"))
            while not closed(base, "stalled_reader"):
                time.sleep(0.05)
            with pytest.raises(ConnectionResetError):
                read_to_end(client)
        assert closed(base, "stalled_reader") == 1
        assert scrape(base).sum("genai_http_requests_total", route="/generate") == 1
