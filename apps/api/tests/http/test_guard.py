"""Work is ended when nobody waits for it any more, and only then; nothing that watched it stays."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message

from apps.api.src.http.shutdown import ClientGone, Shutdown, ShuttingDown, guarded
from apps.core.callers import ANONYMOUS
from apps.core.calls import CallRecord
from apps.models.metering import Meter
from apps.tests.support.caching import Books

Queue = asyncio.Queue[Message]


@pytest.fixture
async def client() -> AsyncIterator[Queue]:
    """What the client does; afterwards no task is left over."""
    yield asyncio.Queue()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


ended: list[str] = []


async def work(seconds: float = 60) -> str:
    ended.clear()
    try:
        await asyncio.sleep(seconds)
    finally:
        ended.append("work")
    return "done"


async def test_work_that_ends_is_its_result(client: Queue) -> None:
    assert await guarded(work(0.01), client.get, Shutdown(20)) == "done"


async def test_work_that_fails_raises_what_it_raised(client: Queue) -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await guarded(fail(), client.get, Shutdown(20))


async def test_a_client_that_leaves_ends_the_work(client: Queue) -> None:
    asyncio.get_running_loop().call_later(0.05, client.put_nowait, {"type": "http.disconnect"})
    with pytest.raises(ClientGone):
        await guarded(work(), client.get, Shutdown(20))
    assert ended == ["work"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_more_of_a_request_is_no_reason_to_end(client: Queue) -> None:
    client.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    assert await guarded(work(0.05), client.get, Shutdown(20)) == "done"


async def test_the_end_of_the_grace_period_ends_the_work(client: Queue) -> None:
    shutdown = Shutdown(0.05)
    asyncio.get_running_loop().call_soon(shutdown._expire)
    with pytest.raises(ShuttingDown):
        await guarded(work(), client.get, shutdown)
    assert ended == ["work"]


@pytest.mark.parametrize(("shuts_down", "outcome"), [(True, "SHUT_DOWN"), (False, "CLIENT_GONE")])
async def test_what_ends_the_work_is_on_record(client: Queue, shuts_down: bool, outcome: str) -> None:
    shutdown, books = Shutdown(20), Books()

    async def call() -> None:
        async with Meter([books]).call(CallRecord(ANONYMOUS, "/generate", "m")):
            asyncio.get_running_loop().call_soon(
                shutdown._expire if shuts_down else lambda: client.put_nowait({"type": "http.disconnect"})
            )
            async with asyncio.timeout(60):
                await asyncio.create_task(work())

    with pytest.raises((ShuttingDown, ClientGone)):
        await guarded(call(), client.get, shutdown)
    assert [record.outcome for record in books.closed] == [outcome]


async def test_a_tick_that_raises_ends_the_work_with_its_error(client: Queue) -> None:
    async def tick() -> None:
        raise TimeoutError("stalled")

    with pytest.raises(TimeoutError, match="stalled"):
        await guarded(work(), client.get, Shutdown(20), tick, every=0.01)
    assert ended == ["work"]


async def test_ticks_come_while_the_work_runs(client: Queue) -> None:
    ticks = asyncio.Semaphore(0)

    async def tick() -> None:
        ticks.release()

    async def until_three() -> str:
        for _ in range(3):
            await ticks.acquire()
        return "done"

    assert await guarded(until_three(), client.get, Shutdown(20), tick, every=0.02) == "done"


async def test_a_cancellation_from_outside_stays_one(client: Queue) -> None:
    task = asyncio.create_task(guarded(work(), client.get, Shutdown(20)))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["work"]


async def test_two_reasons_at_once_are_the_first_of_them(client: Queue) -> None:
    shutdown = Shutdown(20)
    loop = asyncio.get_running_loop()
    loop.call_later(0.02, client.put_nowait, {"type": "http.disconnect"})
    loop.call_later(0.02, shutdown._expire)
    with pytest.raises((ClientGone, ShuttingDown)):
        await guarded(work(), client.get, shutdown)
    assert ended == ["work"]
