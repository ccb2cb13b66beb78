"""Limits in Redis: one budget for all processes, and a Redis that goes away takes nothing with it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from apps.api.tests.processes import running
from apps.api.tests.redis_server import RedisServer, needs_redis, redis_server

pytestmark = needs_redis
LIMIT = {"RATE_LIMIT_ENABLED": "true", "RATE_LIMIT_HEALTH": "10/minute"}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def test_two_processes_share_one_budget(redis: RedisServer, tmp_path: Path, http: httpx2.Client) -> None:
    limit = {**LIMIT, "RATE_LIMIT_STORAGE": redis.url}
    with running(tmp_path, "module", **limit) as one, running(tmp_path, "uvicorn", **limit) as two:
        answers = [http.get(f"{service.url}/health") for service in (one, two) * 8]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 6
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers[:3]] == ["9", "8", "7"]


def test_redis_stopped_under_load_is_noticed_by_nobody(redis: RedisServer, tmp_path: Path, http: httpx2.Client) -> None:
    limit = {**LIMIT, "RATE_LIMIT_HEALTH": "100000/minute", "RATE_LIMIT_STORAGE": redis.url}
    with running(tmp_path, **limit) as service:
        stopping = False

        def load() -> list[tuple[int, float]]:
            seen = []
            with httpx2.Client(timeout=30, trust_env=False) as client:
                end = time.monotonic() + 3
                while time.monotonic() < end:
                    began = time.monotonic()
                    seen.append((client.get(f"{service.url}/health").status_code, time.monotonic() - began))
            return seen

        with ThreadPoolExecutor() as pool:
            loads = [pool.submit(load) for _ in range(4)]
            time.sleep(1)
            redis.stop()
            stopping = True
            seen = [one for load_ in loads for one in load_.result()]
        assert stopping
        assert {status for status, _ in seen} == {200}
        assert max(seconds for _, seconds in seen) < 5
        assert len(seen) > 50
        assert http.get(f"{service.url}/health").headers["X-RateLimit-Limit"] == "100000"


def test_redis_that_was_never_there_is_memory(tmp_path: Path, http: httpx2.Client) -> None:
    with running(tmp_path, **LIMIT, RATE_LIMIT_STORAGE="redis://127.0.0.1:1") as service:
        assert [http.get(f"{service.url}/health").status_code for _ in range(11)] == [200] * 10 + [429]
