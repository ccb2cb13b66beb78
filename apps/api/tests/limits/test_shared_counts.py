"""Counts in Redis: one window for all processes, and each process's own share while Redis is away."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from redis import Redis

from apps.api.src.limits.counts import PROCESSES, SEEN_SECONDS, SharedCounts, WindowCounts
from apps.tests.support.redis_server import RedisServer, needs_redis, redis_server
from apps.tests.support.waiting import HANG_SECONDS

pytestmark = needs_redis
WINDOWS_OF = "apps.api.src.limits.counts"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=[HANG_SECONDS])
async def pair(redis: RedisServer, request: pytest.FixtureRequest) -> AsyncIterator[tuple[SharedCounts, SharedCounts]]:
    """Two processes' counts, which know of each other; the parameter is how long Redis has for an answer."""
    with Redis.from_url(redis.url) as client:
        client.flushall()
    one, two = (SharedCounts(redis.url, WindowCounts(), request.param) for _ in range(2))
    for each in (one, two):
        await each.start()
    await reached(lambda: one.state().processes == two.state().processes == 2)
    yield one, two
    redis.speak()
    for each in (one, two):
        await each.aclose()


async def reached(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.02)


def ours(redis: RedisServer, name: str) -> bytes:
    """The key that Redis keeps a name under."""
    with Redis.from_url(redis.url) as client:
        (key,) = [key for key in client.scan_iter() if key.endswith(name.encode())]
    return bytes(key)


async def test_two_count_in_one_window(pair: tuple[SharedCounts, SharedCounts]) -> None:
    one, two = pair
    before = time.time()
    counts = [await each.hit("a", 60) for each in (one, two, one, two)]
    assert [count.used for count in counts] == [1, 2, 3, 4]
    assert {count.share for count in counts} == {1}
    assert all(before + 59.9 <= count.ends <= time.time() + 60 for count in counts)
    hour = await one.hit("hour", 3600)
    assert before + 3599 <= hour.ends <= time.time() + 3600
    assert (await one.hit("a", 60, 5)).used == 9
    assert (await two.hit("a", 60, 0)).used == 9
    assert (await two.hit("b", 60)).used == 1
    state = one.state()
    assert (state.shared, state.degraded, state.local_hits, state.outages) == (True, False, 0, 0)


async def test_a_window_ends_and_one_that_lost_its_end_gets_it_again(
    pair: tuple[SharedCounts, SharedCounts], redis: RedisServer
) -> None:
    one, _ = pair
    await one.hit("short", 60)
    with Redis.from_url(redis.url) as client:
        key = ours(redis, "short")
        assert 59_000 < client.pttl(key) <= 60_000
        client.persist(key)
        assert (await one.hit("short", 60)).used == 2
        assert 59_000 < client.pttl(key) <= 60_000
        client.delete(key)
    assert (await one.hit("short", 60)).used == 1


async def test_what_is_added_counts_soon_and_all_of_it(pair: tuple[SharedCounts, SharedCounts]) -> None:
    one, two = pair
    for amount in (5, 2, 4):
        one.add("tokens", 60, amount)
    one.add("others", 60, 3)
    async with asyncio.timeout(HANG_SECONDS):
        while [(await two.hit(name, 60, 0)).used for name in ("tokens", "others")] != [11, 3]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_what_is_added_later_counts_too(pair: tuple[SharedCounts, SharedCounts]) -> None:
    one, two = pair
    for total in (5, 10):
        one.add("again", 60, 5)
        async with asyncio.timeout(HANG_SECONDS):
            while (await two.hit("again", 60, 0)).used != total:  # noqa: ASYNC110 - what it waits for has no event
                await asyncio.sleep(0.02)


async def test_what_was_added_is_counted_before_the_end_and_nothing_goes_on_behind_it(redis: RedisServer) -> None:
    before = asyncio.all_tasks()
    ending = SharedCounts(redis.url, WindowCounts(), HANG_SECONDS)
    await ending.start()
    ending.add("at the end", 60, 7)
    await ending.aclose()
    assert asyncio.all_tasks() == before
    with Redis.from_url(redis.url) as client:
        assert client.get(ours(redis, "at the end")) == b"7"


@pytest.mark.parametrize("pair", [0.5], indirect=True)
async def test_without_redis_each_has_its_share_until_it_is_back(
    pair: tuple[SharedCounts, SharedCounts], redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = pair
    while (await one.hit("a", 60, 8)).share > 1:  # a busy machine may be late once
        await reached(lambda: not one.state().degraded)
    before = one.state()
    with caplog.at_level(logging.WARNING, WINDOWS_OF):
        redis.mute()
        first = await one.hit("a", 60)
        assert first.share == 2
        # no call waits for it any more, and no count of Redis is known
        counts = [await one.hit("a", 60) for _ in range(20)]
        assert [count.used - first.used for count in counts] == list(range(1, 21))
        state = one.state()
        assert (state.degraded, state.local_hits - before.local_hits) == (True, 21)
        assert state.outages == before.outages + 1
        redis.speak()
        await reached(lambda: not one.state().degraded)
    while (again := await one.hit("a", 60, 0)).share > 1:
        await reached(lambda: not one.state().degraded)
    assert again.used >= 8
    own = [line for line in caplog.messages if "Redis" in line]
    assert sum("each of 2 processes limits by its own share" in line for line in own) >= 1
    assert sum("Redis answers again" in line for line in own) >= 1


async def test_a_process_that_is_not_seen_any_more_has_no_share(
    pair: tuple[SharedCounts, SharedCounts], redis: RedisServer
) -> None:
    one, _ = pair
    now = time.time()
    with Redis.from_url(redis.url) as client:
        client.zadd(ours(redis, PROCESSES), {"here": now + 3600, "gone": now - SEEN_SECONDS - 1, "long gone": 0.0})
    await reached(lambda: one.state().processes == 3)


async def test_a_process_alone_has_all_of_a_limit(redis: RedisServer) -> None:
    with Redis.from_url(redis.url) as client:
        client.flushall()
        alone = SharedCounts(redis.url, WindowCounts(), HANG_SECONDS)
        await alone.start()
        await reached(lambda: bool(client.keys(f"*{PROCESSES}")))
        seen = client.zrange(ours(redis, PROCESSES), 0, -1, withscores=True)
        # once it is seen again it has learnt how many were there before
        await reached(lambda: client.zrange(ours(redis, PROCESSES), 0, -1, withscores=True) != seen)
        assert (len(seen), alone.state().processes) == (1, 1)
        await alone.aclose()


async def test_a_redis_that_is_not_there_is_counting_alone() -> None:
    alone = SharedCounts("redis://127.0.0.1:1", WindowCounts())
    await alone.start()
    assert [(await alone.hit("a", 60)).used for _ in range(3)] == [1, 2, 3]
    assert (await alone.hit("a", 60, 0)).share == 1
    assert alone.state().degraded
    await alone.aclose()
