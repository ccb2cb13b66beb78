"""What goes wrong on /v1, as the official client sees it: its own exceptions, with our envelope inside."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from apps.core.errors import (
    ContextLengthExceeded,
    Forbidden,
    InvalidValue,
    ModelUnavailable,
    NotFound,
    Overloaded,
    RateLimitExceeded,
    Unauthorized,
)
from apps.models.scripted import ScriptedModel
from apps.tests.support.raw_upstream import raw_upstream
from apps.tests.support.serving import serving_models
from eval.mock_upstream import MockUpstream

USER: list[Any] = [{"role": "user", "content": "hi"}]
OPENAI_KEYS = {"code", "message", "status", "field", "details", "type", "param", "error_code"}


@pytest.fixture(scope="module")
def base(mock: MockUpstream) -> Iterator[str]:
    with serving_models(openai_base_url=mock.base_url, retry_attempts=1, read_timeout=0.5) as url:
        yield f"{url}/v1"


@pytest.fixture
def client(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base, api_key="unused", timeout=90) as client:
        yield client


@pytest.mark.parametrize(
    ("model", "kind", "code"),
    [
        ("fault-429", openai.RateLimitError, "rate_limit_exceeded"),
        ("fault-400", openai.BadRequestError, "UPSTREAM_ERROR"),
        ("fault-404", openai.NotFoundError, "UPSTREAM_ERROR"),
        ("fault-422", openai.UnprocessableEntityError, "UPSTREAM_ERROR"),
        ("fault-401", openai.InternalServerError, "UPSTREAM_ERROR"),
        ("fault-500", openai.InternalServerError, "INTERNAL_ERROR"),
        ("fault-rst", openai.InternalServerError, "INTERNAL_ERROR"),
    ],
)
def test_an_upstreams_failure_is_the_clients_own_exception(
    client: openai.OpenAI, mock: MockUpstream, model: str, kind: type[openai.APIStatusError], code: str
) -> None:
    mock.reset()
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=model, messages=USER)
    assert caught.value.code == code
    assert isinstance(caught.value.body, dict)
    assert set(caught.value.body) == OPENAI_KEYS
    assert mock.stats()["requests"] == 1, "the client must not repeat what the gateway has repeated"


def test_a_streams_error_before_the_first_delta_has_its_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="fault-429", messages=USER, stream=True)
    with pytest.raises(openai.RateLimitError):
        client.responses.create(model="fault-429", input="hi", stream=True)


@pytest.mark.parametrize("model", ["fault-error", "fault-cut", "fault-nofinish", "fault-stall"])
def test_a_stream_that_fails_midway_raises_api_error_after_its_deltas(client: openai.OpenAI, model: str) -> None:
    texts = []
    with pytest.raises(openai.APIError) as caught:
        for chunk in client.chat.completions.create(model=model, messages=USER, stream=True):
            texts.append(chunk.choices[0].delta.content)
    assert not isinstance(caught.value, openai.APIConnectionError)
    assert any(texts)
    assert isinstance(caught.value.body, dict)
    assert set(caught.value.body) == OPENAI_KEYS


def test_a_translated_response_that_fails_midway_raises_api_error(mock: MockUpstream) -> None:
    chat_only = mock.base_url.replace("/v1", "/chat-only/v1")
    with (
        serving_models(openai_base_url=chat_only, retry_attempts=1) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client,
    ):
        kinds = []
        with pytest.raises(openai.APIError) as caught:
            for event in client.responses.create(model="fault-error", input="hi", stream=True):
                kinds.append(event.type)
        assert "response.output_text.delta" in kinds
        assert "response.completed" not in kinds
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["code"] == "UPSTREAM_ERROR"


@pytest.mark.parametrize(
    ("path", "body", "code", "field"),
    [
        ("/chat/completions", "{", "invalid_json", None),
        ("/chat/completions", "[]", "invalid_type", None),
        ("/responses", "{}", "missing_required_parameter", "model"),
        ("/completions", '{"model": 3}', "invalid_type", "model"),
        ("/embeddings", '{"model": " "}', "invalid_value", "model"),
        ("/responses", '{"model": "m", "stream": "yes"}', "invalid_type", "stream"),
    ],
)
def test_a_wrong_body_is_a_bad_request_and_names_its_field(
    base: str, http: httpx2.Client, path: str, body: str, code: str, field: str | None
) -> None:
    answer = http.post(base + path, content=body, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == error["status"] == 400
    assert set(error) == OPENAI_KEYS
    assert (error["code"], error["field"], error["param"]) == (code, field, field)
    assert error["type"] == "invalid_request_error"
    assert error["error_code"] in ("INVALID_JSON", "INVALID_TYPE", "MISSING_REQUIRED_FIELD", "INVALID_VALUE")


def test_an_unknown_route_is_not_found_with_openais_fields(base: str, http: httpx2.Client) -> None:
    answer = http.post(f"{base}/nothing/here", json={})
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == OPENAI_KEYS
    assert answer.json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("path", ["/chat/completions", "/models", "/v1/v1/chat/completions"])
def test_a_base_url_that_is_wrong_is_explained(base: str, http: httpx2.Client, path: str) -> None:
    error = http.post(base.removesuffix("/v1") + path, json={}).json()["error"]
    assert (error["status"], error["type"]) == (404, "invalid_request_error")
    assert "/v1" in error["message"]


def test_too_long_a_prompt_is_the_clients_context_error(client: openai.OpenAI) -> None:
    full = ScriptedModel(lambda request: [ContextLengthExceeded(2000, 500, 2048)], name="tiny")
    with serving_models(local=full) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as asking:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                asking.chat.completions.create(model="tiny", messages=USER, stream=stream)
            assert (caught.value.code, caught.value.type) == ("context_length_exceeded", "invalid_request_error")
            assert "maximum context length is 2048 tokens" in caught.value.message


REFUSAL = {
    "error": {
        "message": "Invalid value: 'sk-abcdefghijklmnop' at http://10.1.2.3:8080/v1 (upstream.internal.corp)",
        "type": "invalid_request_error",
        "param": "messages[0].content",
        "code": "invalid_image_url",
    }
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 413, 422])
async def test_what_an_upstream_says_of_the_callers_fault_is_passed_on(status: int, stream: bool) -> None:
    body = json.dumps(REFUSAL).encode()
    head = b"HTTP/1.1 %d No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    async with raw_upstream(head, body) as refusing:
        with serving_models(openai_base_url=refusing.base_url, retry_attempts=3) as url:
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as client:
                with pytest.raises(openai.APIStatusError) as caught:
                    await client.chat.completions.create(model="m", messages=USER, stream=stream)
            text = caught.value.response.text
        assert len(refusing.requests) == 1
    error: Any = caught.value.body
    assert caught.value.status_code == error["status"] == status
    assert (error["code"], error["param"], error["error_code"]) == (
        "invalid_image_url",
        "messages[0].content",
        "UPSTREAM_ERROR",
    )
    assert error["message"].startswith("Invalid value")
    for secret in ("10.1.2.3", "8080", "corp", "sk-abc"):
        assert secret not in text


@pytest.mark.parametrize(
    ("raised", "kind", "code"),
    [
        (NotFound("no", field="model"), openai.NotFoundError, "model_not_found"),
        (Forbidden("no", field="model"), openai.PermissionDeniedError, "FORBIDDEN"),
        (Unauthorized("no"), openai.AuthenticationError, "invalid_api_key"),
        (RateLimitExceeded("no", source="budget"), openai.RateLimitError, "insufficient_quota"),
        (RateLimitExceeded("no", retry_after=2), openai.RateLimitError, "rate_limit_exceeded"),
        (InvalidValue("no", field="top_p"), openai.BadRequestError, "invalid_value"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)
def test_each_error_is_the_clients_own_class(raised: Exception, kind: type[openai.APIStatusError], code: str) -> None:
    with (
        serving_models(local=ScriptedModel(lambda request: [raised], name="tiny"), retry_attempts=1) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client,
    ):
        with pytest.raises(kind) as caught:
            client.chat.completions.create(model="tiny", messages=USER)
        assert caught.value.code == code


def test_our_own_limit_is_the_clients_rate_limit_error(mock: MockUpstream) -> None:
    with (
        serving_models(openai_base_url=mock.base_url, rate_limit_enabled=True, rate_limit_v1="1/minute") as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
    ):
        client.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            client.embeddings.create(model="m", input="x")
        assert caught.value.response.headers["retry-after"]


@pytest.mark.parametrize("error", [ModelUnavailable("loading", retry_after=5), Overloaded("full", retry_after=2)])
def test_a_local_model_that_cannot_answer_is_an_internal_server_error_with_retry_after(error: Exception) -> None:
    with (
        serving_models(local=ScriptedModel(lambda request: [error], name="tiny"), retry_attempts=1) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client,
    ):
        for ask in (
            lambda: client.responses.create(model="tiny", input="hi"),
            lambda: client.completions.create(model="tiny", prompt="hi"),
            lambda: client.chat.completions.create(model="tiny", messages=USER),
        ):
            with pytest.raises(openai.InternalServerError) as caught:
                ask()
            assert caught.value.status_code == 503
            assert caught.value.response.headers["retry-after"]
