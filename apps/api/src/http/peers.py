"""The API processes of one machine as one: a call with an Idempotency-Key is made by the one that its key belongs to.

Recordings of calls are kept in one process's memory. So the key's hash says which process has them, and the others hand
the request to it by its Unix socket and its answer on, byte for byte. Each worker listens on a socket of its own in a
folder that only this service's user can open: what comes that way is another worker's word.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.api.src.exceptions import render
from apps.core.errors import ModelUnavailable, PayloadTooLarge
from apps.transport.client import Client
from apps.transport.response import HttpFailure, Response

KEY = b"idempotency-key"
CLIENT = b"x-peer-client"
MCP_PATH, MCP_SESSION = "/mcp", b"mcp-session-id"
HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"te", b"upgrade", b"expect", b"trailer"}
)
# this process says these of every answer by itself
NOT_HANDED_ON = HOP_BY_HOP - {b"content-length"} | {b"date", b"server"}
CONNECT_SECONDS = 5.0
LONGEST = 3600.0


class Peers:
    """``own`` of ``count`` workers, whose sockets are in ``folder``."""

    def __init__(self, own: int, count: int, folder: Path) -> None:
        self.own = own
        self.count = count
        self._folder = folder

    @classmethod
    def of(cls, setting: str, count: int) -> "Peers | None":
        """By API_PEERS, ``index@folder``; None where this process has no peers."""
        index, _, folder = setting.partition("@")
        return cls(int(index), count, Path(folder)) if folder else None

    def socket(self, index: int) -> Path:
        return self._folder / f"worker-{index}.sock"

    def address(self, index: int) -> str:
        return f"http+unix://{quote(str(self.socket(index)), safe='')}"

    def owner(self, key: bytes) -> int:
        """Which worker a key belongs to."""
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") % self.count


class HandOver:
    """The outermost layer of a worker. ``max_bytes`` bounds a body that is handed over."""

    def __init__(self, app: ASGIApp, peers: Peers, max_bytes: int) -> None:
        self._app = app
        self._peers = peers
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _came_by_socket(scope):
            scope["client"] = _client(scope) or scope.get("client")
        elif scope["method"] == "POST" and (key := _kept_together_by(scope)) is not None:
            owner = self._peers.owner(key)
            if owner != self._peers.own:
                await self._hand_over(owner, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _hand_over(self, owner: int, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                error = PayloadTooLarge(f"Request body must be at most {self._max_bytes} bytes")
                await render(error, scope["path"])(scope, receive, send)
                return
        client = Client(self._peers.address(owner), {}, CONNECT_SECONDS)
        work = asyncio.create_task(self._pass_on(client, owner, body, scope, send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
            await asyncio.wait((work,))
            if not work.cancelled() and (failure := work.exception()) is not None:
                raise failure
        finally:
            work.cancel()
            gone.cancel()
            await client.aclose()

    async def _pass_on(self, client: Client, owner: int, body: bytes, scope: Scope, send: Send) -> None:
        query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
        url = self._peers.address(owner) + scope["raw_path"].decode("latin-1") + query
        try:
            response = await client.stream("POST", url, _once(body), len(body), _headers(scope), LONGEST)
        except (HttpFailure, TimeoutError):
            error = ModelUnavailable("The process that has this Idempotency-Key is starting again", retry_after=1)
            await render(error, scope["path"])(scope, _nothing, send)
            return
        try:
            await _answer(response, send)
        finally:
            response.close()


async def _answer(response: Response, send: Send) -> None:
    """Raises what breaks the answer off, so that the server breaks off its own."""
    headers = [field for field in response.fields.items() if field[0] not in NOT_HANDED_ON]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    while chunk := await response.chunk(LONGEST, asyncio.get_running_loop().time() + LONGEST):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers(scope: Scope) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        if raw_name in HOP_BY_HOP or raw_name in (b"host", CLIENT):
            continue
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    host, port = scope.get("client") or ("", 0)
    return {**headers, CLIENT.decode(): f"{host}|{port}"}


def _client(scope: Scope) -> tuple[str, int] | None:
    value = _header(scope, CLIENT)
    if value is None:
        return None
    host, _, port = value.decode("latin-1").partition("|")
    return (host, int(port)) if host and port.isdigit() else None


def _kept_together_by(scope: Scope) -> bytes | None:
    """What one process has to have all of: an MCP session, whose calls are cancelled where they run, or calls under one
    Idempotency-Key. Forms of several parts are streamed through and never recorded."""
    if scope["path"] == MCP_PATH:
        return _header(scope, MCP_SESSION)
    if (_header(scope, b"content-type") or b"").lower().startswith(b"multipart/"):
        return None
    return _header(scope, KEY)


def _came_by_socket(scope: Scope) -> bool:
    """A Unix socket has a path and no port."""
    server = scope.get("server")
    return server is not None and server[1] is None


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)
