"""What the server bounds before the first handler: heads, bodies, idle clients, trailers, pipelines, connections."""

import http.client
import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from apps.api.src.http.connections import WHY, ConnectionLimits, Connections
from apps.core.deltas import Delta
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.reading import ask, checked, connect, envelope, exchange, post, read_answer, read_to_end
from apps.tests.support.scraping import scrape
from apps.tests.support.serving import serving_models

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


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving_models(cloud=ScriptedModel(saying("ok")), **SMALL) as base:
        yield base


@pytest.fixture(scope="module")
def patient() -> Iterator[str]:
    """The same sizes, and no clock that a test could meet."""
    with serving_models(cloud=ScriptedModel(saying("ok")), **SMALL | dict.fromkeys(TIMES, 60)) as base:
        yield base


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


REFUSED = {
    "one long header": (b"X-A: " + b"a" * HEAD_BYTES + b"\r\n\r\n", 431, "HEADERS_TOO_LARGE", "head_too_large"),
    "a header that does not end": (b"X-A: " + b"a" * 2 * HEAD_BYTES, 431, "HEADERS_TOO_LARGE", "head_too_large"),
    "a name that does not end": (b"a" * 2 * HEAD_BYTES, 431, "HEADERS_TOO_LARGE", "head_too_large"),
    "many headers": (b"X-A: a\r\n" * HEADERS + b"\r\n", 431, "HEADERS_TOO_LARGE", "too_many_headers"),
    "a header without a colon": (b"nonsense\r\n\r\n", 400, "BAD_REQUEST", "malformed"),
    "a header with a NUL": (b"X-A: \x00\r\n\r\n", 400, "BAD_REQUEST", "malformed"),
    "two lengths": (b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "BAD_REQUEST", "malformed"),
    "a length and chunks": (
        b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "BAD_REQUEST",
        "malformed",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_head_over_a_limit_or_malformed_is_refused_in_the_envelope(kind: str, patient: str) -> None:
    rest, status, code, reason = REFUSED[kind]
    with counting(patient, reason):
        got, headers, body = only_answer(patient, GET + rest)
    assert (got, checked(body, status)["code"]) == (status, code)
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"]


def test_a_head_of_just_the_limit_is_taken(patient: str) -> None:
    path = f"/health?{'a' * (HEAD_BYTES - 200)}"
    assert exchange(patient, f"GET {path} HTTP/1.1\r\nHost: x\r\nX-A: {'a' * 150}\r\n\r\n".encode()).status_code == 200
    headers = b"X-A: a\r\n" * (HEADERS - 1)
    assert exchange(patient, GET + headers + b"\r\n").status_code == 200


@pytest.mark.parametrize("path", ["/" + "a" * 2 * HEAD_BYTES, "/health?" + "a" * 2 * HEAD_BYTES])
@pytest.mark.parametrize("end", [" HTTP/1.1\r\nHost: x\r\n\r\n", ""])
def test_a_url_over_the_limit_is_refused(path: str, end: str, patient: str) -> None:
    status, _, body = only_answer(patient, f"GET {path}{end}".encode())
    assert checked(body, status)["code"] == "HEADERS_TOO_LARGE"


@pytest.mark.parametrize("line", [b"BREW /pot HTTP/1.1", b"CONNECT a.example:443 HTTP/1.1", b"GETT / HTTP/1.1"])
def test_an_unknown_method_is_told_which_there_are(line: bytes, patient: str) -> None:
    with counting(patient, "unknown_method"):
        status, headers, body = only_answer(patient, line + b"\r\nHost: x\r\n\r\n")
    assert checked(body, status)["code"] == "METHOD_NOT_ALLOWED"
    assert "POST" in headers["allow"]


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused_in_the_envelope(junk: bytes, patient: str) -> None:
    status, _, body = only_answer(patient, junk)
    assert checked(body, status)["code"] == "BAD_REQUEST"


CHUNKED = post("/generate", b"", "Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("trailers", "code"),
    [
        (b"X-A: " + b"a" * 2 * HEAD_BYTES, "HEADERS_TOO_LARGE"),
        (b"X-A: " + b"a" * 2 * HEAD_BYTES + b"\r\n\r\n", "HEADERS_TOO_LARGE"),
        (b"X-A: a\r\n" * HEADERS + b"\r\n", "HEADERS_TOO_LARGE"),
    ],
)
def test_trailers_count_as_the_head_does(trailers: bytes, code: str, patient: str) -> None:
    with connect(patient) as connection:
        connection.sendall(CHUNKED)
        # in a packet of its own, so that a handler waits for the body
        connection.sendall(b"0\r\n" + trailers)
        ((status, _, body),) = answers(read_to_end(connection))
    assert checked(body, status)["code"] == code


def test_a_trailer_is_no_header(patient: str) -> None:
    body = b'{"prompt": "hi"}'
    chunks = b"%x\r\n%s\r\n0\r\nX-Request-ID: forged\r\n\r\n" % (len(body), body)
    assert exchange(patient, CHUNKED + chunks).headers["x-request-id"] != "forged"


def test_a_chunk_that_is_malformed_ends_the_request_in_the_envelope(patient: str) -> None:
    with connect(patient) as connection:
        connection.sendall(CHUNKED)
        connection.sendall(b"zz\r\n")
        ((status, _, body),) = answers(read_to_end(connection))
    assert checked(body, status)["code"] == "BAD_REQUEST"


SLOW = {
    "a head": (GET + b"X-A: ", 408, "head_timeout"),
    "a body": (post("/generate", b"", "Content-Length: 1000"), 408, "body_too_slow"),
    "a chunk": (CHUNKED + b"5\r\nab", 408, "body_too_slow"),
    "a trailer": (CHUNKED + b"0\r\nX-A: ", 408, "body_too_slow"),
}


@pytest.mark.parametrize("kind", SLOW)
def test_what_comes_too_slowly_is_refused_and_closed(kind: str, url: str) -> None:
    request, status, reason = SLOW[kind]
    with counting(url, reason):
        got, _, body = only_answer(url, request)
    assert (got, checked(body, status)["code"]) == (status, "REQUEST_TIMEOUT")


def test_a_byte_now_and_then_does_not_keep_a_head_or_a_body_alive(url: str) -> None:
    for request, byte in ((GET, b"X"), (post("/generate", b"", "Content-Length: 1000"), b" ")):
        with connect(url) as connection:
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
def test_a_silent_connection_is_closed(before: bytes, url: str) -> None:
    with counting(url, "idle"), connect(url) as connection:
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


def test_pipelined_requests_are_answered_in_order_up_to_the_limit(patient: str) -> None:
    most = 4
    first = ask("/generate", "hi")
    one = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-ID: %d\r\n\r\n"
    with connect(patient) as connection:
        connection.sendall(first + b"".join(one % number for number in range(most)))
        data = b"".join(read_answer(connection) for _ in range(most + 1))
    names = [headers["x-request-id"] for _, headers, _ in answers(data)]
    assert names[1:] == ["0", "1", "2", "3"]


def test_more_pipelined_requests_than_that_are_dropped_behind_the_answers_of_the_others(patient: str) -> None:
    with counting(patient, "pipelined"), connect(patient) as connection:
        connection.sendall(ask("/generate") + (GET + b"\r\n") * 50)
        assert [status for status, _, _ in answers(read_to_end(connection))] == [200] * 5


def test_a_malformed_request_in_a_pipeline_does_not_take_the_answers_before_it(patient: str) -> None:
    with connect(patient) as connection:
        connection.sendall(ask("/generate") + GET + b"\r\n" + b"\x00\x00\x00\r\n\r\n")
        assert [status for status, _, _ in answers(read_to_end(connection))] == [200, 200]


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0"])
@pytest.mark.parametrize("apart", [True, False])
def test_an_upgrade_is_ignored_and_the_body_read(protocol: str, apart: bool, patient: str) -> None:
    head, _, body = ask("/generate").partition(b"\r\n\r\n")
    head += (
        b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAMA\r\n\r\n" % protocol.encode()
    )
    with connect(patient) as connection:
        for _ in range(2):
            for part in (head, body[:4], body[4:]) if apart else (head + body,):
                connection.sendall(part)
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + ask("/generate"))
        for _ in range(2):
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_an_upgrade_with_chunks_is_read_too(patient: str) -> None:
    body = b'{"prompt": "hi"}'
    head = CHUNKED[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with connect(patient) as connection:
        connection.sendall(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) + GET + b"\r\n")
        for _ in range(2):
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


def test_the_rest_of_a_refused_body_is_waited_for_no_longer_than_the_limit(url: str) -> None:
    with counting(url, "body_after_answer"), connect(url) as connection:
        connection.sendall(post("/generate", b"", f"Content-Length: {2**30}"))
        status, _, body = answers(read_to_end(connection))[0]
        assert checked(body, status)["code"] == "PAYLOAD_TOO_LARGE"
        # the server's end of it is over; ours is found to be when it is written to
        with pytest.raises(OSError):
            while True:
                connection.sendall(b"x" * 65536)


def test_an_address_has_so_many_connections_and_no_more() -> None:
    with serving_models(max_connections_per_address=3) as base, ExitStack() as stack:
        held = [stack.enter_context(connect(base)) for _ in range(3)]
        for connection in held:
            connection.sendall(GET + b"\r\n")
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        status, headers, body = only_answer(base, b"")
        assert checked(body, status)["code"] == "RATE_LIMIT_EXCEEDED"
        assert headers["retry-after"] == "1"
        held[0].close()
        while True:  # until the server has heard of it
            with connect(base) as connection:
                connection.sendall(GET + b"\r\n")
                if read_answer(connection).startswith(b"HTTP/1.1 200 "):
                    break


def test_a_proxy_that_is_trusted_may_have_any_number() -> None:
    with (
        serving_models(max_connections_per_address=1, forwarded_allow_ips=["127.0.0.0/8"]) as base,
        ExitStack() as stack,
    ):
        for _ in range(5):
            connection = stack.enter_context(connect(base))
            connection.sendall(GET + b"\r\n")
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


class Held:
    """A connection as its registry knows it."""

    def __init__(self) -> None:
        self.aborted = False

    def check(self, now: float) -> None: ...

    def abort(self) -> None:
        self.aborted = True


async def test_the_addresses_of_one_ipv6_network_count_together() -> None:
    registry = Connections(ConnectionLimits(an_address=1))
    assert registry.opened(Held(), "2001:db8::1", 9) is None
    assert registry.opened(Held(), "2001:db8::2", 9) == "address_limit"
    assert registry.opened(Held(), "2001:db8:0:1::1", 9) is None
    assert registry.opened(Held(), "::ffff:192.0.2.1", 9) is None
    assert registry.opened(Held(), "192.0.2.1", 9) == "address_limit"


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


def test_every_reason_is_a_series_from_the_start(patient: str) -> None:
    assert scrape(patient).values("reason") >= set(WHY)


def test_the_log_says_it_in_one_line_for_all_of_a_tick(caplog: pytest.LogCaptureFixture) -> None:
    registry = Connections(ConnectionLimits())
    with caplog.at_level(logging.WARNING, "apps.api.src.http.connections"):
        for _ in range(1000):
            registry.note("head_timeout", "192.0.2.7")
        registry.note("idle", "192.0.2.7")
        assert caplog.messages == []
        registry.say()
        registry.say()
    assert caplog.messages == [
        "Closed 1000 connection(s), the last of 192.0.2.7: a request's head was not there within HEAD_TIMEOUT"
    ]


def test_the_refusals_of_the_server_are_envelopes_as_all_others_are(patient: str) -> None:
    assert envelope(exchange(patient, b"BREW / HTTP/1.1\r\n\r\n"))["code"] == "METHOD_NOT_ALLOWED"
