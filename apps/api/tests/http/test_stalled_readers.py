"""A client that does not read its answer: decided by a clock that the test turns, on a transport that never drains."""

import asyncio
import socket
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from apps.api.src.http.connections import STATE_KEY, ConnectionLimits, Connections
from apps.api.src.http.protocol import Protocol

STALLED_AFTER = 60.0


class Paused(asyncio.Transport):
    """Implements a transport whose peer reads what `drain` says and nothing else, as full kernel buffers are."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        super().__init__({"socket": self._ours, "peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 2)})
        self.unsent = 0
        self.aborted = False

    def write(self, data: Any) -> None:
        self.unsent += len(data)

    def drain(self, amount: int) -> None:
        self.unsent -= amount

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.aborted

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing comes in."""

    def resume_reading(self) -> None:
        """Nothing comes in."""

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


async def no_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers nothing: the test writes in its place."""


def connected() -> tuple[Protocol, Paused, Connections, float]:
    """A connection, its transport, where closed ones are counted, and the time of its beginning."""
    all_of_them = Connections(ConnectionLimits(stalled_seconds=STALLED_AFTER))
    config = uvicorn.Config(no_app, http=Protocol, log_config=None)
    config.load()
    loop = asyncio.get_running_loop()
    protocol, transport = Protocol(config, ServerState(), {STATE_KEY: all_of_them}, loop), Paused()
    protocol.connection_made(transport)
    # an answer is under way: the connection is not idle, and owes no head
    protocol.data_received(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    return protocol, transport, all_of_them, loop.time()


async def test_a_reader_that_takes_nothing_is_cut_off_when_its_time_is_over() -> None:
    protocol, transport, counted, began = connected()
    transport.write(b"x" * 1_400_000)
    for seconds in (0, 1, STALLED_AFTER):
        protocol.check(began + seconds)
        assert not transport.aborted
    protocol.check(began + STALLED_AFTER + 1)
    assert transport.aborted
    assert counted.closed == {"stalled_reader": 1}


async def test_a_reader_that_takes_a_little_has_the_whole_time_again() -> None:
    protocol, transport, counted, began = connected()
    transport.write(b"x" * 1_400_000)
    protocol.check(began)
    for turn in range(1, 6):
        transport.drain(1000)
        protocol.check(began + turn * STALLED_AFTER)
        assert not transport.aborted
    protocol.check(began + 6 * STALLED_AFTER + 1)
    assert counted.closed == {"stalled_reader": 1}


async def test_more_to_send_is_nothing_read() -> None:
    """An endless answer must not keep a reader alive that takes none of it."""
    protocol, transport, counted, began = connected()
    for turn in range(8):
        transport.write(b"x" * 1000)
        protocol.check(began + turn * STALLED_AFTER / 6)
    assert transport.aborted
    assert counted.closed == {"stalled_reader": 1}


async def test_who_has_read_all_may_wait_for_the_rest_of_the_answer() -> None:
    protocol, transport, counted, began = connected()
    transport.write(b"x" * 1000)
    protocol.check(began)
    transport.drain(1000)
    protocol.check(began + 1)
    protocol.check(began + 100 * STALLED_AFTER)
    assert not transport.aborted
    assert not counted.closed
    transport.close()
