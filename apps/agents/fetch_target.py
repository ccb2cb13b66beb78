"""Which addresses may be connected to for a stranger: those of the public internet, in whatever form they come.

From a URL that a model wrote to an address that may be connected to: the only way there.

The name is resolved once, every address of it is checked, and the connection goes to one that was checked: whatever
the name means a moment later, it is not asked again.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from apps.agents.tools import ToolError

Address = IPv4Address | IPv6Address

# beside what Python's own is_global knows; some Pythons take parts of these for public
REFUSED_V4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
# what a cloud answers its own machines from: credentials, their configuration. Most lie where nothing public does
# (link-local, shared and unique local addresses) and are refused as such; all are written down, so that a change of
# those rules loses none, and those that look public are refused here alone
METADATA = [
    ip_network(network)
    for network in (
        "169.254.169.254",  # AWS, Google, Azure, Oracle, IBM, DigitalOcean, Hetzner, OpenStack, Linode, Vultr and more
        "169.254.170.2",  # AWS: roles of ECS tasks
        "169.254.170.23",  # AWS: roles of EKS pods
        "fd00:ec2::254",  # AWS over IPv6
        "fd00:ec2::23",  # AWS: roles of EKS pods over IPv6
        "fd20:ce::254",  # Google over IPv6
        "168.63.129.16",  # Azure: the wire server, whose address is a public one
        "100.100.100.200",  # Alibaba
        "100.96.0.96",  # Volcano Engine
        "192.0.0.192",  # Oracle, the older form
        "169.254.0.23",  # Tencent
        "169.254.10.10",  # Tencent
        "169.254.42.42",  # Scaleway
        "fd00:42::42",  # Scaleway over IPv6
        "fd00:a9fe:a9fe::1",  # Linode over IPv6
        "fe80::a9fe:a9fe",  # OpenStack over IPv6
        "161.26.0.0/16",  # IBM: its services' own network, public by its looks
        "166.8.0.0/14",  # IBM: its services' own network, public by its looks
        "192.80.8.124",  # Equinix Metal
    )
]
# names that resolve to them inside of a cloud; a resolver that lies about the address meets the list above
METADATA_NAMES = re.compile(
    r"(.+\.)?(metadata|instance-data|metadata\.google|metadata\.goog|metadata\.azure|metadata\.platformequinix\.com"
    r"|metadata\.packet\.net|metadata\.tencentyun\.com)(\.internal)?"
)
# only this part of IPv6 is routed; what lies outside of it are loopback, link-local, ULA, multicast, NAT64, mapped IPv4
PUBLIC_V6 = IPv6Network("2000::/3")
REFUSED_V6 = [
    IPv6Network(network)
    # Teredo and other protocol assignments, documentation, 6to4, documentation
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]
# ISATAP: the last 32 bits are an IPv4 address that a router may hand the packet on to
ISATAP = (0x00005EFE, 0x02005EFE)


def is_public(address: Address) -> bool:
    """Whether a connection to this address leaves for the public internet, and goes nowhere else."""
    if any(address in network for network in METADATA):
        return False
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in REFUSED_V4)
    if address not in PUBLIC_V6 or any(address in network for network in REFUSED_V6):
        return False
    return address.is_global and (int(address) >> 32) & 0xFFFFFFFF not in ISATAP


def literal(host: str) -> Address | None:
    """The address that a URL's host is; None for a name. Raises ValueError for a number in any other form.

    ``127.1``, ``0x7f000001`` and ``2130706433`` are addresses too to a resolver: what ends in a number is an address
    (so the URL standard), and only the plain form of one is taken.
    """
    if ":" in host:
        if "%" in host:
            raise ValueError("a zone")
        return IPv6Address(host)
    last = host.rstrip(".").rpartition(".")[2]
    if last.isdigit() or last[:2].lower() == "0x":
        return IPv4Address(host)
    return None


def parsed(text: str) -> Address:
    """An address as a resolver tells it."""
    return ip_address(text.partition("%")[0])


Resolve = Callable[[str, int], Awaitable[list[str]]]

LONGEST_URL = 2000
PORTS = {"http": 80, "https": 443}
NAME = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
REFUSED = re.compile(r"[\x00-\x20\x7f-\xa0\\]")


@dataclass(frozen=True, slots=True)
class FetchTarget:
    """``host`` is for the Host header and for TLS, ``address`` is what is connected to."""

    scheme: str
    host: str
    port: int
    path: str
    address: Address

    @property
    def pinned_url(self) -> str:
        written = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{self.scheme}://{written}:{self.port}{self.path}"

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.path}"


async def system_resolver(host: str, port: int) -> list[str]:
    """The addresses of a name, as this machine resolves it."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [str(entry[4][0]) for entry in found]


async def fetch_target(url: str, allow: Iterable[str], resolve: Resolve) -> FetchTarget:
    """Raises ToolError, which tells the model why not, but never what an inner name resolves to."""
    scheme, host, port, path = _taken_apart(url)
    try:
        address = literal(host)
    except ValueError:
        raise ToolError("The host of that URL is no proper name or address") from None
    if address is None and not NAME.fullmatch(host):
        raise ToolError("The host of that URL is no proper name or address")
    if not _listed(host, port, scheme, allow):
        raise ToolError(f"{host} is not on the list of hosts that may be fetched")
    if METADATA_NAMES.fullmatch(host):
        raise ToolError(f"{host} does not lie on the public internet")
    addresses = [address] if address is not None else _read(await resolve(host, port))
    if not addresses:
        raise ToolError(f"{host} has no address")
    if not all(map(is_public, addresses)):
        raise ToolError(f"{host} does not lie on the public internet")
    # IPv4 first: machines without a way to IPv6 are common, and hosts without IPv4 are not
    return FetchTarget(scheme, host, port, path, min(addresses, key=lambda address: address.version))


def _taken_apart(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port, and path with query. Parsers differ in what they make of odd URLs: odd ones are refused."""
    if len(url) > LONGEST_URL or REFUSED.search(url):
        raise ToolError("That is no proper URL")
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname or "", parts.port
    except ValueError:
        raise ToolError("That is no proper URL") from None
    if scheme not in PORTS:
        raise ToolError("Only http and https can be fetched")
    if "@" in parts.netloc or not host:
        raise ToolError("That is no proper URL")
    if port == 0:
        raise ToolError("That is no proper URL")
    try:
        # also turns the digits and dots of other scripts into plain ones, as every client does
        host = host.lower() if host.isascii() else host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise ToolError("The host of that URL is no proper name or address") from None
    path = parts.path or "/"
    if not path.startswith("/"):
        raise ToolError("That is no proper URL")
    query = f"?{parts.query}" if parts.query else ""
    return scheme, host.rstrip("."), port or PORTS[scheme], path + query


def _listed(host: str, port: int, scheme: str, allow: Iterable[str]) -> bool:
    written = f"[{host}]" if ":" in host else host
    usual = port == PORTS[scheme]
    for entry in allow:
        name, _, listed_port = entry.rpartition(":") if re.search(r":\d+$", entry) else (entry, "", "")
        if (listed_port == str(port)) if listed_port else usual:
            if name == "*" or name == written:
                return True
            if name.startswith("*.") and written.endswith(name[1:]):
                return True
    return False


def _read(found: Iterable[str]) -> list[Address]:
    try:
        return [parsed(address) for address in found]
    except ValueError:
        raise ToolError("The host of that URL has no proper address") from None
