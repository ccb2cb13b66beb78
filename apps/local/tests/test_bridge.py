import asyncio
import threading

import pytest

from apps.local.engine.plain.streaming import Bridge, Cancelled
from apps.local.engine.port import Piece


def writer(bridge: Bridge, count: int, state: dict[str, int | str]) -> None:
    try:
        for number in range(count):
            bridge.put(Piece(str(number), number))
            state["sent"] = number + 1
        state["end"] = "whole"
    except Cancelled:
        state["end"] = "cancelled"
    finally:
        bridge.end()


async def test_pieces_arrive_whole_and_in_order() -> None:
    bridge, state = Bridge(8), dict[str, int | str]()
    thread = threading.Thread(target=writer, args=(bridge, 500, state))
    thread.start()
    seen = []
    while (piece := await bridge.get()) is not None:
        seen.append(piece.completion_tokens)
    thread.join(5)
    assert seen == list(range(500))
    assert await bridge.get() is None


async def test_a_slow_reader_holds_the_writer_at_the_capacity() -> None:
    bridge, state = Bridge(16), dict[str, int | str]()
    thread = threading.Thread(target=writer, args=(bridge, 500, state))
    thread.start()
    await asyncio.sleep(0.2)
    assert state["sent"] == 16
    bridge.cancel()
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()
    assert state["end"] == "cancelled"


async def test_the_writers_error_reaches_the_reader_after_the_pieces_before_it() -> None:
    bridge = Bridge()

    def fail() -> None:
        bridge.put(Piece("a", 1))
        bridge.end(ValueError("broken"))

    threading.Thread(target=fail).start()
    assert await bridge.get() == Piece("a", 1)
    with pytest.raises(ValueError, match="broken"):
        await bridge.get()


def test_a_writer_whose_loop_is_gone_ends_instead_of_hanging() -> None:
    async def make() -> Bridge:
        return Bridge(4)

    bridge, state = asyncio.run(make()), dict[str, int | str]()
    thread = threading.Thread(target=writer, args=(bridge, 500, state))
    thread.start()
    thread.join(5)
    assert state["end"] == "cancelled"
