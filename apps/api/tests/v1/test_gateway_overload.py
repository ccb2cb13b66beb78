"""200 clients on 8 places and a queue of 8: an answer, or a refusal with a time; and others are still served.

What this does for speed is measured by eval/gateway_overload.py; here are no figures that could fail on a busy machine.
"""

import threading
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from apps.tests.support.routing import ASK, name, provider, routing_file
from apps.tests.support.serving import serving_models
from eval.mock_upstream import MockUpstream

CLIENTS = 200


@pytest.mark.long
def test_only_answers_and_refusals_with_a_time(mock: MockUpstream, tmp_path: Path) -> None:
    narrow = provider(mock.base_url, max_concurrency=8, queue_size=8, queue_timeout=20)
    narrow["timeouts"] = {"first_token": 20, "total": 60}
    content = {"providers": {"narrow": narrow}, "models": {"slow-20": name("slow-20", "narrow")}}
    seen: list[httpx2.Response] = []
    health: list[int] = []
    mock.reset()
    # one client for all: a client of its own for each call would read the certificates of the world 600 times
    limits = httpx2.Limits(max_connections=None)
    with (
        serving_models(gateway_config=routing_file(tmp_path, content)) as url,
        httpx2.Client(timeout=90, limits=limits) as http,
    ):

        def client(stream: bool) -> None:
            for _ in range(3):
                body = {"model": "slow-20", "stream": stream, **ASK}
                seen.append(http.post(f"{url}/v1/chat/completions", json=body))

        def watch() -> None:
            while not over.wait(0.02):
                health.append(http.get(f"{url}/health").status_code)

        over = threading.Event()
        watcher = threading.Thread(target=watch)
        clients = [threading.Thread(target=client, args=(i % 2 == 0,)) for i in range(CLIENTS)]
        watcher.start()
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        over.set()
        watcher.join()
    statuses = Counter(answer.status_code for answer in seen)
    assert set(statuses) == {200, 503}
    assert sum(statuses.values()) == 3 * CLIENTS
    assert statuses[200] >= 16
    assert mock.stats()["requests"] == statuses[200]
    for answer in seen:
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "OVERLOADED"
            assert int(answer.headers["Retry-After"]) >= 1
        else:
            assert b"error" not in answer.content
    assert set(health) == {200}
