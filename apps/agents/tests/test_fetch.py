"""Fetching: sixty ways to a forbidden address lead to no connection, and pages of the list are read within bounds."""

import socket
from collections.abc import Iterator
from ipaddress import ip_address

import httpx2
import pytest

from apps.agents.config import FetchConfig
from apps.agents.fetch import Fetcher
from apps.agents.fetch_target import is_public
from apps.agents.tests.fetching import NAMES, PUBLIC, Resolver, Wire, page
from apps.agents.tools import ToolError

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
REDIRECTS = [
    "http://127.0.0.1:{port}/",
    "http://168.63.129.16/",
    "http://azure.example/",
    "http://rebinds.example:{port}/",
    "//127.1:{port}/",
    "http://[::1]:{port}/",
]


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


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ip_address(address))
