"""httpx over our connections: what is sent, what comes back, and its own exceptions for our failures."""

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from apps.tests.support.proxy import proxy
from apps.transport.client import Connections
from apps.transport.httpx_transport import HttpxTransport
from apps.transport.response import BadRequest, ConnectionFailed, Cut, ProtocolError
from apps.transport.tests.raw_server import CHUNKED, RawServer, Script, Talk, always, chunk, once, raw_server, whole


async def echo(talk: Talk) -> None:
    while True:
        head = await talk.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        await talk.send(whole(head + await talk.reader.readexactly(length)))


@asynccontextmanager
async def asked(script: Script, **environment: str) -> AsyncIterator[tuple[RawServer, httpx2.AsyncClient]]:
    server = await raw_server(script)
    connections = Connections(environment)
    try:
        async with httpx2.AsyncClient(transport=HttpxTransport(connections), timeout=5) as client:
            yield server, client
    finally:
        await connections.aclose()
        await server.aclose()


async def test_requests_are_the_bytes_that_they_should_be() -> None:
    async with asked(echo) as (server, client):
        got = (await client.get(f"{server.url}/a b?q=1", headers={"X-A": "1"})).text
        posted = (await client.post(f"{server.url}/x", json={"a": 1})).text
        again = (await client.post(f"{server.url}/x", content=b"")).text
        assert server.accepted == 1
    host = server.url.removeprefix("http://")
    assert got.startswith(f"GET /a%20b?q=1 HTTP/1.1\r\nHost: {host}\r\n")
    assert "x-a: 1" in got.lower()
    assert "content-length" not in got.lower()
    assert posted.startswith(f"POST /x HTTP/1.1\r\nHost: {host}\r\n")
    assert posted.endswith('\r\nContent-Length: 7\r\n\r\n{"a":1}')
    assert again.endswith("\r\nContent-Length: 0\r\n\r\n")
    assert posted.lower().count("content-length") == posted.lower().count("host: ") == 1


async def test_a_compressed_answer_is_unpacked_and_a_stream_is_streamed() -> None:
    async with asked(always(whole(gzip.compress(b"hello"), b"Content-Encoding: gzip"))) as (server, client):
        assert (await client.post(server.url, content=b"x")).text == "hello"
    async with asked(always(CHUNKED, chunk(b"he"), chunk(b"llo"), b"0\r\n\r\n")) as (server, client):
        async with client.stream("POST", server.url, content=b"x") as response:
            assert b"".join([part async for part in response.aiter_bytes()]) == b"hello"
        async with client.stream("POST", server.url, content=b"x") as response:
            assert response.status_code == 200  # and is left in the middle
        await server.until_nobody(60)


async def silent(talk: Talk) -> None:
    await talk.request()
    await talk.gone()


async def half(talk: Talk) -> None:
    await talk.request()
    await talk.send(CHUNKED + chunk(b"a"))
    await talk.gone()


@pytest.mark.parametrize(
    ("script", "raised", "cause"),
    [
        (silent, httpx2.ReadTimeout, TimeoutError),
        (half, httpx2.ReadTimeout, TimeoutError),
        (once(CHUNKED + chunk(b"a")), httpx2.ReadError, Cut),
        (once(b""), httpx2.ReadError, Cut),
        (once(b"nonsense\r\n\r\n"), httpx2.RemoteProtocolError, ProtocolError),
    ],
)
async def test_failures_are_httpxs_own(script: Script, raised: type[Exception], cause: type[Exception]) -> None:
    async with asked(script) as (server, client):
        with pytest.raises(raised) as caught:
            await client.post(server.url, content=b"x", timeout=httpx2.Timeout(5, read=0.2))
        assert isinstance(caught.value.__cause__, cause)


async def test_what_cannot_be_sent_is_httpxs_own_error_too() -> None:
    async with asked(echo) as (server, client):
        with pytest.raises(httpx2.ConnectError) as failed:
            await client.get("http://127.0.0.1:1/")
        assert isinstance(failed.value.__cause__, ConnectionFailed)
        with pytest.raises(httpx2.LocalProtocolError) as refused:
            await client.get(server.url, headers={"X": "a\r\nY: b"})
        assert isinstance(refused.value.__cause__, BadRequest)
        with pytest.raises(httpx2.UnsupportedProtocol):
            await client.head(server.url)


async def test_a_proxy_is_asked_in_absolute_form() -> None:
    with proxy() as between:
        async with asked(echo, HTTP_PROXY=between.url.replace("http://", "http://u:p@")) as (server, client):
            got = (await client.get(f"{server.url}/keys")).text
    assert between.requests() == [("GET", f"{server.url}/keys")]
    assert b"\r\nProxy-Authorization: Basic dTpw\r\n" in between.seen[0]
    assert "/keys HTTP/1.1" in got
