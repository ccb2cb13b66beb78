"""The body limit holds while the body is read, before anything else looks at it."""

from collections.abc import Iterator

import pytest

from apps.tests.support.reading import ask, connect, envelope, exchange, post, read_answer, read_to_end
from apps.tests.support.serving import serving_models

LIMIT = 2048


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving_models(max_body_bytes=LIMIT) as base:
        yield base


def chunked(*parts: bytes) -> bytes:
    head = post("/generate", b"", "Transfer-Encoding: chunked")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def padded(size: int) -> bytes:
    start, end = b'{"prompt": "hi", "x": "', b'"}'
    return start + b"x" * (size - len(start) - len(end)) + end


def too_large(answer: object) -> None:
    error = envelope(answer)  # type: ignore[arg-type]
    assert (error["status"], error["code"], error["details"]) == (413, "PAYLOAD_TOO_LARGE", {"max_bytes": LIMIT})


@pytest.mark.parametrize("request_bytes", [post("/generate", padded(LIMIT)), chunked(padded(LIMIT))])
def test_a_body_of_exactly_the_limit_is_read(request_bytes: bytes, url: str) -> None:
    assert exchange(url, request_bytes).status_code == 200


def test_a_content_length_over_the_limit_is_refused_before_the_body_comes(url: str) -> None:
    too_large(exchange(url, post("/generate", b"", f"Content-Length: {LIMIT + 1}")))


@pytest.mark.parametrize("path", ["/generate", "/no/such/route", "/health"])
def test_it_is_refused_on_every_route(path: str, url: str) -> None:
    too_large(exchange(url, post(path, b"", "Content-Length: 9999999999")))


def test_chunks_over_the_limit_are_refused_when_they_are_over_it(url: str) -> None:
    too_large(exchange(url, chunked(b"x" * LIMIT, b"x")))


def test_chunks_without_an_end_are_refused_when_they_are_over_it(url: str) -> None:
    too_large(exchange(url, chunked(*[b"x" * 100] * (LIMIT // 100 + 1))[:-5]))


def test_it_counts_before_the_content_type_and_the_json(url: str) -> None:
    too_large(exchange(url, post("/generate", b"x" * (LIMIT + 1), "Content-Type: text/plain")))


def test_the_connection_ends_with_the_answer(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(post("/generate", b"", f"Content-Length: {LIMIT + 1}"))
        assert b"connection: close" in read_to_end(connection).lower()


def test_a_body_longer_than_its_content_length_ends_there_and_the_connection_with_it(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(post("/generate", b'{"prompt": "hi"}', "Content-Length: 5"))
        answers = read_to_end(connection)
    assert answers.startswith(b"HTTP/1.1 422 ")
    assert answers.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("length", ["-1", "abc", "1 2", "0x10", "9" * 30])
def test_a_content_length_that_is_no_number_is_refused_by_the_server(length: str, url: str) -> None:
    assert exchange(url, post("/generate", b"{}", f"Content-Length: {length}")).status_code == 400


def test_expect_100_continue_is_answered_before_the_body_is_sent(url: str) -> None:
    request = ask("/generate").replace(b"Host: x", b"Host: x\r\nExpect: 100-continue")
    head, _, body = request.partition(b"\r\n\r\n")
    with connect(url) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
