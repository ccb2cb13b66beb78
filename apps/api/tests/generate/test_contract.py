"""The contract, row by row, over HTTP; what a row needs more room for has a file of its own beside this one."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from apps.core.deltas import Delta
from apps.core.errors import ModelUnavailable, Overloaded, Timeout, error_classes
from apps.core.messages import ChatRequest
from apps.models.scripted import ScriptedModel, Step
from apps.tests.support.reading import JSON, envelope, read_events
from apps.tests.support.serving import serving_models, settings, upstream_at
from eval.mock_upstream import MockUpstream

LOCAL_NAME = "local-model"


def behave(request: ChatRequest) -> list[Step]:
    """The local model of these rows: its prompt says how it ends."""
    errors: dict[str, Exception] = {
        "loading": ModelUnavailable("The local model is loading; try again", retry_after=5),
        "full": Overloaded("The local model's queue is full", retry_after=2),
        "late": Timeout("The time ran out"),
        "crash": ZeroDivisionError("secret"),
    }
    prompt = str(request.messages[0].content)
    return [errors[prompt]] if prompt in errors else [Delta("hi", model=LOCAL_NAME), Delta(finish_reason="stop")]


@dataclass(frozen=True)
class Row:
    """A call, and what the contract says of its answer."""

    says: str
    call: str
    body: Any = None
    status: int = 200
    code: str | None = None
    field_: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    message: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    sends: Mapping[str, str] = field(default_factory=dict)
    answer: Any = None


HI = {"prompt": "hi"}
CLOUD, LOCAL = "POST /generate", "POST /local/generate"


def local(prompt: str) -> dict[str, str]:
    return {"prompt": prompt}


def upstream(model: str) -> dict[str, str]:
    return {"prompt": "hi", "model": model}


ROWS = [
    Row("health", "GET /health", answer={"status": "ok"}),
    Row("healthz", "GET /healthz", answer={"status": "ok"}),
    Row("ready", "GET /ready"),
    Row("docs", "GET /docs", headers={"content-type": r"text/html.*"}),
    Row("redoc", "GET /redoc", headers={"content-type": r"text/html.*"}),
    Row("openapi", "GET /openapi.json", headers={"content-type": "application/json"}),
    Row("the cloud answers", CLOUD, HI, answer={"response": "the quick brown fox jumps over "}),
    Row("the local model answers", LOCAL, HI, answer={"response": "hi"}, headers={"x-model": LOCAL_NAME}),
    Row("any model is handed on", CLOUD, upstream("any/name:1"), headers={"x-model": "any/name:1"}),
    Row("DEFAULT_MODEL else", CLOUD, HI, headers={"x-model": "gpt-4o-mini"}),
    Row("only its own name", LOCAL, upstream("x"), 404, "NOT_FOUND", "model"),
    Row("its own name", LOCAL, upstream(LOCAL_NAME)),
    Row("the request's id", CLOUD, HI, sends={"X-Request-ID": "a-1_B"}, headers={"x-request-id": "a-1_B"}),
    Row("else one is made", CLOUD, HI, sends={"X-Request-ID": "a b"}, headers={"x-request-id": "[0-9a-f]{32}"}),
    Row("the time it took", CLOUD, HI, headers={"server-timing": r"app;dur=\d+\.\d"}),
    Row("prompt of 1000", CLOUD, local("é" * 1000)),
    Row("prompt of 1001", CLOUD, local("é" * 1001), 422, "INVALID_VALUE", "prompt", {"max": 1000, "received": 1001}),
    Row("white space is empty", LOCAL, local(" \t\n"), 422, "INVALID_VALUE", "prompt"),
    Row("no prompt", CLOUD, {}, 422, "MISSING_REQUIRED_FIELD", "prompt"),
    Row("strict number", CLOUD, {**HI, "temperature": "0.7"}, 422, "INVALID_TYPE", "temperature"),
    Row("true is no number", CLOUD, {**HI, "temperature": True}, 422, "INVALID_TYPE", "temperature"),
    Row("100.0 is no integer", CLOUD, {**HI, "max_tokens": 100.0}, 422, "INVALID_TYPE", "max_tokens"),
    Row("unknown fields", CLOUD, {**HI, "unknown": 1}),
    Row("the seed's words", CLOUD, {**HI, "temperature": 3.5}, 422, "INVALID_VALUE", "temperature",
        {"min": 0, "max": 2, "received": 3.5}, "Temperature must be between 0 and 2"),
    Row("top_p", LOCAL, {**HI, "top_p": 1.5}, 422, "INVALID_VALUE", "top_p", {"min": 0, "max": 1, "received": 1.5}),
    Row("cloud tokens", CLOUD, {**HI, "max_tokens": 16384}),
    Row("too many", CLOUD, {**HI, "max_tokens": 16385}, 422, "INVALID_VALUE", "max_tokens", {"max": 16384}),
    Row("local tokens", LOCAL, {**HI, "max_tokens": 2000}),
    Row("too many here", LOCAL, {**HI, "max_tokens": 2001}, 422, "INVALID_VALUE", "max_tokens", {"max": 2000}),
    Row("NaN", CLOUD, b'{"prompt": "hi", "top_p": NaN}', 422, "INVALID_JSON"),
    Row("Infinity", CLOUD, b'{"prompt": "hi", "top_p": Infinity}', 422, "INVALID_JSON"),
    Row("lone surrogate", CLOUD, b'{"prompt": "\\ud800"}', 422, "INVALID_JSON"),
    Row("not UTF-8", CLOUD, b'{"prompt": "\xff"}', 422, "INVALID_JSON"),
    Row("empty body", CLOUD, b"", 422, "INVALID_JSON"),
    Row("no JSON", CLOUD, b"prompt", 422, "INVALID_JSON"),
    Row("wrong type", CLOUD, b"{}", 415, "UNSUPPORTED_MEDIA_TYPE", sends={"Content-Type": "text/plain"}),
    Row("missing type", CLOUD, b"{}", 415, "UNSUPPORTED_MEDIA_TYPE", sends={"Content-Type": ""}),
    Row("no such route", "GET /nowhere", None, 404, "NOT_FOUND"),
    Row("no such method", "GET /generate", None, 405, "METHOD_NOT_ALLOWED", headers={"allow": "POST"}),
    Row("too large", CLOUD, b" " * 1_048_577, 413, "PAYLOAD_TOO_LARGE"),
    Row("upstream 429", CLOUD, upstream("fault-429"), 429, "RATE_LIMIT_EXCEEDED", None, {"source": "upstream"},
        headers={"retry-after": "2"}),
    Row("retries ran out", CLOUD, upstream("fault-500"), 500, "INTERNAL_ERROR", None,
        {"attempts": 3, "cause": "the upstream answered 500"}),
    Row("a crash", LOCAL, local("crash"), 500, "INTERNAL_ERROR", message="Internal server error"),
    Row("the upstream refused", CLOUD, upstream("fault-401"), 502, "UPSTREAM_ERROR", None, {"upstream_status": 401}),
    Row("still loading", LOCAL, local("loading"), 503, "MODEL_UNAVAILABLE", headers={"retry-after": "5"}),
    Row("queue full", LOCAL, local("full"), 503, "OVERLOADED", headers={"retry-after": "2"}),
    Row("the last retry timed out", CLOUD, upstream("fault-hang"), 504, "TIMEOUT", None, {"attempts": 3}),
    Row("the time ran out", LOCAL, local("late"), 504, "TIMEOUT"),
]  # fmt: skip


@pytest.fixture(scope="module")
def url(mock: MockUpstream) -> Iterator[str]:
    model = ScriptedModel(behave, name=LOCAL_NAME)
    with serving_models(local=model, **upstream_at(mock.base_url)) as base:
        yield base


def called(http: httpx2.Client, url: str, row: Row, **query: Any) -> httpx2.Response:
    method, path = row.call.split()
    content = row.body if isinstance(row.body, bytes | None) else json.dumps(row.body).encode()
    headers = {**(JSON if content is not None else {}), **row.sends}
    return http.request(method, url + path, content=content, headers=headers, params=query)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_row(row: Row, url: str, http: httpx2.Client) -> None:
    check(row, called(http, url, row))


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.call in (CLOUD, LOCAL) and row.code], ids=lambda row: row.says
)
def test_row_streamed_has_its_real_status_where_it_fails_before_the_first_delta(
    row: Row, url: str, http: httpx2.Client
) -> None:
    check(row, called(http, url, row, stream="true"))


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.call in (CLOUD, LOCAL) and row.answer], ids=lambda row: row.says
)
def test_row_streamed_says_the_same(row: Row, url: str, http: httpx2.Client) -> None:
    answer = called(http, url, row, stream="true")
    streamed = read_events(answer.content)
    assert (streamed.end[0], {"response": streamed.text}) == ("done", row.answer)


def check(row: Row, answer: httpx2.Response) -> None:
    assert answer.status_code == row.status, answer.text
    for name, pattern in row.headers.items():
        assert re.fullmatch(pattern, answer.headers[name])
    if row.code:
        error = envelope(answer)
        assert (error["code"], error["field"]) == (row.code, row.field_)
        assert row.details.items() <= error["details"].items()
        assert row.message in (None, error["message"])
    if row.answer:
        assert answer.json() == row.answer


def test_the_rows_show_every_code() -> None:
    # of /v1's Idempotency-Key, of keys, of uploads, and of the server before any route: proven with those
    beside_the_contract = {"CONFLICT", "UNAUTHORIZED", "FORBIDDEN"}
    beside_the_contract |= {"BAD_REQUEST", "HEADERS_TOO_LARGE", "REQUEST_TIMEOUT", "INSUFFICIENT_STORAGE"}
    assert {row.code for row in ROWS if row.code} >= {kind.code for kind in error_classes()} - beside_the_contract


def test_the_defaults_of_both_routes(mock: MockUpstream, http: httpx2.Client) -> None:
    model = ScriptedModel(behave, name=LOCAL_NAME)
    with serving_models(local=model, **upstream_at(mock.base_url)) as url:
        http.post(f"{url}/generate", json=HI)
        http.post(f"{url}/local/generate", json=HI)
    sent = mock.stats()["last_body"]
    assert (sent["model"], sent["temperature"], sent["top_p"], sent["max_tokens"]) == ("gpt-4o-mini", 0.0, 0.9, 500)
    asked = model.requests[0]
    assert (asked.model, asked.temperature, asked.top_p, asked.max_tokens) == (None, 0.0, 0.9, 500)


def test_the_defaults_of_the_cloud_are_settings_and_those_of_the_local_model_are_not(http: httpx2.Client) -> None:
    models = ScriptedModel(behave), ScriptedModel(behave)
    with serving_models(*models, default_temperature=0.7, default_max_tokens=1000) as url:
        http.post(f"{url}/generate", json=HI)
        http.post(f"{url}/local/generate", json=HI)
    assert [(m.requests[0].temperature, m.requests[0].max_tokens) for m in models] == [(0.7, 1000), (0.0, 500)]


SETTINGS: dict[str, Any] = {
    "api_host": "0.0.0.0",  # noqa: S104 - the seed's default
    "api_port": 8000,
    "env": "development",
    "debug": True,
    "log_level": "info",
    "default_model": "gpt-4o-mini",
    "connect_timeout": 10,
    "read_timeout": 20,
    "write_timeout": 10,
    "retry_attempts": 3,
    "retry_backoff": 1,
    "rate_limit_enabled": True,
    "rate_limit_generate": "10/minute",
    "rate_limit_local": "20/minute",
    "rate_limit_health": "30/minute",
    "rate_limit_storage": "memory://",
    "max_prompt_chars": 1000,
    "max_body_bytes": 1_048_576,
    "local_model": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "local_fallback": "packaged",
    "local_precision": "auto",
    "allowed_origins": [],
    "forwarded_allow_ips": [],
    "shutdown_grace": 20,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_have_the_contracts_defaults(name: str) -> None:
    assert getattr(settings(rate_limit_enabled=True), name) == SETTINGS[name]
