"""Calls of /v1 that join one under way: one call of the upstream, and each caller has the whole answer."""

import json
import threading

import httpx2
import pytest

from apps.tests.support.caching import CHAT, ZERO, Cached, requests, without_receipt
from apps.tests.support.reading import connect, post
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@both_ways
@pytest.mark.long
def test_fifty_callers_at_the_same_time_are_one_call_of_the_upstream(
    stream: bool, cached: Cached, mock: MockUpstream
) -> None:
    answers: list[httpx2.Response] = []

    def ask() -> None:
        answers.append(cached.ask(model="slow-100", stream=stream))

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert requests(mock) == 1
    assert sorted(answer.headers["X-Cache"] for answer in answers) == ["hit"] * 49 + ["miss"]
    bodies = {without_receipt(answer.content) if stream else answer.content for answer in answers}
    assert len(bodies) == 1
    assert until(lambda: sorted(cached.uses()) == ["hit"] * 49 + ["miss"])


def test_other_tenants_are_not_joined(cached: Cached, mock: MockUpstream) -> None:
    threads = [
        threading.Thread(target=cached.ask, kwargs={"model": "slow-100", "headers": {"X-Tenant": tenant}})
        for tenant in "abc" * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert requests(mock) == 3


@both_ways
def test_a_first_caller_that_leaves_does_not_break_the_one_that_joined(
    stream: bool, cached: Cached, mock: MockUpstream
) -> None:
    first = connect(cached.url)
    first.sendall(post(CHAT, json.dumps({"model": "slow-300", **ZERO, "stream": stream}).encode()))
    assert until(lambda: mock.stats()["open"] == 1)
    answers: list[httpx2.Response] = []
    second = threading.Thread(target=lambda: answers.append(cached.ask(model="slow-300", stream=stream)))
    second.start()
    assert until(lambda: cached.cache.counts.joined == 1)
    first.close()
    second.join()
    assert (answers[0].status_code, requests(mock)) == (200, 1)
    assert b"error" not in answers[0].content
    assert cached.ask(model="slow-300", stream=stream).headers["X-Cache"] == "hit"


@both_ways
def test_when_everyone_has_left_the_call_is_given_up_and_not_kept(
    stream: bool, cached: Cached, mock: MockUpstream
) -> None:
    with connect(cached.url) as alone:
        alone.sendall(post(CHAT, json.dumps({"model": "slow-300", **ZERO, "stream": stream}).encode()))
        assert until(lambda: mock.stats()["open"] == 1)
    assert until(lambda: mock.stats()["open"] == 0)
    assert until(lambda: [record.outcome for record in cached.books.closed] == ["CLIENT_GONE"])
    assert cached.ask(model="slow-300", stream=stream).headers["X-Cache"] == "miss"


def test_a_failure_is_told_to_all_who_joined(cached: Cached, mock: MockUpstream) -> None:
    answers: list[httpx2.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(cached.ask(model="fault-400"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(a.status_code, a.json()["error"]["code"]) for a in answers} == {(400, "UPSTREAM_ERROR")}


def test_a_joined_callers_deadline_is_its_own(cached: Cached, mock: MockUpstream) -> None:
    patient: list[httpx2.Response] = []
    thread = threading.Thread(target=lambda: patient.append(cached.ask(model="slow-500")))
    thread.start()
    assert until(lambda: mock.stats()["open"] == 1)
    hasty = cached.ask(model="slow-500", headers={"X-Deadline-Ms": "50"})
    thread.join()
    assert (hasty.status_code, patient[0].status_code, requests(mock)) == (504, 200, 1)
