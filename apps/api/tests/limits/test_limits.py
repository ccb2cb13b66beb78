"""Rate limits: exact counts, a budget a route and an address, bad requests among them, and their headers."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import Request

from apps.api.src.limits.counts import SharedCounts
from apps.api.src.limits.limiter import RateLimits
from apps.core.deltas import Delta
from apps.core.errors import RateLimitExceeded, UpstreamError
from apps.models.scripted import ScriptedModel
from apps.tests.support.reading import JSON, envelope
from apps.tests.support.serving import serving_models, settings

LIMITS: dict[str, Any] = {
    "rate_limit_enabled": True,
    "rate_limit_generate": "3/minute",
    "rate_limit_local": "4/minute",
    "rate_limit_health": "5/minute",
}
BODY = {"prompt": "hi"}


@pytest.fixture
def url() -> Iterator[str]:
    with serving_models(**LIMITS) as base:
        yield base


def post_all(http: httpx2.Client, url: str, times: int, **how: Any) -> list[int]:
    return [http.post(url, **(how or {"json": BODY})).status_code for _ in range(times)]


def test_exactly_as_many_as_set_are_answered(url: str, http: httpx2.Client) -> None:
    assert post_all(http, f"{url}/generate", 5) == [200] * 3 + [429] * 2
    assert post_all(http, f"{url}/local/generate", 6) == [200] * 4 + [429] * 2


def test_both_health_routes_share_one_budget(url: str, http: httpx2.Client) -> None:
    statuses = [http.get(url + path).status_code for path in ["/health", "/healthz"] * 3]
    assert statuses == [200] * 5 + [429]


@pytest.mark.long
def test_ready_and_the_docs_are_not_limited(url: str, http: httpx2.Client) -> None:
    assert {http.get(url + path).status_code for path in ["/ready", "/openapi.json", "/docs"] * 10} == {200}


def test_the_refusal_is_the_contracts(url: str, http: httpx2.Client) -> None:
    post_all(http, f"{url}/generate", 3)
    refused = http.post(f"{url}/generate", json=BODY)
    error = envelope(refused)
    assert (error["status"], error["code"]) == (429, "RATE_LIMIT_EXCEEDED")
    assert error["message"] == "Rate limit exceeded: 3 per 1 minute"
    assert error["details"] == {"limit": "3 per 1 minute"}
    assert 1 <= int(refused.headers["Retry-After"]) <= 60


def test_every_counted_answer_tells_what_is_left(url: str, http: httpx2.Client) -> None:
    before = int(time.time())
    answers = [http.post(f"{url}/generate", json=BODY) for _ in range(4)]
    assert [answer.headers["X-RateLimit-Limit"] for answer in answers] == ["3"] * 4
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"generate";q=3;w=60'}
    assert [answer.headers["RateLimit"].rpartition(";")[0] for answer in answers[1:3]] == [
        '"generate";r=1',
        '"generate";r=0',
    ]
    for answer in answers:
        assert before <= int(answer.headers["X-RateLimit-Reset"]) <= time.time() + 61


@pytest.mark.parametrize(
    "bad",
    [{"content": b"{", "headers": JSON}, {"json": {}}, {"content": b"x", "headers": {"Content-Type": "text/plain"}}],
)
def test_bad_requests_count_too(bad: dict[str, Any], url: str, http: httpx2.Client) -> None:
    assert post_all(http, f"{url}/generate", 4, **bad)[-1] == 429
    assert http.post(f"{url}/generate", json=BODY).status_code == 429


def test_streams_count_and_tell(url: str, http: httpx2.Client) -> None:
    answer = http.post(f"{url}/generate?stream=true", json=BODY)
    assert (answer.status_code, answer.headers["X-RateLimit-Remaining"]) == (200, "2")


@pytest.mark.parametrize("retry_after", [None, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_errors_tell_what_is_left(retry_after: float | None, stream: bool, http: httpx2.Client) -> None:
    model = ScriptedModel(lambda _: [UpstreamError("no", retry_after=retry_after)])
    with serving_models(cloud=model, **LIMITS) as url:
        answer = http.post(f"{url}/generate", params={"stream": stream}, json=BODY)
    assert (answer.status_code, answer.headers.get("X-RateLimit-Limit")) == (502, "3")


def test_apps_do_not_share_their_counts(http: httpx2.Client) -> None:
    for _ in range(2):
        with serving_models(**LIMITS) as url:
            assert post_all(http, f"{url}/generate", 3) == [200] * 3


def test_the_window_opens_again(http: httpx2.Client) -> None:
    with serving_models(**{**LIMITS, "rate_limit_generate": "1/second"}) as url:
        first = http.post(f"{url}/generate", json=BODY)
        assert first.status_code == 200
        refused = [http.post(f"{url}/generate", json=BODY) for _ in range(2)]
        assert 429 in [answer.status_code for answer in refused]
        time.sleep(1.1)
        assert http.post(f"{url}/generate", json=BODY).status_code == 200


def test_turned_off_there_is_no_limit_and_no_header(http: httpx2.Client) -> None:
    with serving_models(**{**LIMITS, "rate_limit_enabled": False}) as url:
        answers = [http.post(f"{url}/generate", json=BODY) for _ in range(10)]
    assert {answer.status_code for answer in answers} == {200}
    assert not [name for answer in answers for name in answer.headers if "ratelimit" in name]


def test_a_limit_is_told_before_a_model_is_asked(http: httpx2.Client) -> None:
    model = ScriptedModel(lambda _: [Delta(finish_reason="stop")])
    with serving_models(cloud=model, **LIMITS) as url:
        post_all(http, f"{url}/generate", 6)
    assert len(model.requests) == 3


def request_from(address: str) -> Request:
    return Request({"type": "http", "client": (address, 1), "headers": []})


async def test_a_call_by_way_of_another_route_counts_against_its_own_limit() -> None:
    limits = RateLimits(settings(rate_limit_enabled=True))
    for _ in range(2):
        await limits.count(request_from("10.0.0.1"), "generate", "2/minute")
    with pytest.raises(RateLimitExceeded) as refused:
        await limits.count(request_from("10.0.0.1"), "generate", "2/minute")
    assert refused.value.headers["x-ratelimit-remaining"] == "0"
    # another address, and another limit
    await limits.count(request_from("10.0.0.2"), "generate", "2/minute")
    await limits.count(request_from("10.0.0.1"), "local", "2/minute")
    off = RateLimits(settings(rate_limit_enabled=False))
    for _ in range(3):
        await off.count(request_from("10.0.0.1"), "generate", "2/minute")


async def test_limits_are_counted_where_the_setting_says(tmp_path: Path) -> None:
    in_a_file = RateLimits(settings(rate_limit_storage=f"file://{tmp_path}/counts", api_workers=4)).counts
    assert ((await in_a_file.hit("a", 60)).share, in_a_file.state().shared) == (1, True)
    assert (tmp_path / "counts").exists()
    await in_a_file.aclose()
    nowhere = RateLimits(settings(rate_limit_storage=f"file://{tmp_path}/none/counts", api_workers=4)).counts
    assert (await nowhere.hit("a", 60)).share == 4
    here = RateLimits(settings(rate_limit_storage="memory://")).counts
    assert not here.state().shared
    assert isinstance(RateLimits(settings(rate_limit_storage="redis://127.0.0.1:1")).counts, SharedCounts)
