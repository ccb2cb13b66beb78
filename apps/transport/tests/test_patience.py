"""Time, backpressure and callers that leave: nothing waits too long, and nothing stays open or half read."""

import asyncio

import pytest

from apps.tests.support.waiting import Passed
from apps.transport.connection import MOST_BUFFERED, ONE_READ, Connection
from apps.transport.response import Cut
from apps.transport.tests.calls import Call, Start, in_seconds, served
from apps.transport.tests.raw_server import CHUNKED, Script, Talk, chunk, whole

LAST = b"0\r\n\r\n"


async def hanging(talk: Talk) -> None:
    await talk.request()
    await talk.gone()


async def stalling(talk: Talk) -> None:
    await talk.request()
    await talk.send(CHUNKED + chunk(b"begun"))
    await talk.gone()


async def dripping(talk: Talk) -> None:
    """A byte of the body every 50 ms."""
    await talk.request()
    await talk.send(CHUNKED)
    while not talk.reader.at_eof():
        await talk.send(chunk(b"x"))
        await asyncio.sleep(0.05)


async def framing(talk: Talk) -> None:
    """Bytes all the time, and none of them of the body."""
    await talk.request()
    await talk.send(CHUNKED + b"5;")
    while not talk.reader.at_eof():
        await talk.send(b"x")


async def two_ways(talk: Talk) -> None:
    """The first request of a connection is answered whole, with its number; the second never."""
    await talk.request()
    await talk.send(whole(b"%d" % talk.number))
    await talk.request()
    await talk.send(CHUNKED + chunk(b"half"))
    await talk.gone()


async def test_a_head_has_its_time(start: Start) -> None:
    call = await start(hanging)
    waited = Passed(0.19)
    with pytest.raises(TimeoutError):
        await call.post(seconds=0.2)
    assert waited
    await call.server.until_nobody()


@pytest.mark.parametrize("script", [stalling, framing])
async def test_silence_has_its_time(script: Script, start: Start) -> None:
    call = await start(script)
    response = await call.post(seconds=600)
    waited = Passed(0.19)
    with pytest.raises(TimeoutError):
        while True:
            await response.chunk(0.2, in_seconds(600))
    assert waited
    await call.server.until_nobody()


async def test_an_answer_that_keeps_talking_ends_at_its_time(start: Start) -> None:
    call = await start(dripping)
    response = await call.post()
    waited, ends, received = Passed(0.49), in_seconds(0.5), b""
    with pytest.raises(TimeoutError):
        while True:
            received += await response.chunk(600, ends)
    assert waited
    assert len(received) >= 3
    await call.server.until_nobody()


async def test_a_short_time_after_a_long_one_on_the_same_connection(start: Start) -> None:
    call = await start(two_ways)
    assert await call.ask(seconds=600) == (200, b"1")
    response = await call.post(seconds=600)
    assert await response.chunk(600, in_seconds(600)) == b"half"
    waited = Passed(0.19)
    with pytest.raises(TimeoutError):
        await response.chunk(0.2, in_seconds(600))
    assert waited


async def test_what_is_there_is_read_without_a_clock(start: Start) -> None:
    call = await start(stalling)
    response = await call.post()
    await asyncio.sleep(0.05)
    assert await response.chunk(0, 0) == b"begun"
    response.close()


async def test_a_slow_readers_own_time_does_not_count(start: Start) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.send(CHUNKED + chunk(b"a"))
        await asyncio.sleep(0.5)
        await talk.send(chunk(b"b") + LAST)

    call = await start(script)
    response = await call.post()
    assert await response.chunk(0.3, in_seconds(9)) == b"a"
    await asyncio.sleep(0.4)
    assert await response.chunk(0.3, in_seconds(9)) == b"b"
    assert await response.chunk(0.3, in_seconds(9)) == b""


@pytest.mark.long
async def test_a_slow_reader_slows_the_server(start: Start) -> None:
    sent = 0

    async def flooding(talk: Talk) -> None:
        nonlocal sent
        await talk.request()
        await talk.send(CHUNKED)
        for _ in range(1600):
            await talk.send(chunk(b"x" * 65_536))
            sent += 65_536
        await talk.send(LAST)

    call = await start(flooding)
    response = await call.post()
    stopped, before = 0, -1
    while sent != before and stopped < 50:
        before, stopped = sent, stopped + 1
        await asyncio.sleep(0.2)
    # besides what is buffered here, the kernel's buffers of both sides
    assert sent < 40_000_000
    received = len(first := await response.chunk(1, in_seconds(600)))
    # one read goes over the bound
    assert len(first) < MOST_BUFFERED + ONE_READ
    while data := await response.chunk(2, in_seconds(30)):
        received += len(data)
    assert received == 1600 * 65_536


async def test_the_rest_comes_in_the_background_and_the_connection_serves_again(start: Start) -> None:
    async def script(talk: Talk) -> None:
        while True:
            await talk.request()
            await talk.send(CHUNKED + chunk(b"data: [DONE]\n\n"))
            await talk.send(b"1\r\nx\r\n", b"0\r\n", b"\r\n")

    call = await start(script)
    for _ in range(3):
        response = await call.post()
        assert await response.chunk(1, in_seconds(60)) == b"data: [DONE]\n\n"
        response.leave(60.0)
        async with asyncio.timeout(60):
            while not call.client.idle:  # noqa: ASYNC110 - a connection that is free again is told nowhere
                await asyncio.sleep(0.01)
    assert call.server.accepted == 1


@pytest.mark.parametrize("script", [stalling, dripping])
async def test_a_rest_that_does_not_come_in_time_costs_the_connection(script: Script, start: Start) -> None:
    call = await start(script)
    response = await call.post()
    await response.chunk(1, in_seconds(60))
    response.leave(0.2)
    assert call.server.open == 1
    await call.server.until_nobody()


async def test_a_caller_that_closes_ends_it_at_once(start: Start) -> None:
    call = await start(dripping)
    response = await call.post()
    response.close()
    response.close()
    await call.server.until_nobody(0.5)
    with pytest.raises(Cut):
        await response.chunk(1, in_seconds(60))


async def test_closing_a_whole_answer_leaves_its_connection_to_others(start: Start) -> None:
    async def script(talk: Talk) -> None:
        await talk.request()
        await talk.send(whole(b"first"))
        await talk.request()
        await talk.send(CHUNKED + chunk(b"second"))
        await asyncio.sleep(0.1)
        await talk.send(LAST)

    call = await start(script)
    first = await call.post()
    second = await call.post()
    first.close()
    first.leave(0.0)
    assert await second.read(1, in_seconds(60)) == b"second"
    assert await first.read(1, in_seconds(60)) == b"first"
    assert call.server.accepted == 1


async def cancelled(task: "asyncio.Task[object]") -> None:
    """Cancel it twice; it has to end as cancelled."""
    task.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def ends_clean(call: Call) -> None:
    await call.server.until_nobody(1)
    assert call.client.idle == 0


async def test_cancelled_while_it_connects() -> None:
    async def never(talk: Talk) -> None:
        await talk.gone()

    async with served(never) as call:
        for turns in [*range(12)] * 10:
            task = asyncio.create_task(call.post())
            for _ in range(turns):
                await asyncio.sleep(0)
            await cancelled(task)
            await ends_clean(call)


@pytest.mark.parametrize("body", [b"{}", b"x" * 30_000_000], ids=["head", "write"])
async def test_cancelled_while_it_writes_or_waits_for_the_head(body: bytes, start: Start) -> None:
    async def deaf(talk: Talk) -> None:
        await talk.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.2)
        await talk.gone()

    call = await start(deaf)
    task = asyncio.create_task(call.post(body))
    await asyncio.sleep(0.1)
    await cancelled(task)
    await ends_clean(call)


async def test_cancelled_in_the_body(start: Start) -> None:
    call = await start(stalling)
    response = await call.post()
    assert await response.chunk(1, in_seconds(60)) == b"begun"
    task = asyncio.create_task(response.chunk(5, in_seconds(60)))
    await asyncio.sleep(0.05)
    await cancelled(task)
    response.close()
    await ends_clean(call)


@pytest.mark.long
async def test_cancelled_at_any_moment_the_next_call_has_its_own_answer(start: Start) -> None:
    async def numbered(talk: Talk) -> None:
        while True:
            number = (await talk.request()).partition(b"\r\n\r\n")[2]
            answer = whole(number)
            await talk.send(answer[:-1], answer[-1:])

    call = await start(numbered)
    for number in range(150):
        left = asyncio.create_task(call.ask(b"left %04d" % number))
        await asyncio.sleep(number % 30 / 1500)
        left.cancel()
        others = [call.ask(b"kept %04d" % (number + i)) for i in range(2)]
        assert await asyncio.gather(*others) == [(200, b"kept %04d" % (number + i)) for i in range(2)]
        await asyncio.gather(left, return_exceptions=True)
    assert call.client.idle == call.server.open


async def test_a_timer_that_is_due_at_once_can_be_moved() -> None:
    """uvloop's handle of such a timer does not know when it is due."""
    loop = asyncio.get_running_loop()
    connection = Connection(loop, lambda _: None, lambda _: None)
    for until in (loop.time(), loop.time() + 1, loop.time()):
        connection.watch(until)
    connection.connection_lost(None)
