"""The proxies of the environment: HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, and the servers of NO_PROXY.

The lower-case name of a variable counts before the upper-case one, as in curl. A proxy's password appears in no
message, log line or repr.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from apps.transport.errors import BadRequest, ConnectionFailed
from apps.transport.origin import Origin

SEPARATORS = re.compile(r"[\s,]+")


@dataclass(frozen=True, slots=True)
class Proxy:
    """``authorization`` is the value of Proxy-Authorization, empty where the address has no credentials."""

    origin: Origin
    authorization: str = field(repr=False)


class Proxies:
    """Chooses the proxy of a server by the variables of an environment, read once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._variables = {name: _value(environment, name) for name in ("http_proxy", "https_proxy", "all_proxy")}
        if "REQUEST_METHOD" in environment:
            # a CGI program gets HTTP_PROXY from its caller's Proxy header
            self._variables["http_proxy"] = environment.get("http_proxy", "")
        self._bypassed = [entry for entry in SEPARATORS.split(_value(environment, "no_proxy")) if entry]

    def of(self, server: Origin) -> Proxy | None:
        """The proxy of a server; None where it is called directly. Raises ConnectionFailed for an unusable one."""
        own = "https_proxy" if server.secure else "http_proxy"
        name = own if self._variables[own] else "all_proxy"
        address = self._variables[name]
        if not address or any(_names(entry, server) for entry in self._bypassed):
            return None
        address = address if "://" in address else f"http://{address}"
        try:
            origin = Origin.of(address)
        except BadRequest:
            scheme = address.partition("://")[0]
            kind = "a proxy of a kind that is not supported" if scheme not in ("http", "https") else "not an address"
            raise ConnectionFailed(f"{name.upper()} is {kind}: http:// and https:// are") from None
        return Proxy(origin, origin.credentials)


def _value(environment: Mapping[str, str], name: str) -> str:
    return (environment.get(name) or environment.get(name.upper()) or "").strip()


def _names(entry: str, server: Origin) -> bool:
    """Whether an entry of NO_PROXY names a server: ``*``, a domain, an address or a network, each with a port or not.

    A domain names its subdomains too.
    """
    if entry == "*":
        return True
    entry = (entry.partition("://")[2] or entry).rstrip("/")
    host, port = _split(entry)
    if port is not None and port != server.port:
        return False
    try:
        network = ipaddress.ip_network(host, strict=False)
    except ValueError:
        domain = host.lower().removeprefix("*").strip(".")
        return bool(domain) and (server.host == domain or server.host.endswith(f".{domain}"))
    try:
        address = ipaddress.ip_address(server.host)
    except ValueError:
        return False
    return address in network


def _split(entry: str) -> tuple[str, int | None]:
    """Host and port; an IPv6 address has a port only behind brackets."""
    if entry.count(":") > 1 and not entry.startswith("["):
        return entry, None
    try:
        parts = urlsplit(f"//{entry}")
        port = parts.port
    except ValueError:
        return entry, None
    if "/" in entry:
        return entry.replace("[", "").replace("]", ""), None
    return parts.hostname or "", port
