"""Where the server listens, and what a connection may do before and around its requests.

It listens at an address, on a Unix socket or on a socket that is open already, and says so. Then: the limits, who is
connected, and whom they closed. The protocol of `server.py` asks here when a connection opens; once a tick every open
connection is checked against the clock. One timer for all of them costs a request nothing, where a timer of its own
would be made and cancelled twice.
"""

import asyncio
import errno
import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Literal, Protocol

from apps.core.ports import Observation
from apps.core.process import NAME, VERSION
from apps.core.settings import Settings

BACKLOG = 2048


def listener_of(settings: Settings) -> socket.socket:
    """The socket of the settings: one that is open already, a Unix socket, or an address."""
    if settings.api_fd is not None:
        return socket.socket(fileno=settings.api_fd)
    return listen_unix(settings.api_uds) if settings.api_uds else listen(settings.api_host, settings.api_port)


def listen_unix(path: Path) -> socket.socket:
    """Bind a Unix socket that its owner alone may open. Exits with one line where another process listens there."""
    if not hasattr(socket, "AF_UNIX"):
        sys.exit("API_UDS: this system has no Unix sockets")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        if path.is_socket() and not _is_listened_on(path):
            path.unlink()
        listener.bind(str(path))
    except OSError as error:
        sys.exit(f"{path} cannot be listened on ({str(error.strerror or error).lower()})")
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    listener.set_inheritable(True)
    return listener


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def listen(host: str, port: int) -> socket.socket:
    """Bind an address. Exits with one line where it is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        advice = ": stop what uses it, or choose another port with API_PORT" if error.errno == errno.EADDRINUSE else ""
        sys.exit(f"{host}:{port} cannot be listened on ({str(error.strerror).lower()}){advice}")
    listener.set_inheritable(True)
    return listener


def greeting(settings: Settings, listener: socket.socket) -> str:
    """The banner; where there is no page to open, one line that says what listens where."""
    name = listener.getsockname()
    where = name if isinstance(name, str) else f"{name[0]}:{name[1]}"
    if settings.serve_role == "model":
        return f"{NAME} {VERSION} serves {settings.local_model} to a fleet on {where}"
    return f"{NAME} {VERSION} listens on {where}" if isinstance(name, str) else banner(settings, name[1])


def banner(settings: Settings, port: int) -> str:
    """What a person at the terminal wants to know: addresses, models, whether keys are asked for."""
    host = "localhost" if settings.api_host in ("0.0.0.0", "::") else settings.api_host  # noqa: S104 - compared
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    console = f"  console  {address}/\n" if settings.console == "on" else ""
    keys = {"off": "off", "on": "on"}.get(settings.auth, "off until the first key is made")
    return (
        f"\n{NAME} {VERSION}\n{console}  docs     {address}/docs\n  OpenAI   {address}/v1\n"
        f"  local    {settings.local_model}, loading (see {address}/ready)\n  keys     {keys}\n"
    )


if sys.platform != "win32":
    import resource

STATE_KEY = "connections"
"""The name in the lifespan's state, which is how the server hands this to its protocol."""

Reason = Literal[
    "head_too_large",
    "too_many_headers",
    "head_timeout",
    "body_too_slow",
    "idle",
    "malformed",
    "unknown_method",
    "pipelined",
    "stalled_reader",
    "body_after_answer",
    "address_limit",
    "descriptors",
]
WHY: dict[Reason, str] = {
    "head_too_large": "the head of a request, or its trailers, are over MAX_HEAD_BYTES",
    "too_many_headers": "a request has more than MAX_HEADERS headers",
    "head_timeout": "a request's head was not there within HEAD_TIMEOUT",
    "body_too_slow": "a request's body comes slower than MIN_BODY_RATE",
    "idle": "no request within IDLE_TIMEOUT",
    "malformed": "what came is not HTTP/1.1",
    "unknown_method": "the method is not one of HTTP's",
    "pipelined": "more than MAX_PIPELINED requests wait for their answers",
    "stalled_reader": "the client has read nothing for STALLED_AFTER",
    "body_after_answer": "the rest of a body that was answered already did not come within DRAIN_TIMEOUT",
    "address_limit": "the address has MAX_CONNECTIONS_PER_ADDRESS connections",
    "descriptors": "the process is about to run out of file descriptors; what is left is for health checks",
}
# what ordinary clients do all day: the log has it where so many did at once
UNREMARKABLE: frozenset[Reason] = frozenset({"idle"})
REMARKABLE_AT_ONCE = 20

SHORTEST_TICK = 0.02
LONGEST_TICK = 1.0
TICKS_A_TIMEOUT = 8
MOST_DESCRIPTORS = 2**16

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Sizes in bytes, times in seconds, rates in bytes a second; see the settings of the same names."""

    head_bytes: int = 65_536
    headers: int = 100
    head_seconds: float = 10.0
    body_grace: float = 10.0
    body_rate: int = 1024
    idle_seconds: float = 30.0
    drain_seconds: float = 5.0
    stalled_seconds: float = 60.0
    pipelined: int = 32
    an_address: int = 512
    reserved_descriptors: int = 32
    trusted: Sequence[str] = ()

    @classmethod
    def of(cls, settings: Settings) -> "ConnectionLimits":
        return cls(
            head_bytes=settings.max_head_bytes,
            headers=settings.max_headers,
            head_seconds=settings.head_timeout,
            body_grace=settings.body_grace,
            body_rate=settings.min_body_rate,
            idle_seconds=settings.idle_timeout,
            drain_seconds=settings.drain_timeout,
            stalled_seconds=settings.stalled_after,
            pipelined=settings.max_pipelined,
            an_address=settings.max_connections_per_address,
            reserved_descriptors=settings.reserved_descriptors,
            trusted=tuple(settings.forwarded_allow_ips),
        )

    def tick(self) -> float:
        """Seconds between two looks at the clock: an eighth of the shortest timeout, a second at most."""
        shortest = min(self.head_seconds, self.body_grace, self.idle_seconds, self.drain_seconds, self.stalled_seconds)
        return min(LONGEST_TICK, max(SHORTEST_TICK, shortest / TICKS_A_TIMEOUT))


class Connection(Protocol):
    """What is checked: the protocol of one connection."""

    def check(self, now: float) -> None:
        """Close it where a timeout of its own has passed; ``now`` is of the loop's clock."""

    def abort(self) -> None:
        """Close it at once."""


class Connections:
    """An Observed: every open connection of the server, and how many were closed for which reason."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.open: set[Connection] = set()
        self.closed: Counter[Reason] = Counter()
        self._addresses: Counter[str] = Counter()
        self._counted: dict[Connection, str] = {}
        self._reserved: dict[Connection, None] = {}
        self._trusted = Networks(limits.trusted)
        self._first_reserved = float("inf")
        self._unsaid: dict[Reason, tuple[int, str]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Check all connections of the running loop once a tick, for the length of the block."""
        loop = asyncio.get_running_loop()
        self._first_reserved = _descriptors() - self.limits.reserved_descriptors
        self._wait(loop)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self.say()

    def opened(self, connection: Connection, host: str | None, descriptor: int) -> Reason | None:
        """Take a new connection in; the reason why it may not be served, or only by what needs no more than a moment.

        ``descriptor`` is its file descriptor: the system gives the lowest that is free, so the number tells how many
        are in use.
        """
        self.open.add(connection)
        if descriptor >= self._first_reserved:
            self._reserve(connection)
            return "descriptors"
        if host is None or not self.limits.an_address or self._trusted.hold(host):
            return None
        address = _counted_as(host)
        self._addresses[address] += 1
        self._counted[connection] = address
        return "address_limit" if self._addresses[address] > self.limits.an_address else None

    def lost(self, connection: Connection) -> None:
        """The connection is over, ended by either side."""
        self.open.discard(connection)
        self._reserved.pop(connection, None)
        address = self._counted.pop(connection, None)
        if address is not None:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    def note(self, reason: Reason, host: str | None) -> None:
        """Count a connection that is closed for ``reason``; the log says it within a tick, one line a reason."""
        self.closed[reason] += 1
        count, _ = self._unsaid.get(reason, (0, ""))
        self._unsaid[reason] = (count + 1, host or "a local socket")

    def observations(self) -> Iterable[Observation]:
        yield Observation("genai_connections", "Connections of clients that are open", float(len(self.open)))
        for reason in WHY:
            yield Observation(
                "genai_connections_closed_total",
                "Connections that a limit of the server closed, or whose request it refused",
                float(self.closed[reason]),
                "counter",
                {"reason": reason},
            )

    def _reserve(self, connection: Connection) -> None:
        """The oldest makes room: a health check takes a moment, and one that stays longer is none."""
        self._reserved[connection] = None
        if len(self._reserved) > max(1, self.limits.reserved_descriptors // 2):
            oldest = next(iter(self._reserved))
            del self._reserved[oldest]
            oldest.abort()

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self.limits.tick(), self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in tuple(self.open):
            connection.check(now)
        self.say()
        self._wait(loop)

    def say(self) -> None:
        """Write one line for each reason that there was since the last time."""
        unsaid, self._unsaid = self._unsaid, {}
        for reason, (count, host) in unsaid.items():
            if reason in UNREMARKABLE and count < REMARKABLE_AT_ONCE:
                continue
            log.warning("Closed %d connection(s), the last of %s: %s", count, host, WHY[reason])


class Networks:
    """Addresses and networks, ``*`` for all of them."""

    def __init__(self, listed: Iterable[str]) -> None:
        listed = tuple(listed)
        self._all = "*" in listed
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in listed:
            try:
                self._networks.append(ip_network(entry, strict=False))
            except ValueError:
                # a name, or the path of a socket: no address is one of those
                continue

    def hold(self, host: str) -> bool:
        if self._all or not self._networks:
            return self._all
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _counted_as(host: str) -> str:
    """One client has a whole network of IPv6 addresses: they count together."""
    if ":" not in host:
        return host
    address = IPv6Address(host.partition("%")[0])
    return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))


def raise_descriptor_limit() -> None:
    """Take as many file descriptors as the system gives without asking: the default is made for terminals."""
    if sys.platform == "win32":  # it counts no descriptors
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _descriptors() -> float:
    """How many file descriptors this process may have open."""
    if sys.platform == "win32":
        return float("inf")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft
