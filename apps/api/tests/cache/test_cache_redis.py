"""The response cache in a real Redis: shared by processes, and never in the way when it is down, muted or flapping."""

import os
import pickle
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis

from apps.cache.store import PREFIX, GuardedStore
from apps.tests.support.caching import Cached, caching
from apps.tests.support.redis_server import RedisServer, needs_redis, redis_server, start_redis
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream

pytestmark = needs_redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server
        # a stopped process would not hear that it shall end
        server.process.send_signal(signal.SIGCONT)


@pytest.fixture
def cached(redis: RedisServer, mock: MockUpstream) -> Iterator[Cached]:
    mock.reset()
    with caching(openai_base_url=mock.base_url, cache_storage=redis.url) as running:
        yield running


def use(cached: Cached, number: int = 0, tenant: str = "a") -> str:
    answer = cached.ask(seed=number, headers={"X-Tenant": tenant})
    assert answer.status_code == 200
    return answer.headers["X-Cache"]


def again(server: RedisServer, folder: Path) -> subprocess.Popen[bytes]:
    """Another Redis where that one was."""
    return start_redis(urlsplit(server.url).port or 0, folder)


def recovers(cached: Cached, number: int) -> bool:
    return until(lambda: use(cached, number) == "hit")


def test_two_apps_share_what_one_has_answered(cached: Cached, redis: RedisServer, mock: MockUpstream) -> None:
    with caching(openai_base_url=mock.base_url, cache_storage=redis.url) as other:
        assert [use(cached), use(other), use(other, tenant="b")] == ["miss", "hit", "miss"]
    with Redis.from_url(redis.url) as client:
        for key in client.scan_iter():
            assert key.decode().startswith(PREFIX)
            assert 0 < client.pttl(key) <= 3_600_000


def test_a_stream_comes_back_from_redis_too(cached: Cached) -> None:
    first, second = (cached.ask(stream=True) for _ in range(2))
    assert [first.headers["X-Cache"], second.headers["X-Cache"]] == ["miss", "hit"]
    assert first.content.split(b": receipt ")[0] == second.content.split(b": receipt ")[0]


class Bomb:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.folder),))


def test_a_poisoned_pickle_is_a_miss_and_not_executed(cached: Cached, redis: RedisServer, tmp_path: Path) -> None:
    use(cached)
    with Redis.from_url(redis.url) as client:
        (key,) = client.keys()
        kept = client.get(key)
        for poison in (pickle.dumps(Bomb(tmp_path / "executed")), b"bytes:" + kept, b"123", b"", kept[:-1]):
            client.set(key, poison)
            assert use(cached) == "miss"
            assert until(lambda: client.get(key).startswith(b"answer1"))
    assert not (tmp_path / "executed").exists()
    assert cached.cache.counts.corrupt >= 4


def test_an_answer_under_another_ones_key_is_not_given(cached: Cached, redis: RedisServer) -> None:
    use(cached, tenant="a")
    with Redis.from_url(redis.url) as client:
        assert until(lambda: len(client.keys()) == 1)
        (mine,) = client.keys()
        use(cached, tenant="b")
        assert until(lambda: len(client.keys()) == 2)
        (theirs,) = set(client.keys()) - {mine}
        # as if a connection had mixed two replies up
        client.set(theirs, client.get(mine))
        assert use(cached, tenant="b") == "miss"
    assert cached.cache.counts.corrupt == 1


@pytest.mark.long
def test_killed_it_is_a_miss_and_comes_back(cached: Cached, redis: RedisServer, tmp_path: Path) -> None:
    assert recovers(cached, 0)
    redis.process.kill()
    redis.process.wait()
    assert {use(cached, number) for number in range(1, 21)} == {"miss"}
    assert cached.cache.storage_failures > 0
    process = again(redis, tmp_path)
    try:
        assert recovers(cached, 100)
    finally:
        process.terminate()
        process.wait()


@pytest.mark.long
def test_muted_it_is_asked_once_by_calls_and_then_by_its_probe_alone(cached: Cached, redis: RedisServer) -> None:
    """The first call waits a fifth of a second; the others do not ask, so that they do not wait."""
    assert recovers(cached, 0)
    redis.process.send_signal(signal.SIGSTOP)
    assert use(cached, 1) == "miss"
    assert until(lambda: cached.cache.storage_failures > 0)
    store = cached.cache.store
    assert isinstance(store, GuardedStore)
    skipped = store.skipped
    assert {use(cached, number) for number in range(2, 22)} == {"miss"}
    assert store.skipped >= skipped + 20
    redis.process.send_signal(signal.SIGCONT)
    assert recovers(cached, 0)


@pytest.mark.long
def test_flapping_it_never_breaks_a_call_and_never_mixes_tenants(cached: Cached, redis: RedisServer) -> None:
    seen = set()
    for number in range(26):
        redis.process.send_signal(signal.SIGSTOP if number % 2 else signal.SIGCONT)
        for tenant in ("a", "b", "c"):
            messages = [{"role": "user", "content": f"{tenant} {number % 3}"}]
            answer = cached.ask(model="echo", messages=messages, headers={"X-Tenant": tenant})
            assert answer.status_code == 200
            assert answer.json()["choices"][0]["message"]["content"] == f"{tenant} {number % 3}"
            seen.add(answer.headers["X-Cache"])
        time.sleep(0.15)
    redis.process.send_signal(signal.SIGCONT)
    assert recovers(cached, 0)
    assert seen <= {"hit", "miss"}


def test_a_redis_that_was_not_there_at_the_start_is_taken_when_it_comes(
    redis: RedisServer, mock: MockUpstream, tmp_path: Path
) -> None:
    redis.stop()
    with caching(openai_base_url=mock.base_url, cache_storage=redis.url) as cached:
        assert [use(cached), use(cached, 1)] == ["miss", "miss"]
        process = again(redis, tmp_path)
        try:
            assert recovers(cached, 2)
        finally:
            process.terminate()
            process.wait()
