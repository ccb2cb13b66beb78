"""`genai drill`: small, bounded attacks on a running service, each with what a service has to do about it."""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Literal
from urllib.parse import urlsplit

import httpx2
import typer

from apps.cli.remote import FAILED, URL, CommandFailure, Json, Key, Service, Url, print_json, print_table

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0
"""After this an attack that is still served has not been stopped."""
MOST_BYTES = 4 << 20
"""The most that one attack sends."""
CONNECTIONS = 50
DEEP = 5_000
Attack = Callable[["Target"], str]
Status = Literal["ok", "fault", "not tried"]


@dataclass(frozen=True, slots=True)
class Target:
    """A service, and the seconds within which it has to serve others meanwhile."""

    url: str
    key: str = ""
    within: float = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attack did, what the service did, and how long it took."""

    attack: str
    status: Status
    found: str
    seconds: float


class Peer:
    """A socket to the service, for bytes that no HTTP client sends."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        self.host = host.encode()
        plain = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
        secure = parts.scheme == "https"
        self._socket = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
        self._socket.settimeout(ANSWER_SECONDS)

    def send(self, data: bytes) -> bool:
        """Returns whether the service took it; not where it has closed the connection."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def flood(self, piece: bytes) -> int:
        """Send the piece again and again until the service closes or the budget is spent; returns the bytes sent."""
        sent = 0
        while sent < MOST_BYTES and self.send(piece):
            sent += len(piece)
        return sent

    def status(self) -> int | None:
        """The status of the answer; None where the connection was closed without one. Raises TimeoutError."""
        received = b""
        while b"\r\n" not in received:
            try:
                piece = self._socket.recv(4096)
            except TimeoutError:
                raise
            except OSError:
                return None
            if not piece:
                return None
            received += piece
        words = received.split(b" ", 2)
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else None

    def close(self) -> None:
        self._socket.close()


def drill(
    url: Url = URL,
    key: Key = "",
    yes: Annotated[bool, typer.Option("--yes", help="Also where the service is not on this machine.")] = False,
    within: Annotated[float, typer.Option(help="Seconds within which others must be served.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Attack a service of yours in small and see that it holds. Exit status 1 where it does not.

    Each attack sends 4 MiB or 50 connections at most, and ends after 20 s. What is not tried is said.

    Examples: genai drill · genai drill --url http://localhost:8000 --json
    """
    if urlsplit(url).hostname not in LOOPBACK and not yes:
        raise CommandFailure(f"{url} is not on this machine: add --yes if it is yours to attack", 2)
    Service(url, key).get("/health")
    outcomes = [_tried(name, attack, Target(url, key, within)) for name, attack in ATTACKS.items()]
    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
    else:
        rows = [(one.attack, one.status, f"{one.seconds:.1f}", one.found) for one in outcomes]
        print_table(("ATTACK", "STATUS", "SECONDS", "FOUND"), rows)
    if any(outcome.status == "fault" for outcome in outcomes):
        raise typer.Exit(FAILED)


def _tried(name: str, attack: Attack, target: Target) -> Outcome:
    """The attack, and whether others are served after it."""
    started = time.monotonic()
    status: Status = "ok"
    try:
        found = attack(target)
    except _Broken as error:
        status, found = "fault", str(error)
    except TimeoutError:
        status, found = "fault", f"it is still served after {ANSWER_SECONDS:.0f} s"
    except OSError as error:
        status, found = "not tried", f"no connection: {error.strerror or type(error).__name__}"
    seconds = time.monotonic() - started
    healthy = _health(target)
    if healthy is not None:
        status, found = "fault", f"{found}; then {healthy}"
    return Outcome(name, status, found, round(seconds, 2))


class _Broken(Exception):
    """The service did what it must not."""


def _health(target: Target) -> str | None:
    """What is wrong with the service's health for another caller; None where nothing is."""
    started = time.monotonic()
    try:
        answer = httpx2.get(f"{target.url.rstrip('/')}/healthz", timeout=ANSWER_SECONDS, trust_env=False)
    except httpx2.HTTPError as error:
        return f"/healthz failed: {type(error).__name__}"
    seconds = time.monotonic() - started
    # a limit of health checks is an answer, too
    if answer.status_code not in (200, 429):
        return f"/healthz is {answer.status_code}"
    return f"/healthz took {seconds:.1f} s" if seconds > target.within else None


def _refused(status: int | None, *wanted: int) -> str:
    """Closed without an answer, or refused with one of these statuses."""
    if status is None:
        return "closed"
    if status not in wanted:
        raise _Broken(f"answered with {status}")
    return f"refused with {status}"


def _post(peer: Peer, *lines: bytes) -> bytes:
    head = [b"POST /generate HTTP/1.1", b"Host: " + peer.host, b"Content-Type: application/json", *lines]
    return b"\r\n".join(head) + b"\r\n\r\n"


def _long_head(target: Target) -> str:
    with contextlib.closing(Peer(target.url)) as peer:
        peer.send(b"GET /healthz HTTP/1.1\r\nHost: " + peer.host + b"\r\nX-A: ")
        sent = peer.flood(b"a" * 65_536)
        return f"{_refused(peer.status(), 400, 431)} after {sent >> 10} KiB"


def _many_headers(target: Target) -> str:
    with contextlib.closing(Peer(target.url)) as peer:
        peer.send(b"GET /healthz HTTP/1.1\r\nHost: " + peer.host + b"\r\n")
        sent = peer.flood(b"X-B: c\r\n" * 4096)
        return f"{_refused(peer.status(), 400, 431)} after {sent >> 10} KiB"


def _long_path(target: Target) -> str:
    with contextlib.closing(Peer(target.url)) as peer:
        peer.send(b"GET /healthz?")
        sent = peer.flood(b"a" * 65_536)
        return f"{_refused(peer.status(), 400, 414, 431)} after {sent >> 10} KiB"


def _huge_body(target: Target) -> str:
    with contextlib.closing(Peer(target.url)) as peer:
        peer.send(_post(peer, b"Content-Length: 99999999999"))
        sent = peer.flood(b"x" * 65_536)
        return f"{_refused(peer.status(), 401, 413, 429)} after {sent >> 10} KiB"


def _endless_chunks(target: Target) -> str:
    with contextlib.closing(Peer(target.url)) as peer:
        peer.send(_post(peer, b"Transfer-Encoding: chunked"))
        sent = peer.flood(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        return f"{_refused(peer.status(), 401, 413, 429)} after {sent >> 10} KiB"


def _two_lengths(target: Target) -> str:
    """A request that two readers would end at different places."""
    with contextlib.closing(Peer(target.url)) as peer:
        body = b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
        peer.send(_post(peer, b"Content-Length: 4", b"Transfer-Encoding: chunked") + body)
        return _refused(peer.status(), 400)


def _not_http(target: Target) -> str:
    with contextlib.closing(Peer(target.url)) as peer:
        peer.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64 + b"\r\n\r\n")
        return _refused(peer.status(), 400)


def _silent_connections(target: Target) -> str:
    """Others are served while these say nothing; that they are closed later is not waited for."""
    peers: list[Peer] = []
    try:
        for _ in range(CONNECTIONS):
            try:
                peers.append(Peer(target.url))
            except OSError:
                break
            peers[-1].send(b"GET /healthz HTTP/1.1\r\nHos")
        if (wrong := _health(target)) is not None:
            raise _Broken(f"with {len(peers)} silent connections {wrong}")
        return f"others are served beside {len(peers)} of them"
    finally:
        for peer in peers:
            peer.close()


def _odd_body(body: bytes, *wanted: int) -> Attack:
    def attack(target: Target) -> str:
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {target.key}"} if target.key else {}
        )
        try:
            answer = httpx2.post(
                f"{target.url.rstrip('/')}/local/generate",
                content=body,
                headers=headers,
                timeout=ANSWER_SECONDS,
                trust_env=False,
            )
        except httpx2.TimeoutException:
            raise TimeoutError from None
        except httpx2.HTTPError as error:
            raise _Broken(f"the connection broke: {type(error).__name__}") from None
        faults = _refused(answer.status_code, *wanted, 401, 429)
        if "error" not in answer.text or "Traceback" in answer.text:
            raise _Broken("refused without the error envelope")
        return faults

    return attack


ATTACKS: dict[str, Attack] = {
    "one endless header": _long_head,
    "endless headers": _many_headers,
    "endless path": _long_path,
    "body of 100 GB": _huge_body,
    "endless chunks": _endless_chunks,
    "two lengths of one body": _two_lengths,
    "no HTTP at all": _not_http,
    f"{CONNECTIONS} silent connections": _silent_connections,
    "deep JSON": _odd_body(b'{"prompt":' + b"[" * DEEP + b"]" * DEEP + b"}", 422),
    "NaN for a number": _odd_body(b'{"prompt":"x","temperature":NaN}', 422),
    "half a character": _odd_body(b'{"prompt":"\\ud800"}', 422),
    "no UTF-8": _odd_body(b'{"prompt":"\xff"}', 422),
    "long prompt": _odd_body(b'{"prompt":"' + b"x" * 500_000 + b'"}', 413, 422),
}
