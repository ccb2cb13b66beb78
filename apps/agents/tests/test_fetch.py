"""Fetching: sixty ways to a forbidden address lead to no connection, and pages of the list are read within bounds."""

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_address

import httpx2
import pytest

from apps.agents.config import FetchConfig
from apps.agents.fetch import Fetcher
from apps.agents.fetch_target import is_public
from apps.agents.tools import ToolContext, ToolError
from apps.core.callers import Caller

PUBLIC = "93.184.216.34"
LITERALS = [
    "http://127.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.0.0.1:{port}/",
    "http://0x7f.1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://017700000001:{port}/",
    "http://0177.0x0.0.1:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://00000.0:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST.:{port}/",
    "http://[::1]:{port}/",
    "http://[::]:{port}/",
    "http://[0:0:0:0:0:0:0:1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://[64:ff9b::127.0.0.1]:{port}/",
    "http://[64:ff9b:1::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[2001:0:7f00:1::]:{port}/",
    "http://[2600:1f18::5efe:7f00:1]:{port}/",
    "http://[fe80::1%25lo]:{port}/",
    "http://[fc00::1]:{port}/",
    "http://[fec0::1]:{port}/",
    "http://[ff02::1]:{port}/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.64.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://198.18.0.1/",
    "http://192.0.0.1/",
    "http://192.88.99.1/",
    "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460:{port}/",
    "http://127\u30020\u30020\u30021:{port}/",
    "http://%31%32%37.0.0.1:{port}/",
    "http://good.example@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@good.example/",
    "http://good.example:80@127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@good.example/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/_x",
    "http://127.0.0.1:{port}\r\nHost: good.example/",
]
# what the test's own resolver says of a name
NAMES = {
    "loopback.example": ["127.0.0.1"],
    "metadata.example": ["169.254.169.254"],
    "mixed.example": [PUBLIC, "127.0.0.1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "zone.example": ["fe80::1%lo"],
    "azure.example": ["168.63.129.16"],
    "ibm.example": [PUBLIC, "161.26.0.10"],
    "nothing.example": [],
}
METADATA_ADDRESSES = [
    *("169.254.169.254", "169.254.170.2", "169.254.170.23", "168.63.129.16", "100.100.100.200", "192.0.0.192"),
    *("169.254.0.23", "169.254.42.42", "161.26.0.10", "166.9.1.1", "192.80.8.124", "100.96.0.96"),
    *("fd00:ec2::254", "fd20:ce::254", "fd00:42::42", "fe80::a9fe:a9fe", "::ffff:168.63.129.16", "64:ff9b::a83f:8110"),
]
METADATA_HOSTS = ["metadata.google.internal", "metadata", "instance-data", "x.metadata.google.internal"]
REDIRECTS = [
    "http://127.0.0.1:{port}/",
    "http://168.63.129.16/",
    "http://azure.example/",
    "http://rebinds.example:{port}/",
    "//127.1:{port}/",
    "http://[::1]:{port}/",
]


class Resolver:
    """Answers from a table; ``rebinds.example`` is public once, and this machine from then on."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host == "rebinds.example":
            return [PUBLIC] if self.asked.count(host) == 1 else ["127.0.0.1"]
        if host in NAMES:
            return NAMES[host]
        if host.endswith("localhost"):
            return ["127.0.0.1"]
        return [PUBLIC]


class Wire(httpx2.AsyncBaseTransport):
    """Notes which address is connected to; the pages are the test's own."""

    def __init__(self, answer: Callable[[httpx2.Request], httpx2.Response]) -> None:
        self.requests: list[httpx2.Request] = []
        self._answer = answer

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self._answer(request)


@pytest.fixture
def canary() -> Iterator[tuple[int, list[int]]]:
    """A port of this machine, and who has connected to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener.getsockname()[1], _Connections(listener)


class _Connections(list[int]):
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def __len__(self) -> int:
        try:
            self._listener.accept()
        except BlockingIOError:
            return 0
        return 1


CASES = [*LITERALS, *(f"http://{name}:{{port}}/" for name in NAMES)]


def test_there_are_sixty_and_more() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("url", CASES)
async def test_no_connection_to_a_forbidden_address(url: str, canary: tuple[int, list[int]]) -> None:
    """Over the real transport, and with a list that would allow every host and every port."""
    port, connections = canary
    resolver = Resolver()
    fetcher = Fetcher(FetchConfig(allow=("*", f"*:{port}"), seconds=3), resolver)
    with pytest.raises(ToolError) as raised:
        await fetcher.get(url.format(port=port))
    assert not len(connections)
    told = str(raised.value)
    assert not any(address in told for name, found in NAMES.items() if name in url for address in found)


@pytest.mark.parametrize("location", REDIRECTS)
async def test_no_redirect_leads_to_a_forbidden_address(location: str, canary: tuple[int, list[int]]) -> None:
    port, connections = canary
    onward = location.format(port=port)
    wire = Wire(lambda request: httpx2.Response(302, headers={"Location": onward}))
    resolver = Resolver()
    await resolver("rebinds.example", 80)
    with pytest.raises(ToolError):
        await Fetcher(FetchConfig(allow=("*", f"*:{port}")), resolver, wire).get("http://good.example/")
    assert [request.url.host for request in wire.requests] == [PUBLIC]
    assert not len(connections)


async def test_a_name_that_rebinds_is_connected_to_where_it_was_checked() -> None:
    wire = Wire(lambda request: page("hello"))
    resolver = Resolver()
    assert await Fetcher(FetchConfig(allow=("*",)), resolver, wire).get("https://rebinds.example/a?b=1") == "hello"
    (request,) = wire.requests
    assert (str(request.url), request.headers["host"]) == (f"https://{PUBLIC}/a?b=1", "rebinds.example")
    assert request.extensions["sni_hostname"] == "rebinds.example"
    assert resolver.asked == ["rebinds.example"]


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


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def page(text: str, kind: str = "text/plain") -> httpx2.Response:
    """As it comes off a wire: not read yet."""
    return httpx2.Response(200, content=_once(text.encode()), headers={"Content-Type": kind})


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
                bomb = _once(gzip.compress(b"0" * 10_000_000))
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
    started = time.perf_counter()
    for path, words in (("/slow", "within"), ("/picture", "image/png"), ("/bomb", "compressed"), ("/no", "404")):
        with pytest.raises(ToolError, match=words):
            await fetcher.get(f"https://docs.example{path}")
    assert time.perf_counter() - started < 60


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


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ip_address(address))


class Table:
    """Resolves every name to the one address."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def __call__(self, host: str, port: int) -> list[str]:
        return [self._address]


@pytest.mark.parametrize("address", METADATA_ADDRESSES)
async def test_no_clouds_metadata_is_reached_by_address_by_name_or_by_redirect(address: str) -> None:
    written = f"[{address}]" if ":" in address else address
    assert not is_public(ip_address(address))
    for url, resolver in ((f"http://{written}/latest/", Resolver()), ("http://any.example/", Table(address))):
        wire = Wire(lambda request: httpx2.Response(200, text="a secret"))
        with pytest.raises(ToolError):
            await Fetcher(FetchConfig(allow=("*",)), resolver, wire).get(url)
        assert wire.requests == []
    wire = Wire(lambda request: httpx2.Response(307, headers={"Location": f"http://{written}/latest/"}))
    with pytest.raises(ToolError):
        await Fetcher(FetchConfig(allow=("*",)), Resolver(), wire).get("http://good.example/")
    assert len(wire.requests) == 1


@pytest.mark.parametrize("host", METADATA_HOSTS)
async def test_the_names_of_metadata_are_refused_whatever_they_resolve_to(host: str) -> None:
    wire = Wire(lambda request: httpx2.Response(200, text="a secret"))
    with pytest.raises(ToolError):
        await Fetcher(FetchConfig(allow=("*",)), Table(PUBLIC), wire).get(f"http://{host}/")
    assert wire.requests == []
