"""A key's own limits, on top of the address's: requests and tokens a minute, counted a key wherever it calls from."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from apps.api.src.application import create_app
from apps.api.src.wiring.gateway import build_gateway
from apps.api.src.wiring.services import on_record
from apps.core.callers import Caller
from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.models.scripted import ScriptedModel
from apps.tests.support.acting_as import ActingAs
from apps.tests.support.reading import envelope
from apps.tests.support.serving import serving, settings

CALLERS = {
    "two": Caller("t", "k-two", requests_per_minute=2),
    "other": Caller("t", "k-other", requests_per_minute=2),
    "three": Caller("t", "k-three", requests_per_minute=3),
    "tokens": Caller("t", "k-tokens", tokens_per_minute=100),
    "free": Caller("t", "k-free"),
}
BODY = {"prompt": "hi", "max_tokens": 20}
USED = Usage(prompt_tokens=5, completion_tokens=45)


@pytest.fixture
def url() -> Iterator[str]:
    yield from serve(rate_limit_enabled=True, rate_limit_generate="5/minute")


@pytest.fixture
def keys_only() -> Iterator[str]:
    yield from serve(rate_limit_enabled=False)


def serve(**changes: object) -> Iterator[str]:
    configured = settings(auth="off", **changes)
    model = ScriptedModel(lambda _: [Delta("hello"), Delta(finish_reason="stop", usage=USED)])
    app = create_app(configured, on_record(configured, model, model, build_gateway(configured, model)))
    app.add_middleware(ActingAs, callers=CALLERS)
    with serving(app) as base:
        yield base


def ask(http: httpx2.Client, url: str, who: str, path: str = "/generate", **fields: Any) -> httpx2.Response:
    return http.post(url + path, json={**BODY, **fields}, headers={"X-Act-As": who})


def test_a_key_has_its_own_limit_on_all_routes_together(url: str, http: httpx2.Client) -> None:
    answers = [ask(http, url, "two", path) for path in ("/generate", "/local/generate", "/local/generate")]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    error = envelope(answers[2])
    assert (error["code"], error["message"]) == ("RATE_LIMIT_EXCEEDED", "Rate limit exceeded: 2 per 1 minute")
    assert error["details"] == {"limit": "2 per 1 minute", "source": "key"}
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 60
    assert ask(http, url, "three").status_code == 200


def test_two_keys_of_a_tenant_with_the_same_limit_have_one_each(keys_only: str, http: httpx2.Client) -> None:
    statuses = [ask(http, keys_only, who).status_code for who in ("two", "two", "other", "other", "two", "other")]
    assert statuses == [200] * 4 + [429] * 2


def test_the_address_is_limited_whoever_calls_from_it(url: str, http: httpx2.Client) -> None:
    statuses = [ask(http, url, who).status_code for who in ("three", "three", "three", "two", "two", "free")]
    assert statuses == [200] * 5 + [429]


def test_the_headers_list_every_limit_and_tell_the_tightest(url: str, http: httpx2.Client) -> None:
    headers = ask(http, url, "two").headers
    assert headers["RateLimit-Policy"] == '"generate";q=5;w=60, "key";q=2;w=60'
    first, second = headers["RateLimit"].split(", ")
    assert first.startswith('"generate";r=4;t=')
    assert second.startswith('"key";r=1;t=')
    assert 0 < int(second.rpartition("=")[2]) <= 60
    assert (headers["X-RateLimit-Limit"], headers["X-RateLimit-Remaining"]) == ("2", "1")


def test_where_addresses_are_not_limited_keys_still_are(keys_only: str, http: httpx2.Client) -> None:
    assert [ask(http, keys_only, "two").status_code for _ in range(3)] == [200, 200, 429]
    free = [ask(http, keys_only, "free") for _ in range(9)]
    assert {answer.status_code for answer in free} == {200}
    assert not [name for answer in free for name in answer.headers if "ratelimit" in name]


def test_tokens_that_were_used_are_counted_and_an_estimate_beyond_the_rest_is_refused(
    keys_only: str, http: httpx2.Client
) -> None:
    assert [ask(http, keys_only, "tokens").status_code for _ in range(2)] == [200, 200]
    refused = ask(http, keys_only, "tokens")
    error = envelope(refused)
    assert (refused.status_code, error["code"]) == (429, "RATE_LIMIT_EXCEEDED")
    assert error["details"] == {"limit": "100 per 1 minute", "source": "key", "unit": "tokens", "estimated": 20}
    assert refused.headers["RateLimit-Policy"] == '"key-tokens";q=100;w=60;qu="tokens"'
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert ask(http, keys_only, "free").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_of_tokens_still_tells_the_limits_of_requests(stream: bool, url: str, http: httpx2.Client) -> None:
    refused = ask(http, url, "tokens", f"/generate?stream={str(stream).lower()}", max_tokens=101)
    assert refused.status_code == 429
    assert refused.headers["RateLimit-Policy"] == '"generate";q=5;w=60, "key-tokens";q=100;w=60;qu="tokens"'
    assert refused.headers["X-RateLimit-Remaining"] == "0"
