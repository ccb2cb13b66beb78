"""Opens connections: to one of a name's addresses, directly or through a proxy, with TLS where it is asked for.

Addresses are tried a quarter of a second apart, and the first that answers wins (RFC 8305). asyncio can do that by
itself, but loses a socket when it is cancelled at the wrong moment, and uvloop cannot.

Proxies are the environment's: HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, except for the servers of NO_PROXY. The lower-case
name of a variable counts before the upper-case one, as in curl. A proxy's password appears in no message, log line or
repr. Servers are checked against the certificates of SSL_CERT_FILE and SSL_CERT_DIR, else those of the system.
"""

import asyncio
import ipaddress
import logging
import platform
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from apps.transport.connection import Connection
from apps.transport.origin import Origin, lines
from apps.transport.response import BadRequest, ConnectionFailed

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
        if server.socket:
            return None
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


HEAD_START = 0.25
TUNNEL_HEAD_BYTES = 65_536
HEAD_END = b"\r\n\r\n"
# family, type, protocol, canonical name, address
Info = tuple[Any, Any, int, str, Any]
TlsContext = Callable[[], ssl.SSLContext]
log = logging.getLogger(__name__)


async def open_connection(connection: Connection, server: Origin, proxy: Proxy | None, tls: TlsContext) -> None:
    """Connect ``connection`` to the server. Raises ConnectionFailed and OSError; the log names a refused certificate.

    A plain server behind a proxy is asked through it (absolute form), a secure one by a tunnel (CONNECT, RFC 9110
    9.3.6).
    """
    if proxy is None or not server.secure:
        await _create(connection, proxy.origin if proxy is not None else server, tls)
        return
    loop = asyncio.get_running_loop()
    tunnel = Tunnel(server, proxy)
    try:
        transport = await _create(tunnel, proxy.origin, tls)
        await tunnel.opened
        secured = await _named(server, loop.start_tls(transport, connection, tls(), server_hostname=server.host))
    except BaseException:
        tunnel.abort()
        raise
    connection.connection_made(cast(asyncio.BaseTransport, secured))


async def _create(protocol: asyncio.BaseProtocol, server: Origin, tls: TlsContext) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    if server.socket:
        return await _over_unix_socket(protocol, server.socket)
    secure: dict[str, Any] = {"ssl": tls(), "server_hostname": server.host} if server.secure else {}
    connected = await dial(server.host, server.port)
    # from here on it is the transport's, which closes it if this is cancelled
    transport, _ = await _named(server, loop.create_connection(lambda: protocol, sock=connected, **secure))
    return cast(asyncio.Transport, transport)


async def _over_unix_socket(protocol: asyncio.BaseProtocol, path: str) -> asyncio.Transport:
    """Raises OSError where no process listens, and ConnectionFailed where this system has no such sockets."""
    if not hasattr(socket, "AF_UNIX"):
        raise ConnectionFailed("This system has no Unix sockets")
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_unix_connection(lambda: protocol, path)
    return transport


async def _named(server: Origin, handshake: Any) -> Any:
    """Await a handshake; where it fails, the log says with which server and why."""
    try:
        return await handshake
    except ssl.SSLCertVerificationError as error:
        log.warning("The certificate of %s was refused: %s", server.authority, error.verify_message or error.reason)
        raise
    except ssl.SSLError as error:
        log.warning("No TLS with %s: %s", server.authority, error.reason)
        raise


class Tunnel(asyncio.Protocol):
    """Asks a proxy for a connection to a server; ``opened`` is done once its bytes are the server's."""

    def __init__(self, server: Origin, proxy: Proxy) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._proxy = proxy
        # a tunnel's target has its port, the default one too
        target = f"{server.authority_host}:{server.port}"
        headers = {"Host": target}
        if proxy.authorization:
            headers["Proxy-Authorization"] = proxy.authorization
        self._request = f"CONNECT {target} HTTP/1.1\r\n".encode("ascii") + lines(headers) + b"\r\n"
        self._head = b""
        self._transport: asyncio.Transport | None = None

    def abort(self) -> None:
        """Close the connection to the proxy at once."""
        if not self.opened.cancel() and not self.opened.cancelled():
            self.opened.exception()  # it has been looked at
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._head += data
        head, end, rest = self._head.partition(HEAD_END)
        if not end and len(self._head) <= TUNNEL_HEAD_BYTES:
            return
        version, _, status = head.partition(b"\r\n")[0].partition(b" ")
        if end and version.startswith(b"HTTP/1.") and status[:1] == b"2" and not rest:
            self._end(None)
            return
        status_code = status[:3].decode("ascii", "replace") if status[:3].isdigit() else "no HTTP"
        log.warning("The proxy %s refused a connection: it answered %s", self._proxy.origin.authority, status_code)
        self._end(ConnectionFailed("The proxy refused the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionFailed("The proxy closed the connection"))

    def _end(self, failure: ConnectionFailed | None) -> None:
        if self.opened.done():
            return
        if failure is None:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(failure)


async def dial(host: str, port: int) -> socket.socket:
    """A connected socket. Raises OSError where no address of the name can be reached."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await (connect(infos[0]) if len(infos) == 1 else first_connected(infos))


async def first_connected(infos: Sequence[Info]) -> socket.socket:
    """The socket of the first address that answers; the others are closed, whatever happens."""
    running: set[asyncio.Task[socket.socket]] = set()
    winner: asyncio.Task[socket.socket] | None = None
    failure: BaseException = OSError("The name has no address")
    left = list(reversed(infos))
    try:
        while left or running:
            if left:
                running.add(asyncio.create_task(connect(left.pop())))
            done, _ = await asyncio.wait(
                running, timeout=HEAD_START if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if (error := task.exception()) is None:
                    winner = task
                    return task.result()
                failure = error
                running.discard(task)
        raise failure
    finally:
        for task in running:
            if task is not winner:
                task.add_done_callback(_close)
                task.cancel()


async def connect(info: Info) -> socket.socket:
    """A socket connected to one address. Raises OSError."""
    family, kind, protocol, _, address = info
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(made, address)
    except BaseException:
        made.close()
        raise
    return made


def _close(task: "asyncio.Task[socket.socket]") -> None:
    """Close a socket that is not needed; its task may have ended before it was cancelled."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


CERT_FILE, CERT_DIR = "SSL_CERT_FILE", "SSL_CERT_DIR"


def client_context(environment: Mapping[str, str]) -> ssl.SSLContext:
    """A context for clients. Raises ConnectionFailed where a variable names nothing that can be read."""
    file, folder = environment.get(CERT_FILE), environment.get(CERT_DIR)
    if not file and not folder:
        context = _system_context()
    else:
        # OpenSSL takes a folder that is not there for one that is empty
        if folder and not Path(folder).is_dir():
            raise ConnectionFailed(f"{CERT_DIR} is not a folder")
        try:
            context = ssl.create_default_context(cafile=file or None, capath=folder or None)
        except OSError as error:  # an SSLError is one, too
            raise ConnectionFailed(f"{CERT_FILE} is not a file of certificates") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def _system_context() -> ssl.SSLContext:
    if platform.system() in ("Windows", "Darwin"):
        import truststore  # asks the system itself, whose store OpenSSL cannot read there

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return ssl.create_default_context()
