"""Recordings: read whole by everybody, from the first item on, at each reader's own pace."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest

from apps.core.callers import ANONYMOUS
from apps.core.calls import CallRecord
from apps.core.errors import AppError, Timeout, UpstreamError
from apps.models.recording import Recording


class Numbers(Recording[int]):
    """An answer in numbers that ends with 0."""

    def is_last(self, item: int) -> bool:
        return item == 0

    def size_of(self, item: int) -> int:
        return item


def begun(*items: int | float | Exception) -> Numbers:
    """A float is a wait in seconds."""
    recording = Numbers(CallRecord(ANONYMOUS, "/r", "m"))

    async def work() -> None:
        for item in items:
            if isinstance(item, Exception):
                raise item
            if isinstance(item, float):
                await asyncio.sleep(item)
            else:
                recording.add(item)

    ignore: Callable[[Numbers], None] = lambda ended: None  # noqa: E731
    recording.begin(work(), ignore)
    return recording


async def read(recording: Numbers, deadline: float | None = None) -> list[int]:
    return [item async for item in recording.read(deadline)]


async def test_everybody_reads_everything_whenever_he_comes() -> None:
    recording = begun(1, 0.01, 2, 0.01, 0)
    first = asyncio.create_task(read(recording))
    await asyncio.sleep(0.015)
    assert await read(recording) == await first == await read(recording) == [1, 2, 0]
    assert recording.size == 3


async def test_a_reader_ends_with_the_last_item_and_not_with_the_work_behind_it() -> None:
    recording = begun(1, 0, 30.0)
    async with asyncio.timeout(1):
        assert await read(recording) == [1, 0]
    assert not recording.given_up


async def test_the_last_reader_to_leave_ends_the_work() -> None:
    recording = begun(1, 30.0, 0)
    one, two = recording.read(None), recording.read(None)
    assert [await anext(one), await anext(two)] == [1, 1]
    await one.aclose()
    assert not recording.given_up
    await two.aclose()
    assert recording.given_up
    await asyncio.sleep(0.01)
    assert recording.done


async def test_a_reader_that_has_not_begun_yet_keeps_the_work_going() -> None:
    recording = begun(1, 0.02, 0)
    slow, quick = recording.read(None), recording.read(None)
    assert await anext(quick) == 1
    await quick.aclose()
    await quick.aclose()
    await asyncio.sleep(0.005)
    assert [item async for item in slow] == [1, 0]


async def test_a_reading_that_was_closed_has_nothing_more() -> None:
    recording = begun(1, 0)
    reading = recording.read(None)
    await reading.aclose()
    assert [item async for item in reading] == []
    await asyncio.sleep(0.01)
    assert (recording.given_up, recording.done, recording.items) == (True, True, [])


async def test_a_deadline_is_the_readers_own() -> None:
    recording = begun(1, 0.1, 0)
    patient = asyncio.create_task(read(recording))
    with pytest.raises(Timeout):
        await read(recording, asyncio.get_running_loop().time() + 0.02)
    assert await patient == [1, 0]


async def test_each_reader_of_a_failure_has_an_error_of_his_own() -> None:
    recording = begun(1, 0.01, UpstreamError("no", details={"cause": "x"}, retry_after=3))

    async def failing() -> AppError:
        with pytest.raises(UpstreamError) as raised:
            await read(recording)
        return raised.value

    one, two = await asyncio.gather(failing(), failing())
    assert one is not two
    assert (one.envelope(), one.retry_after) == (two.envelope(), 3)


async def test_a_long_reading_lets_others_have_their_turns() -> None:
    recording = begun(*range(1, 1000), 0)
    await read(recording)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with aclosing(recording.read(None)) as items:
        counting = asyncio.create_task(count())
        async for _ in items:
            pass
    counting.cancel()
    assert turns > 25
