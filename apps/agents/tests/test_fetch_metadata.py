"""Metadata of clouds: reached by no address, no name and no redirect."""

from ipaddress import ip_address

import httpx2
import pytest

from apps.agents.config import FetchConfig
from apps.agents.fetch import Fetcher
from apps.agents.fetch_target import is_public
from apps.agents.tests.fetching import PUBLIC, Resolver, Wire
from apps.agents.tools import ToolError

METADATA_ADDRESSES = [
    *("169.254.169.254", "169.254.170.2", "169.254.170.23", "168.63.129.16", "100.100.100.200", "192.0.0.192"),
    *("169.254.0.23", "169.254.42.42", "161.26.0.10", "166.9.1.1", "192.80.8.124", "100.96.0.96"),
    *("fd00:ec2::254", "fd20:ce::254", "fd00:42::42", "fe80::a9fe:a9fe", "::ffff:168.63.129.16", "64:ff9b::a83f:8110"),
]
METADATA_HOSTS = ["metadata.google.internal", "metadata", "instance-data", "x.metadata.google.internal"]


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
