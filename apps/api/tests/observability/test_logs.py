"""The log: access lines go out a moment later, every other line at once, in their order."""

import asyncio
import io
import logging
import threading

import pytest

from apps.api.src.http.middleware import access_log
from apps.api.src.observability.logs import FLUSH_SECONDS, BufferedHandler


@pytest.fixture
def handler() -> BufferedHandler:
    made = BufferedHandler()
    made.setStream(io.StringIO())
    return made


def record(name: str, message: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, message, None, None)


def lines(handler: BufferedHandler) -> list[str]:
    stream = handler.stream
    assert isinstance(stream, io.StringIO)
    return stream.getvalue().splitlines()


async def test_access_lines_wait_a_moment_and_come_together(handler: BufferedHandler) -> None:
    for text in "abc":
        handler.handle(record(access_log.name, text))
    assert lines(handler) == []
    await asyncio.sleep(FLUSH_SECONDS * 3)
    assert lines(handler) == ["a", "b", "c"]
    handler.handle(record(access_log.name, "d"))
    await asyncio.sleep(FLUSH_SECONDS * 3)
    assert lines(handler) == ["a", "b", "c", "d"]


async def test_any_other_line_takes_them_with_it_in_order(handler: BufferedHandler) -> None:
    handler.handle(record(access_log.name, "first"))
    handler.handle(record("apps.other", "second", logging.ERROR))
    assert lines(handler) == ["first", "second"]


async def test_a_thread_and_the_end_of_the_process_write_at_once(handler: BufferedHandler) -> None:
    thread = threading.Thread(target=handler.handle, args=(record(access_log.name, "threaded"),))
    thread.start()
    thread.join()
    assert lines(handler) == ["threaded"]
    handler.handle(record(access_log.name, "late"))
    handler.flush()  # what logging.shutdown does
    assert lines(handler) == ["threaded", "late"]


def test_lines_of_a_loop_that_is_gone_come_with_the_next_loops(handler: BufferedHandler) -> None:
    async def say(text: str, wait: float) -> None:
        handler.handle(record(access_log.name, text))
        await asyncio.sleep(wait)

    asyncio.run(say("left", 0))
    asyncio.run(say("next", FLUSH_SECONDS * 3))
    assert lines(handler) == ["left", "next"]
