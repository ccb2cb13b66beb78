"""The gateway's paths behave as every other route does, although the router does not see their calls."""

from collections.abc import Iterator

import httpx2
import pytest

from apps.tests.support.routing import ASK, HEALTHY
from apps.tests.support.serving import serving_models
from eval.mock_upstream import MockUpstream

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def url(mock: MockUpstream) -> Iterator[str]:
    with serving_models(openai_base_url=mock.base_url, rate_limit_enabled=True, rate_limit_v1="1000/minute") as base:
        yield base


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_another_method_is_refused_with_allow(method: str, url: str, http: httpx2.Client) -> None:
    answer = http.request(method, url + CHAT)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("path", [CHAT + "/", "/v1/chat", CHAT.upper()])
def test_only_the_very_path_is_meant(path: str, url: str, http: httpx2.Client) -> None:
    assert http.post(url + path, json=ASK).status_code == 404


def test_a_query_changes_nothing(url: str, http: httpx2.Client) -> None:
    assert http.post(f"{url}{CHAT}?x=1", json={"model": HEALTHY, **ASK}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_every_layer_has_had_its_say(stream: bool, url: str, http: httpx2.Client) -> None:
    headers = {"X-Request-ID": "mine", "Origin": "http://page.example"}
    answer = http.post(url + CHAT, json={"model": HEALTHY, "stream": stream, **ASK}, headers=headers)
    assert answer.headers["X-Request-ID"] == "mine"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert int(answer.headers["X-RateLimit-Remaining"]) < 1000
    assert answer.headers["Server-Timing"].startswith("app;dur=")
    assert len(answer.headers.get_list("content-type")) == 1


def test_errors_are_the_envelope_with_the_limits_headers(url: str, http: httpx2.Client) -> None:
    answer = http.post(url + CHAT, content=b"{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert "X-RateLimit-Limit" in answer.headers
    too_large = http.post(url + CHAT, content=b"x" * 2_000_000, headers={"Content-Type": "application/json"})
    assert too_large.json()["error"]["code"] == "PAYLOAD_TOO_LARGE"


def test_it_is_on_the_openapi_page(url: str, http: httpx2.Client) -> None:
    assert list(http.get(f"{url}/openapi.json").json()["paths"][CHAT]) == ["post"]
