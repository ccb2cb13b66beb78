"""What a connection makes of bytes: valid answers in any packets, and nothing of what is not one."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.transport.connection import MOST_BUFFERED
from apps.transport.response import HEAD_BYTES, INTERIM_ANSWERS, Cut, ProtocolError
from apps.transport.tests.raw_server import CHUNKED, chunk, whole
from apps.transport.tests.scripted_transport import Exchange

OK = b"HTTP/1.1 200 OK\r\n"
LAST = b"0\r\n\r\n"
# bytes, status, body, and whether the connection serves again
ANSWERS = {
    "length": (whole(b"hello"), 200, b"hello", True),
    "empty": (whole(b""), 200, b"", True),
    "chunked": (CHUNKED + chunk(b"he") + chunk(b"llo") + LAST, 200, b"hello", True),
    "chunked-no-body": (CHUNKED + LAST, 200, b"", True),
    "chunk-extension": (CHUNKED + b"5;a=b\r\nhello\r\n" + LAST, 200, b"hello", True),
    "trailers": (CHUNKED + chunk(b"hello") + b"0\r\nX-A: b\r\nX-B: c\r\n\r\n", 200, b"hello", True),
    "coding-in-capitals": (OK + b"TRANSFER-ENCODING: Chunked\r\n\r\n" + chunk(b"hi") + LAST, 200, b"hi", True),
    "no-content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "not-modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b"", True),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + whole(b"hi"), 200, b"hi", True),
    "close": (whole(b"hello", b"Connection: close"), 200, b"hello", False),
    "http-1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", False),
    "http-1.0-kept": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", True),
    "offers-h2": (whole(b"hi", b"Upgrade: h2,h2c", b"Connection: Upgrade, Keep-Alive"), 200, b"hi", True),
    "no-reason": (b"HTTP/1.1 429\r\nContent-Length: 1\r\n\r\nx", 429, b"x", True),
}
UNTIL_EOF = {
    "eof": OK + b"\r\nhello",
    "eof-close": OK + b"Connection: close\r\n\r\nhello",
    "eof-1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
}
NO_ANSWERS = {
    "garbage": b"\x16\x03\x01\x02\x00garbage\r\n\r\n",
    "a-request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "html": b"<html></html>\r\n\r\n",
    "no-status": b"HTTP/1.1 OK\r\n\r\n",
    "status-of-two": b"HTTP/1.1 20 OK\r\n\r\n",
    "status-000": b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n",
    "bad-header": OK + b"no colon here\r\n\r\n",
    "nul": OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "bare-cr": OK + b"X: a\rY: b\r\nContent-Length: 0\r\n\r\n",
    "blank-before-colon": OK + b"Content-Length : 5\r\n\r\nhello",
    "two-lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length-list": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "negative-length": OK + b"Content-Length: -5\r\n\r\nhello",
    "length-and-chunks": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks-and-length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "gzip-chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked-identity": OK + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two-codings": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" + whole(b"x"),
    "101-alone": b"HTTP/1.1 101 Switching\r\n\r\n" + whole(b"x"),
    "interim-without-end": b"HTTP/1.1 100 Continue\r\n\r\n" * (INTERIM_ANSWERS + 1) + whole(b"x"),
    "long-header": OK + b"X: " + b"x" * HEAD_BYTES + b"\r\nContent-Length: 0\r\n\r\n",
    "many-headers": OK + b"X: y\r\n" * HEAD_BYTES + b"Content-Length: 0\r\n\r\n",
    "many-interim-headers": (b"HTTP/1.1 103 H\r\nX: " + b"x" * 9000 + b"\r\n\r\n") * 8 + whole(b"x"),
}
BAD_BODIES = {
    "no-size": b"\r\nhello",
    "size-no-number": b"zz\r\nhello\r\n",
    "size-too-long": b"fffffffffffffffff\r\nhello\r\n",
    "negative-size": b"-5\r\nhello\r\n",
    "longer-than-its-size": b"2\r\nhello\r\n" + LAST,
    "length-in-trailers": chunk(b"x") + b"0\r\nContent-Length: 9\r\n\r\n",
    "bare-lf": b"5\nhello\n0\n\n",
    "endless-extension": b"5;" + b"x" * (HEAD_BYTES + 1),
}
answers = pytest.mark.parametrize("name", ANSWERS)


def in_single_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


@answers
@pytest.mark.parametrize("packets", ["one", "single-bytes"])
async def test_an_answer_is_read_and_its_connection_serves_again(name: str, packets: str) -> None:
    data, status, body, again = ANSWERS[name]
    exchange = Exchange()
    exchange.feed(*([data] if packets == "one" else in_single_bytes(data)))
    assert await exchange.outcome() == (status, body)
    assert (exchange.idle, exchange.transport.closed) == ((1, False) if again else (0, True))
    if again:
        exchange.response = exchange.ask()
        exchange.feed(whole(b"the next"))
        assert await exchange.outcome() == (200, b"the next")


@given(st.sampled_from(sorted(ANSWERS)), st.data())
@settings(max_examples=300, deadline=None)
def test_any_split_of_an_answer_is_the_same_answer(name: str, data: st.DataObject) -> None:
    raw, status, body, again = ANSWERS[name]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=len(raw))))
    packets = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]

    async def read() -> None:
        exchange = Exchange().feed(*packets)
        assert await exchange.outcome() == (status, body)
        assert exchange.idle == again

    asyncio.run(read())


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20), st.data())
@settings(max_examples=200, deadline=None)
@pytest.mark.long
def test_any_chunks_in_any_packets_are_the_same_body(chunks: list[bytes], data: st.DataObject) -> None:
    raw = CHUNKED + b"".join(map(chunk, chunks)) + LAST
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=40)))

    async def read() -> None:
        exchange = Exchange()
        received = b""
        for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            exchange.feed(raw[a:b])
            if exchange.response.status and exchange.idle == 0:
                received += exchange.connection.take()
        assert received + await exchange.response.read(1, asyncio.get_running_loop().time() + 1) == b"".join(chunks)
        assert exchange.idle == 1

    asyncio.run(read())


@given(st.binary(max_size=300), st.sampled_from([b"", OK, CHUNKED, whole(b"")[:-2]]))
@settings(max_examples=500, deadline=None)
def test_whatever_comes_is_an_answer_or_a_failure_of_ours(noise: bytes, before: bytes) -> None:
    async def read() -> None:
        exchange = Exchange().feed(before, noise).end()
        outcome = await exchange.outcome()
        assert isinstance(outcome, tuple) or outcome in (Cut, ProtocolError)
        assert exchange.transport.closed

    asyncio.run(read())


@answers
async def test_an_answer_that_ends_too_early_is_never_whole(name: str) -> None:
    data = ANSWERS[name][0]
    for length in range(len(data)):
        exchange = Exchange().feed(data[:length]).end()
        assert await exchange.outcome() is Cut, data[:length]
        assert exchange.idle == 0


@pytest.mark.parametrize("name", UNTIL_EOF)
async def test_a_body_without_a_length_ends_with_its_connection(name: str) -> None:
    data = UNTIL_EOF[name]
    assert await Exchange().feed(*in_single_bytes(data)).end().outcome() == (200, b"hello")
    exchange = Exchange().feed(data).end()
    assert await exchange.outcome() == (200, b"hello")
    assert exchange.idle == 0
    assert await Exchange().feed(data).end(ConnectionResetError()).outcome() is Cut


@pytest.mark.parametrize("name", NO_ANSWERS)
@pytest.mark.parametrize("packets", ["one", "single-bytes"])
@pytest.mark.long
async def test_what_is_no_answer_is_a_protocol_error(name: str, packets: str) -> None:
    data = NO_ANSWERS[name]
    exchange = Exchange().feed(*([data] if packets == "one" else in_single_bytes(data)))
    assert await exchange.outcome() is ProtocolError
    assert (exchange.idle, exchange.transport.closed) == (0, True)


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_body_with_broken_framing_is_cut_behind_what_was_sound(name: str) -> None:
    exchange = Exchange().feed(CHUNKED + chunk(b"sound"), BAD_BODIES[name])
    ends = asyncio.get_running_loop().time() + 1
    received = await exchange.response.chunk(1, ends)
    with pytest.raises(Cut):
        while True:
            received += await exchange.response.chunk(1, ends)
    assert received.startswith(b"sound")
    assert (exchange.idle, exchange.transport.closed) == (0, True)


@pytest.mark.parametrize("trailer", [b"X: " + b"x" * HEAD_BYTES, b"X: y\r\n" * HEAD_BYTES], ids=["long", "many"])
async def test_trailers_are_bounded(trailer: bytes) -> None:
    exchange = Exchange().feed(CHUNKED, b"0\r\n")
    for at in range(0, len(trailer), 1000):
        exchange.feed(trailer[at : at + 1000])
    assert await exchange.outcome() is Cut


@answers
@pytest.mark.parametrize(
    "more", [b"x", b"HTTP/1.1 200 OK\r\n", whole(b"forged")], ids=["a-byte", "a-head", "an-answer"]
)
@pytest.mark.parametrize("together", [True, False], ids=["one-packet", "two-packets"])
@pytest.mark.long
async def test_bytes_behind_an_answer_never_reach_the_next_call(name: str, more: bytes, together: bool) -> None:
    data, status, body, _ = ANSWERS[name]
    exchange = Exchange().feed(data + more) if together else Exchange().feed(data, more)
    assert await exchange.outcome() == (status, body)
    assert exchange.transport.closed
    assert not exchange.connection.usable
    assert not together or exchange.idle == 0


async def test_bytes_before_the_first_request_make_a_connection_unusable() -> None:
    exchange = Exchange().feed(whole(b""))
    assert exchange.connection.usable
    exchange.feed(b"\r\n")
    assert not exchange.connection.usable


async def test_an_answer_to_half_a_request_is_taken_and_the_connection_is_not() -> None:
    exchange = Exchange()
    exchange.transport.unsent = 1
    exchange.feed(whole(b"too large", status=b"413 Content Too Large"))
    assert await exchange.outcome() == (413, b"too large")
    assert (exchange.idle, exchange.transport.closed) == (0, True)


async def test_reading_pauses_at_a_bound_and_goes_on_when_the_reader_does() -> None:
    exchange = Exchange().feed(CHUNKED + chunk(b"x" * MOST_BUFFERED))
    assert not exchange.transport.reading
    assert len(await exchange.response.chunk(1, 1)) == MOST_BUFFERED
    assert exchange.transport.reading


async def test_a_paused_connection_that_ends_reads_again_for_the_next_call() -> None:
    exchange = Exchange().feed(CHUNKED + chunk(b"x" * MOST_BUFFERED), LAST)
    assert exchange.idle == 1
    assert exchange.transport.reading


async def test_headers_are_found_whatever_their_case_and_trailers_are_none() -> None:
    lines = b"RETRY-after: 3\r\nX-A: 1\r\nx-a: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nRetry-After: 9\r\n\r\n"
    exchange = Exchange().feed(OK + lines)
    assert exchange.response.header(b"retry-after") == "3"
    assert exchange.response.headers == {"retry-after": "3", "x-a": "1, 2", "transfer-encoding": "chunked"}
    assert exchange.response.header(b"none") is None
