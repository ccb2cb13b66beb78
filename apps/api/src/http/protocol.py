"""One connection, as uvicorn serves it, with limits before the first handler.

uvicorn --http apps.api.src.http.protocol:Protocol apps.api.src.main:app

uvicorn's own protocol reads heads, trailers and pipelined requests of any size, for any time, and closes a connection
under a body that is still being sent. Imported by what serves, never with the app.
"""

import asyncio
import socket
import struct
import sys
import urllib.parse
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from apps.api.src.http.answer_writing import Cycle
from apps.api.src.http.connections import STATE_KEY, Connections, Reason
from apps.api.src.http.refusals import Refusal, answer_of, head_too_large, unknown_method, unreadable
from apps.core.errors import AppError, HeadTooLarge, Overloaded, RateLimitExceeded, RequestTimeout

# of a request: its head has not begun, is coming, is whole and its body is coming
IDLE, HEAD, BODY = range(3)
FRAMING = (b"content-length", b"transfer-encoding")
HEALTH_PATHS = frozenset({"/health", "/healthz", "/ready"})
NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
RESERVED_SECONDS = 2.0
REFUSED_SECONDS = 1.0


class Protocol(HttpToolsProtocol):
    """One connection. What it reads is bounded here, as it comes; what takes too long is found by `check`.

    A refusal is answered in the envelope where no answer is under way, and what still comes is read and dropped for a
    bounded time: closed at once, the client would see a reset in place of the answer.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        connections = app_state.get(STATE_KEY)
        if not isinstance(connections, Connections):
            raise RuntimeError("This protocol serves the apps of create_app, with their lifespan")
        self._all = connections
        limits = self._limits = connections.limits
        self._most_head_bytes, self._most_fields = limits.head_bytes, limits.headers
        self._reading = IDLE
        self._since = self._checked = self.loop.time()
        self._answering: RequestResponseCycle | None = None
        self._head_bytes = 0
        self._fields = 0
        self._body_bytes = 0
        self._held_bytes = 0
        self._moved = False
        self._fault: Refusal | None = None
        self._deaf = False
        self._ending_since: float | None = None
        self._drain_seconds = self._limits.drain_seconds
        self._reserved = False
        self._unsent = 0
        self._sent_at = 0.0

    # --- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._writer: Any = _Writer(transport, self._end)
        refused = self._all.opened(self, self._host, _descriptor(transport))
        if refused == "descriptors":
            self._reserved = True
        elif refused == "address_limit":
            most = self._limits.an_address
            self._drain_seconds = min(self._drain_seconds, REFUSED_SECONDS)
            error = RateLimitExceeded(f"Too many connections: at most {most} an address", retry_after=1)
            self._refuse(refused, error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.lost(self)
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        # uvicorn tells the newest of them only
        for cycle in (*waiting, self._answering):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)
        # These refer to each other: left to the garbage collector, which comes rarely, they would be kept for minutes.
        self._answering = None
        self.cycle = None  # type: ignore[assignment]
        del self._writer

    def abort(self) -> None:
        self.transport.abort()

    @property
    def _host(self) -> str | None:
        return self.client[0] if self.client else None

    # --- what comes in

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._moved = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_on(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._refuse(*(self._fault or unreadable(error, data)))
            return
        if self._reading != IDLE:
            # the parser keeps a header until it is whole
            self._held_bytes = 0 if self._moved else self._held_bytes + len(data)
            if self._held_bytes > self._limits.head_bytes:
                self._refuse(*head_too_large(self._limits.head_bytes))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading = HEAD
        self._since = self.loop.time()
        self._head_bytes = self._fields = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._head_bytes += len(url)
        if self._head_bytes > self._limits.head_bytes:
            self._stop(*head_too_large(self._limits.head_bytes))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        self._fields += 1
        if self._head_bytes > self._most_head_bytes:
            self._stop(*head_too_large(self._limits.head_bytes))
        if self._fields > self._most_fields:
            most = self._most_fields
            self._stop(
                "too_many_headers",
                HeadTooLarge(f"A request may have at most {most} headers", details={"max_headers": most}),
            )
        if self._reading == BODY:
            # a trailer: added to the headers, it would be what the middleware has looked at already
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser, scope = self.parser, self.scope
        http_version = parser.get_http_version()
        method = scope["method"] = parser.get_method().decode("ascii")
        if method == "CONNECT":
            self._stop(*unknown_method())
        if http_version != "1.1":
            scope["http_version"] = http_version
        url = httptools.parse_url(self.url)
        raw_path = url.path
        path = raw_path.decode("ascii")
        if "%" in path:
            path = urllib.parse.unquote(path)
        scope["path"] = self.root_path + path
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        scope["query_string"] = url.query or b""
        keep_alive = http_version != "1.0" and parser.should_keep_alive()
        if self._reserved:
            keep_alive = False
            if path not in HEALTH_PATHS:
                self._stop("descriptors", Overloaded("The server has too many connections", retry_after=1))
        cycle = Cycle(
            scope=scope,
            transport=self._writer,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        if self._answering is None:
            self._answering = cycle
            self._start_asgi_task(cycle, self.app)
        elif len(self.pipeline) < self._limits.pipelined:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        else:
            self._stop("pipelined", Overloaded("Too many requests wait for their answers on this connection"))
        self.cycle = cycle
        self._reading = BODY
        self._since = self.loop.time()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._moved = True
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if self.parser.should_upgrade() and _has_body(self.headers):
            # the parser takes what follows for another protocol; here it is the body
            return
        self._reading = IDLE
        self._held_bytes = 0
        self._moved = True
        cycle.more_body = False
        if not cycle.response_complete:
            cycle.message_event.set()
        elif self._ending_since is not None:
            self.transport.close()
        else:
            self._since = self.loop.time()

    def _read_on(self, rest: bytes) -> None:
        """Go on behind a head that asked for an upgrade (``curl --http2``): there is none here, so the body comes."""
        if _has_body(self.headers):
            self.parser = httptools.HttpRequestParser(_AfterHead(self))
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            framing = b"".join(b"%s: %s\r\n" % field for field in self.headers if field[0] in FRAMING)
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % framing)
        if rest:
            self.data_received(rest)

    # --- what goes out

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self._answering = None
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._since = self.loop.time()
        if self.pipeline and self._ending_since is None:
            cycle, app = self.pipeline.pop()
            self._answering = cycle
            self._start_asgi_task(cycle, app)

    def _end(self) -> None:
        """The answer was the connection's last: close behind it, once the rest of its body is read."""
        cycle = self._answering
        if cycle is not None and cycle.response_complete and (cycle.more_body or self._deaf):
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        self._ending_since = self.loop.time()
        self.flow.resume_reading()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    def _stop(self, reason: Reason, error: AppError) -> None:
        """From within a callback: the parser ends, and what it raises is found to be this."""
        self._fault = reason, error
        raise _Refused

    def _refuse(self, reason: Reason, error: AppError) -> None:
        """Read nothing more. The envelope is the answer, unless one is under way."""
        self._all.note(reason, self._host)
        self._deaf = True
        broken = self.cycle if self._reading == BODY and self.cycle is not None and self.cycle.more_body else None
        if broken is not None and self.pipeline and self.pipeline[0][0] is broken:
            self.pipeline.popleft()
            broken = None
        running = self._answering
        if running is not None and running is broken:
            if running.response_started:
                self.transport.abort()
                return
            # what waits for the body learns that the client is gone
            running.disconnected = True
            running.message_event.set()
            running = None
        if running is not None:
            (self.pipeline[0][0] if self.pipeline else running).keep_alive = False
            return
        if self.transport.is_closing():
            return
        self.transport.write(answer_of(error, self.server_state.default_headers))
        self._linger()

    # --- what takes too long

    def check(self, now: float) -> None:
        """Once a tick. A client that owes nothing (its answer is being made) may take any time."""
        passed, self._checked = now - self._checked, now
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent:
            self._sent_at = now
        elif self._unsent and now - self._sent_at > self._limits.stalled_seconds:
            self._all.note("stalled_reader", self._host)
            _reset(self.transport)
            return
        elif not self._unsent:
            self._sent_at = now
        self._unsent = unsent
        if self._ending_since is not None:
            if now - self._ending_since > self._drain_seconds:
                if not self._deaf:
                    self._all.note("body_after_answer", self._host)
                self.transport.abort()
        elif self.transport.is_closing() or self._deaf:
            return
        elif self._reading == BODY:
            self._check_body(now, passed)
        elif self._answering is not None:
            self._since = now
        elif self._reading == HEAD:
            limit = min(self._limits.head_seconds, RESERVED_SECONDS) if self._reserved else self._limits.head_seconds
            if now - self._since > limit:
                self._refuse(
                    "head_timeout", RequestTimeout(f"The head of the request was not there within {limit:g} s")
                )
        elif now - self._since > (RESERVED_SECONDS if self._reserved else self._limits.idle_seconds):
            self._all.note("descriptors" if self._reserved else "idle", self._host)
            self.transport.close()

    def _check_body(self, now: float, passed: float) -> None:
        cycle, limits = self.cycle, self._limits
        if cycle.response_complete:
            if now - self._since > limits.drain_seconds:
                self._all.note("body_after_answer", self._host)
                self.transport.close()
        elif self.flow.read_paused or cycle.waiting_for_100_continue or cycle is not self._answering:
            # it is we who keep the client waiting
            self._since = min(now, self._since + passed)
        elif self._body_bytes < (now - self._since - limits.body_grace) * limits.body_rate:
            rate = limits.body_rate
            self._refuse("body_too_slow", RequestTimeout(f"The body must come at {rate} bytes a second at least"))


class _Refused(Exception):
    """Ends the parser from within a callback."""


class _Writer:
    """A transport as a cycle sees it: its end is the protocol's affair."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Any) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class _AfterHead:
    """The callbacks of a parser whose first head the protocol has had already."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._begun = self._had = False
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def on_message_begin(self) -> None:
        if self._begun:
            self._protocol.on_message_begin()
        self._begun = True

    def on_url(self, url: bytes) -> None:
        if self._had:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._had:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._had:
            self._protocol.on_headers_complete()
        self._had = True


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name in FRAMING and value.strip(b"0 ") for name, value in headers)


def _reset(transport: asyncio.Transport) -> None:
    """Abort with what is unsent: the kernel would keep it, and the connection, for a client that does not read."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    transport.abort()


def _descriptor(transport: asyncio.Transport) -> int:
    """Negative where there is none to speak of: a handle of Windows counts nothing."""
    connection = transport.get_extra_info("socket")
    return -1 if connection is None else int(connection.fileno())
