"""Anthropic's own Python client against our gateway: OpenAI-shaped upstreams, models of this process, and errors."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from apps.core.calls import Usage
from apps.core.deltas import Delta, ToolCallDelta
from apps.core.errors import (
    ContextLengthExceeded,
    NotFound,
    Overloaded,
    RateLimitExceeded,
    Unauthorized,
    UpstreamUnavailable,
)
from apps.models.scripted import Script, ScriptedModel, calling, saying
from apps.tests.support.serving import serving_models
from eval.mock_upstream import MockUpstream

anthropic = pytest.importorskip("anthropic")
pytestmark = pytest.mark.clients

USER: Any = [{"role": "user", "content": "What is the weather?"}]
TOOL: Any = {"name": "weather", "description": "Tells it", "input_schema": {"type": "object", "properties": {}}}
# as Claude Code sends it: what it bills by comes first, and changes with every call
CLAUDE_CODE: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 32000,
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.9.a3f; cc_entrypoint=cli; cch=1f2e3;"},
        {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be terse.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "<system-reminder>x</system-reminder>"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I should look.", "signature": "c2ln"},
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"file_path": "/a"}},
                {"type": "tool_use", "id": "toolu_2", "name": "Bash", "input": {"command": "ls"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "one"}]},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "two", "is_error": True},
                {"type": "text", "text": "Go on", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ],
    "tools": [
        {"name": "Read", "description": "Reads", "input_schema": {"type": "object", "properties": {}}},
        {"name": "Bash", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}},
    ],
    "metadata": {"user_id": "user_1_account__session_2"},
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "medium"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "stream": True,
}


def local(script: Script) -> ScriptedModel:
    return ScriptedModel(script, name="tiny")


@pytest.fixture(scope="module")
def base(mock: MockUpstream) -> Iterator[str]:
    with serving_models(openai_base_url=mock.base_url, retry_attempts=1, auth="off") as url:
        yield url


@pytest.fixture
def client(base: str) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=base, api_key="unused", max_retries=0) as client:
        yield client


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_an_upstream_of_openais_shape_answers(client: Any, mock: MockUpstream) -> None:
    message = client.messages.create(
        model="m",
        max_tokens=50,
        system="Be terse.",
        messages=USER,
        stop_sequences=["END"],
        extra_body={"temperature": 0.5, "top_p": 0.9},
    )
    assert text_of(message).startswith("the quick brown")
    assert (message.type, message.role, message.stop_reason) == ("message", "assistant", "end_turn")
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0
    body = mock.stats()["last_body"]
    assert body["messages"] == [{"role": "system", "content": "Be terse."}, USER[0]]
    assert (body["max_tokens"], body["stop"], body["temperature"], body["top_p"]) == (50, ["END"], 0.5, 0.9)
    assert "thinking" not in body


def test_a_stream_is_that_of_anthropic(client: Any, base: str, http: httpx2.Client) -> None:
    with client.messages.stream(model="m", max_tokens=50, messages=USER) as stream:
        texts = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(texts) > 3
    assert text_of(final) == "".join(texts)
    assert (final.stop_reason, final.usage.input_tokens) == ("end_turn", 9)
    raw = http.post(f"{base}/v1/messages", json={"model": "m", "max_tokens": 5, "messages": USER, "stream": True})
    kinds = [line.removeprefix("event: ") for line in raw.text.splitlines() if line.startswith("event: ")]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert raw.text.count(": receipt ") == 1
    assert (raw.headers["x-provider"], raw.headers["request-id"]) == ("openai", raw.headers["x-request-id"])


def test_tools_are_called_and_their_results_are_sent_back(client: Any, mock: MockUpstream) -> None:
    message = client.messages.create(
        model="tool-call", max_tokens=50, messages=USER, tools=[TOOL], tool_choice={"type": "tool", "name": "weather"}
    )
    call: Any = message.content[0]
    assert (message.stop_reason, call.type, call.name, call.input) == ("tool_use", "tool_use", "weather", {"a": 1})
    with client.messages.stream(model="tool-call", max_tokens=50, messages=USER, tools=[TOOL]) as stream:
        streamed: Any = stream.get_final_message().content[0]
    assert (streamed.type, streamed.input) == ("tool_use", {"a": 1})
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    told: Any = [*USER, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    client.messages.create(model="m", max_tokens=50, messages=told, tools=[TOOL])
    body = mock.stats()["last_body"]
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"a": 1}'}
    assert body["messages"][2] == {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    assert body["tools"][0]["function"]["parameters"] == TOOL["input_schema"]


def test_a_picture_goes_to_the_upstream(client: Any, mock: MockUpstream) -> None:
    source: Any = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    content: Any = [{"type": "text", "text": "What is this?"}, {"type": "image", "source": source}]
    client.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": content}])
    part = mock.stats()["last_body"]["messages"][0]["content"][1]
    assert part == {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


def test_claude_codes_call_reaches_the_local_model_without_its_bill(http: httpx2.Client) -> None:
    model = local(saying("Done."))
    with serving_models(local=model, auth="off") as url:
        answer = http.post(
            f"{url}/v1/messages?beta=true",
            json=CLAUDE_CODE,
            headers={"anthropic-version": "2023-06-01", "anthropic-beta": "interleaved-thinking-2025-05-14"},
        )
    assert answer.status_code == 200, answer.text
    assert "event: message_stop" in answer.text
    request = model.requests[0]
    assert request.messages[0].content == "You are Claude Code.\nBe terse."
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "tool", "tool", "user"]
    assert [call.name for call in request.messages[2].tool_calls] == ["Read", "Bash"]
    assert [message.content for message in request.messages[3:]] == ["one", "two", "Go on"]


def test_a_beginning_of_the_answer_is_continued(http: httpx2.Client) -> None:
    model = local(saying(" blue."))
    with serving_models(local=model, auth="off") as url, anthropic.Anthropic(base_url=url, api_key="x") as client:
        begun: Any = [*USER, {"role": "assistant", "content": "The sky is"}]
        message = client.messages.create(model="tiny", max_tokens=5, messages=begun)
    assert text_of(message) == " blue."
    assert model.requests[0].continue_final_message


def test_the_stop_sequence_that_ended_an_answer_is_told() -> None:
    model = local(lambda request: [Delta("x", model="tiny"), Delta(finish_reason="stop", stopped_by=request.stop[0])])
    asked: Any = {"model": "tiny", "max_tokens": 5, "messages": USER, "stop_sequences": ["END"]}
    with serving_models(local=model, auth="off") as url, anthropic.Anthropic(base_url=url, api_key="x") as client:
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
        for message in (client.messages.create(**asked), streamed):
            assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


def test_parallel_calls_that_come_interleaved_are_each_whole() -> None:
    pieces = [
        Delta("I look. ", model="tiny"),
        Delta(tool_calls=(ToolCallDelta(0, "c0", "weather", '{"a"'),)),
        Delta(tool_calls=(ToolCallDelta(1, "c1", "weather", '{"b": 2}'),)),
        Delta(tool_calls=(ToolCallDelta(0, arguments=": 1}"),)),
        Delta(finish_reason="tool_calls", usage=Usage(7, 3, 2), model="tiny"),
    ]
    with (
        serving_models(local=local(lambda request: pieces), auth="off") as url,
        anthropic.Anthropic(base_url=url, api_key="x") as client,
    ):
        whole = client.messages.create(model="tiny", max_tokens=5, messages=USER, tools=[TOOL])
        with client.messages.stream(model="tiny", max_tokens=5, messages=USER, tools=[TOOL]) as stream:
            streamed = stream.get_final_message()
    for message in (whole, streamed):
        calls: list[Any] = [block for block in message.content if block.type == "tool_use"]
        assert [(call.id, call.input) for call in calls] == [("c0", {"a": 1}), ("c1", {"b": 2})]
        assert text_of(message) == "I look. "
        assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (5, 2)
        assert message.stop_reason == "tool_use"


def test_tokens_are_counted(client: Any, base: str, http: httpx2.Client) -> None:
    long = client.messages.count_tokens(model="m", messages=[{"role": "user", "content": "word " * 400}])
    assert 300 < long.input_tokens < 700
    raw = http.post(f"{base}/v1/messages/count_tokens", json={"model": "m", "messages": USER, "tools": [TOOL]})
    assert raw.headers["x-estimated"] == "true"


@pytest.mark.parametrize(
    ("raised", "kind", "status", "name"),
    [
        (ContextLengthExceeded(9, 9, 10), anthropic.BadRequestError, 400, "invalid_request_error"),
        (NotFound("no", field="model"), anthropic.NotFoundError, 404, "not_found_error"),
        (Unauthorized("no"), anthropic.AuthenticationError, 401, "authentication_error"),
        (RateLimitExceeded("no", retry_after=2), anthropic.RateLimitError, 429, "rate_limit_error"),
        (Overloaded("full", retry_after=2), anthropic.InternalServerError, 529, "overloaded_error"),
        (UpstreamUnavailable("down"), anthropic.InternalServerError, 500, "api_error"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_errors_are_the_clients_own_classes(raised: Exception, kind: Any, status: int, name: str) -> None:
    with (
        serving_models(local=local(lambda request: [raised]), retry_attempts=1, auth="off") as url,
        anthropic.Anthropic(base_url=url, api_key="x") as client,
    ):
        for stream in (False, True):
            with pytest.raises(kind) as caught:
                client.messages.create(model="tiny", max_tokens=5, messages=USER, stream=stream)
            assert (caught.value.status_code, caught.value.body["error"]["type"]) == (status, name)
            assert caught.value.body["type"] == "error"
            assert {"code", "message", "status", "field", "details"} <= set(caught.value.body["error"])


def test_a_stream_that_fails_midway_raises_after_its_text(client: Any) -> None:
    texts = []
    with (
        pytest.raises(anthropic.APIError),
        client.messages.stream(model="fault-error", max_tokens=5, messages=USER) as stream,
    ):
        for text in stream.text_stream:
            texts.append(text)
    assert texts


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages.0.content.0.type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools.0.name"),
        ({"mcp_servers": [{"type": "url", "url": "https://x", "name": "x"}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management"),
        ({"stop_sequences": 3}, "stop_sequences"),
        ({"nobody_knows": 1}, "nobody_knows"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(
    http: httpx2.Client, fields: dict[str, Any], field: str
) -> None:
    model = local(saying("x"))
    with serving_models(local=model, auth="off") as url:
        answer = http.post(f"{url}/v1/messages", json={"model": "tiny", "max_tokens": 5, "messages": USER, **fields})
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not model.requests


def test_a_key_may_come_in_anthropics_header(tmp_path: Any, http: httpx2.Client) -> None:
    with serving_models(auth="on") as url:
        for headers in ({}, {"x-api-key": "wrong"}):
            refused = http.post(f"{url}/v1/messages", json={}, headers=headers)
            assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")


def test_the_calls_of_a_scripted_model_are_tool_uses() -> None:
    with (
        serving_models(local=local(calling(("weather", {"city": "Paris"}))), auth="off") as url,
        anthropic.Anthropic(base_url=url, api_key="x") as client,
    ):
        call: Any = client.messages.create(model="tiny", max_tokens=5, messages=USER, tools=[TOOL]).content[0]
    assert json.loads(json.dumps(call.input)) == {"city": "Paris"}
