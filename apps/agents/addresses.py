"""Which addresses may be connected to for a stranger: those of the public internet, in whatever form they come."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

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
