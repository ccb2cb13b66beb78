"""The plain engine's streamer: a TextIteratorStreamer without its faults."""

import asyncio
import threading
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch comes with requirements-local.txt")
import numpy as np
from transformers import TextIteratorStreamer

from apps.core.errors import InternalError
from apps.local.engine.decoding import OutputProcessor
from apps.local.engine.plain.streamer import Cancelled, OutputStreamer
from apps.local.engine.port import EngineOutput, Sampling

pytestmark = pytest.mark.local
ROW = np.zeros(256, np.float32)


def streamer(tokens: int = 500, capacity: int = 256) -> OutputStreamer:
    def decode(run: Any) -> str:
        return "".join(map(chr, run))

    output = OutputProcessor(decode, frozenset({4}), Sampling(0, 1, tokens), lambda token: bytes([token]))
    return OutputStreamer(output, capacity)


def writer(stream: OutputStreamer, count: int, state: dict[str, int | str]) -> None:
    """A generating thread: the prompt first, then ``count`` tokens."""
    try:
        stream.put(np.array([[1, 2, 3]]))
        for number in range(count):
            stream.chosen(97 + number % 26, ROW, False)
            stream.put(np.array([97 + number % 26]))
            state["sent"] = number + 1
        state["end"] = "whole"
    except Cancelled:
        state["end"] = "cancelled"
    finally:
        stream.finish()


def started(stream: OutputStreamer, count: int) -> tuple[threading.Thread, dict[str, int | str]]:
    state: dict[str, int | str] = {}
    thread = threading.Thread(target=writer, args=(stream, count, state))
    thread.start()
    return thread, state


async def test_it_is_transformers_own_streamer_and_sends_each_character_as_it_comes() -> None:
    stream = streamer(3)
    assert isinstance(stream, TextIteratorStreamer)
    thread, _ = started(stream, 3)
    outputs = [output async for output in stream]
    assert [(output.text, output.finish_reason) for output in outputs] == [("a", None), ("b", None), ("c", "length")]
    thread.join(60)


async def test_outputs_arrive_whole_and_in_order() -> None:
    stream = streamer(500, 8)
    thread, _ = started(stream, 500)
    assert [output.completion_tokens async for output in stream] == list(range(1, 501))
    thread.join(60)


async def test_a_slow_reader_holds_the_writer_at_the_capacity() -> None:
    stream = streamer(500, 16)
    thread, state = started(stream, 500)
    async with asyncio.timeout(60):
        while not stream.text_queue.full():  # noqa: ASYNC110 - there is no event for what another thread has come to
            await asyncio.sleep(0.01)
    assert state["sent"] == 16
    stream.cancel()
    await asyncio.to_thread(thread.join, 60)
    assert not thread.is_alive()
    assert state["end"] == "cancelled" and int(state["sent"]) <= 17


async def test_the_writers_error_reaches_the_reader_after_the_outputs_before_it() -> None:
    stream = streamer()

    def fail() -> None:
        stream.send(EngineOutput("a", 1))
        stream.finish(InternalError("broken"))

    threading.Thread(target=fail).start()
    assert await anext(stream) == EngineOutput("a", 1)
    with pytest.raises(InternalError, match="broken"):
        await anext(stream)


def test_a_writer_whose_loop_is_gone_ends_instead_of_hanging() -> None:
    async def make() -> OutputStreamer:
        return streamer(500, 4)

    thread, state = started(asyncio.run(make()), 500)
    thread.join(60)
    assert state["end"] == "cancelled"
