"""Pages of the list: which are read, how much of them, and over which connection."""

import asyncio
import gzip
from collections.abc import AsyncIterator

import httpx2
import pytest

from apps.agents.config import FetchConfig
from apps.agents.fetch import Fetcher
from apps.agents.tests.fetching import PUBLIC, Resolver, Wire, once, page
from apps.agents.tools import ToolContext, ToolError
from apps.core.callers import Caller


@pytest.mark.parametrize(
    ("allow", "url", "allowed"),
    [
        ((), "https://docs.example/", False),
        (("docs.example",), "https://docs.example/", True),
        (("docs.example",), "https://DOCS.example./", True),
        (("docs.example",), "https://docs.example:8443/", False),
        (("docs.example:8443",), "https://docs.example:8443/", True),
        (("docs.example:8443",), "https://docs.example/", False),
        (("docs.example",), "https://evil.example/", False),
        (("docs.example",), "https://docs.example.evil.example/", False),
        (("*.example",), "https://docs.example/", True),
        (("*.docs.example",), "https://docs.example/", False),
        (("*.docs.example",), "https://evildocs.example/", False),
    ],
)
async def test_only_what_the_list_has(allow: tuple[str, ...], url: str, allowed: bool) -> None:
    wire = Wire(lambda request: page("ok"))
    fetcher = Fetcher(FetchConfig(allow=allow), Resolver(), wire)
    if allowed:
        assert await fetcher.get(url) == "ok"
    else:
        with pytest.raises(ToolError, match="not on the list"):
            await fetcher.get(url)
        assert wire.requests == []


async def test_redirects_within_the_list_are_followed_and_out_of_it_not() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/in":
            return httpx2.Response(301, headers={"Location": "https://other.example/page"})
        if request.url.path == "/out":
            return httpx2.Response(301, headers={"Location": "https://evil.example/"})
        if request.url.path == "/loop":
            return httpx2.Response(302, headers={"Location": "/loop"})
        return page("page")

    fetcher = Fetcher(FetchConfig(allow=("docs.example", "other.example")), Resolver(), Wire(answer))
    assert await fetcher.get("https://docs.example/in") == "page"
    with pytest.raises(ToolError, match=r"evil\.example is not on the list"):
        await fetcher.get("https://docs.example/out")
    with pytest.raises(ToolError, match="Too many redirects"):
        await fetcher.get("https://docs.example/loop")


async def _endless() -> AsyncIterator[bytes]:
    while True:
        await asyncio.sleep(0)
        yield b"x" * 10_000


async def _slow() -> AsyncIterator[bytes]:
    while True:
        await asyncio.sleep(0.05)
        yield b"x"


async def test_size_time_and_kind_are_bounded() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        text = {"Content-Type": "text/plain"}
        match request.url.path:
            case "/endless":
                return httpx2.Response(200, content=_endless(), headers=text)
            case "/slow":
                return httpx2.Response(200, content=_slow(), headers=text)
            case "/picture":
                return httpx2.Response(200, content=b"x", headers={"Content-Type": "image/png"})
            case "/bomb":
                bomb = once(gzip.compress(b"0" * 10_000_000))
                return httpx2.Response(200, content=bomb, headers={**text, "Content-Encoding": "gzip"})
            case "/html":
                html = "<html><head><title>T</title></head><body><p>Hello</p><script>x()</script>&amp; you</body>"
                return page(html, "text/html")
        return httpx2.Response(404)

    fetcher = Fetcher(FetchConfig(allow=("docs.example",), seconds=0.3, bytes=20_000), Resolver(), Wire(answer))
    cut = await fetcher.get("https://docs.example/endless")
    assert cut.endswith("[cut: the page is longer than 20000 bytes]")
    assert len(cut) < 21_000
    assert await fetcher.get("https://docs.example/html") == "Hello\n& you"
    for path, words in (("/slow", "within"), ("/picture", "image/png"), ("/bomb", "compressed"), ("/no", "404")):
        with pytest.raises(ToolError, match=words):
            await fetcher.get(f"https://docs.example{path}")


async def test_a_page_is_read_over_a_real_socket_by_its_own_name() -> None:
    """The address of the checked name is mapped to this machine below the check, as a network would."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    class Network(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            assert request.url.host == PUBLIC
            request.url = request.url.copy_with(host="127.0.0.1")
            return await super().handle_async_request(request)

    async with server:
        tool = Fetcher(FetchConfig(allow=(f"docs.example:{port}",)), Resolver(), Network()).tool()
        result = await tool.invoke(ToolContext(Caller("t")), {"url": f"http://docs.example:{port}/x"})
    assert result == "hello"
    assert b"GET /x HTTP/1.1" in heard[0]
    assert f"Host: docs.example:{port}".encode() in heard[0]
