"""CORS: open while developing, only the named origins otherwise, and credentials never together with a star."""

from typing import Any

import httpx2
import pytest

from apps.tests.support.reading import envelope
from apps.tests.support.serving import serving_models

HERE, ELSEWHERE = "https://app.example", "https://evil.example"
BODY = {"prompt": "hi"}


def preflight(http: httpx2.Client, url: str, origin: str, **headers: str) -> httpx2.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST", **headers}
    return http.options(f"{url}/generate", headers=asked)


def cors(response: httpx2.Response) -> dict[str, str]:
    return {k.lower(): v for k, v in response.headers.items() if k.lower().startswith("access-control-allow")}


def test_in_development_every_origin_may_ask_without_credentials(http: httpx2.Client) -> None:
    with serving_models(env="development", allowed_origins=[HERE]) as url:
        answers = [
            http.post(f"{url}/generate", json=BODY, headers={"Origin": ELSEWHERE, "Cookie": "a=b"}),
            http.get(f"{url}/nowhere", headers={"Origin": ELSEWHERE}),
        ]
        before = preflight(http, url, ELSEWHERE, **{"Access-Control-Request-Headers": "content-type, x-request-id"})
    for answer in answers:
        assert cors(answer) == {"access-control-allow-origin": "*"}
    assert before.status_code == 200
    assert before.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in before.headers
    assert "content-type" in before.headers["access-control-allow-headers"]


@pytest.mark.parametrize("env", ["production", "test"])
def test_otherwise_only_the_named_origins_may(env: str, http: httpx2.Client) -> None:
    with serving_models(env=env, auth="off", allowed_origins=[HERE]) as url:
        named = http.post(f"{url}/generate", json=BODY, headers={"Origin": HERE})
        other = http.post(f"{url}/generate", json=BODY, headers={"Origin": ELSEWHERE})
        before = preflight(http, url, HERE)
        refused = preflight(http, url, ELSEWHERE)
    assert named.headers["access-control-allow-origin"] == HERE
    assert named.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in other.headers
    assert (before.status_code, before.headers["access-control-allow-origin"]) == (200, HERE)
    assert "access-control-allow-origin" not in refused.headers
    assert envelope(refused)["code"] == "INVALID_VALUE"


def test_a_star_among_the_named_origins_turns_credentials_off(http: httpx2.Client) -> None:
    with serving_models(env="production", auth="off", allowed_origins=[HERE, "*"]) as url:
        for origin in (HERE, ELSEWHERE):
            answer = http.post(f"{url}/generate", json=BODY, headers={"Origin": origin, "Cookie": "a=b"})
            assert cors(answer) == {"access-control-allow-origin": "*"}


def test_without_named_origins_there_is_no_cors(http: httpx2.Client) -> None:
    with serving_models(env="production", auth="off") as url:
        assert cors(http.post(f"{url}/generate", json=BODY, headers={"Origin": HERE})) == {}
        assert envelope(preflight(http, url, HERE))["code"] == "METHOD_NOT_ALLOWED"


CALLS: list[dict[str, Any]] = [
    {"json": BODY},
    {"content": b"{", "headers": {"Content-Type": "application/json"}},
    {"content": b"x" * 2000, "headers": {"Content-Type": "application/json"}},
    {"content": b"x", "headers": {"Content-Type": "text/plain"}},
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.long
def test_a_browser_may_read_every_answer_and_the_headers_that_say_the_rest(
    call: dict[str, Any], http: httpx2.Client
) -> None:
    with serving_models(max_body_bytes=1024, rate_limit_enabled=True) as url:
        headers = {**call.get("headers", {}), "Origin": HERE}
        answer = http.post(f"{url}/generate", **{**call, "headers": headers})
    assert answer.headers["access-control-allow-origin"] == "*"
    exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
    ours = {"x-model", "x-request-id", "server-timing", "retry-after"}
    assert exposed >= ours | {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}
