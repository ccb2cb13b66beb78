"""What the server bounds before the first handler: heads, URLs, trailers, upgrades and pipelines."""

import pytest

from apps.tests.support.reading import ask, checked, connect, envelope, exchange, read_answer, read_to_end
from apps.tests.support.small_server import CHUNKED, GET, HEAD_BYTES, HEADERS, answers, counting, only_answer

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


def test_the_refusals_of_the_server_are_envelopes_as_all_others_are(patient: str) -> None:
    assert envelope(exchange(patient, b"BREW / HTTP/1.1\r\n\r\n"))["code"] == "METHOD_NOT_ALLOWED"
