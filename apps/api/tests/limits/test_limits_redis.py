"""Limits in Redis: one budget for all processes, and a Redis that goes away takes nothing with it."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx2
import pytest

from apps.tests.overheard import hearing_client
from apps.tests.support.processes import Running, running
from apps.tests.support.redis_server import RedisServer, needs_redis, redis_server
from apps.tests.support.waiting import until

pytestmark = needs_redis
# an hour: a busy machine may take its time for the calls of a test
LIMIT = {"RATE_LIMIT_ENABLED": "true", "RATE_LIMIT_HEALTH": "10/hour"}
WIDE = {**LIMIT, "RATE_LIMIT_HEALTH": "1000000/hour"}
LOST, REGAINED = "each of", "all processes limit together"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def load(url: str, calls: int) -> list[int]:
    """Statuses of calls one after the other."""
    with hearing_client(timeout=90) as client:
        return [client.get(f"{url}/health").status_code for _ in range(calls)]


@dataclass(slots=True)
class Load:
    """Statuses of calls on several connections, while it is under way."""

    url: str
    seen: list[int] = field(default_factory=list)

    @contextmanager
    def going(self) -> Iterator[None]:
        over = threading.Event()

        def call() -> None:
            with hearing_client(timeout=90) as client:
                while not over.is_set():
                    self.seen.append(client.get(f"{self.url}/health").status_code)

        with ThreadPoolExecutor() as pool:
            calls = [pool.submit(call) for _ in range(4)]
            try:
                yield
            finally:
                over.set()
            for each in calls:
                each.result()

    def goes_on(self) -> None:
        """Wait for fifty more answers."""
        wanted = len(self.seen) + 50
        assert until(lambda: len(self.seen) >= wanted), self.seen[-10:]


def says(http: httpx2.Client, url: str, words: str) -> bool:
    return words in http.get(url).text


def wait_for(service: Running, line: str) -> None:
    assert until(lambda: line in service.log.read_text()), service.log.read_text()


@pytest.mark.long
def test_two_processes_hold_one_limit_exactly(redis: RedisServer, tmp_path: Path, http: httpx2.Client) -> None:
    limit = {**LIMIT, "RATE_LIMIT_HEALTH": "500/hour", "RATE_LIMIT_STORAGE": redis.url}
    with running(tmp_path, "module", **limit) as one, running(tmp_path, "uvicorn", **limit) as two:
        for service in (one, two):  # another route's limit: its first call imports the client and connects
            http.post(f"{service.url}/generate", json={})
        first = [http.get(f"{service.url}/health") for service in (one, two, one)]
        assert [answer.headers["X-RateLimit-Remaining"] for answer in first] == ["499", "498", "497"]
        with ThreadPoolExecutor() as pool:
            loads = [pool.submit(load, service.url, 100) for service in (one, two) for _ in range(4)]
            statuses = [status for seen in loads for status in seen.result()]
    assert statuses.count(200) + 3 == 500
    assert statuses.count(429) == len(statuses) - 497


@pytest.mark.long
def test_redis_stopped_under_load_is_noticed_by_nobody(redis: RedisServer, tmp_path: Path, http: httpx2.Client) -> None:
    with running(tmp_path, **WIDE, RATE_LIMIT_STORAGE=redis.url) as service:
        calls = Load(service.url)
        with calls.going():
            calls.goes_on()
            redis.stop()
            calls.goes_on()
        # the calls' own bound of time ends a hang
        assert set(calls.seen) == {200}
        assert http.get(f"{service.url}/health").headers["X-RateLimit-Limit"] == "1000000"


@pytest.mark.long
def test_a_muted_redis_refuses_nothing_and_is_asked_again_when_it_speaks(redis: RedisServer, tmp_path: Path) -> None:
    with running(tmp_path, **WIDE, RATE_LIMIT_STORAGE=redis.url) as service:
        calls = Load(service.url)
        with calls.going():
            calls.goes_on()
            redis.mute()
            wait_for(service, LOST)
            calls.goes_on()
            redis.speak()
            wait_for(service, REGAINED)
            calls.goes_on()
        assert set(calls.seen) == {200}
        assert service.log.read_text().count(LOST) == service.log.read_text().count(REGAINED) == 1


@pytest.mark.long
def test_a_flapping_redis_hangs_nobody(redis: RedisServer, tmp_path: Path) -> None:
    with running(tmp_path, **WIDE, RATE_LIMIT_STORAGE=redis.url) as service:
        calls = Load(service.url)
        with calls.going():
            for _ in range(5):
                redis.mute()
                time.sleep(0.4)
                redis.speak()
                time.sleep(0.3)
            calls.goes_on()
    # the calls' own bound of time ends a hang
    assert set(calls.seen) == {200}


@pytest.mark.long
def test_without_redis_each_process_has_its_share(redis: RedisServer, tmp_path: Path, http: httpx2.Client) -> None:
    limit = {**LIMIT, "RATE_LIMIT_STORAGE": redis.url}
    with running(tmp_path, **limit) as one, running(tmp_path, **limit) as two:
        # both have said that they are there
        for service in (one, two):
            metrics = f"{service.url}/metrics"
            assert until(partial(says, http, metrics, "genai_rate_limit_processes 2.0"))
        redis.stop()
        wait_for(one, LOST)
        wait_for(two, LOST)
        answers = [http.get(f"{service.url}/health") for service in (one, two) for _ in range(7)]
    assert [answer.status_code for answer in answers] == ([200] * 5 + [429] * 2) * 2
    assert answers[5].headers["RateLimit-Policy"] == '"health";q=10;w=3600'


@pytest.mark.long
def test_redis_that_was_never_there_is_memory(tmp_path: Path, http: httpx2.Client) -> None:
    with running(tmp_path, **LIMIT, RATE_LIMIT_STORAGE="redis://127.0.0.1:1") as service:
        assert [http.get(f"{service.url}/health").status_code for _ in range(11)] == [200] * 10 + [429]


@pytest.mark.parametrize("kind", ["module", "uvicorn"])
@pytest.mark.long
def test_a_thousand_forged_addresses_are_one_bucket(kind: str, tmp_path: Path, http: httpx2.Client) -> None:
    limit = {**LIMIT, "RATE_LIMIT_HEALTH": "20/hour"}
    with running(tmp_path, kind, **limit) as service:
        forged = [f"10.{i // 250}.{i % 250}.7" for i in range(1000)]
        statuses = [
            http.get(f"{service.url}/health", headers={"X-Forwarded-For": address}).status_code for address in forged
        ]
    assert statuses == [200] * 20 + [429] * 980
