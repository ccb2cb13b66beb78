"""A provider that speaks Anthropic's messages: asked as chat, as messages and as responses; streamed and not."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from apps.core.errors import AppError
from apps.gateway.upstream.chat_over_messages import messages_body
from apps.tests.marks import PROVIDERS_VARIABLE
from apps.tests.support.routing import provider, routing_file
from apps.tests.support.serving import serving, serving_models

USAGE = {"input_tokens": 7, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 0, "output_tokens": 5}
CONTENT: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Hm.", "signature": "s"},
    {"type": "text", "text": "It is "},
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln"}},
]
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": CONTENT,
    "stop_reason": "tool_use", "stop_sequence": None, "usage": USAGE,
}  # fmt: skip
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
USER: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"}]


def events(*, whole: bool = True) -> bytes:
    told: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**MESSAGE, "content": [], "usage": {**USAGE, "output_tokens": 1}}},
        {"type": "ping"},
    ]
    for index, block in enumerate(CONTENT):
        kind = str(block["type"])
        told.append({"type": "content_block_start", "index": index, "content_block": {**block, "input": {}}})
        pieces = {
            "thinking": [{"type": "thinking_delta", "thinking": "Hm."}, {"type": "signature_delta", "signature": "s"}],
            "text": [{"type": "text_delta", "text": "It "}, {"type": "text_delta", "text": "is "}],
            "tool_use": [{"type": "input_json_delta", "partial_json": text} for text in ("", '{"city": ', '"Köln"}')],
        }[kind]
        told += [{"type": "content_block_delta", "index": index, "delta": piece} for piece in pieces]
        told.append({"type": "content_block_stop", "index": index})
    if whole:
        told.append({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}})
        told.append({"type": "message_stop"})
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e, ensure_ascii=False)}\n\n".encode() for e in told)


@pytest.fixture(scope="module")
def asked() -> list[tuple[str, dict[str, str], dict[str, Any]]]:
    return []


@pytest.fixture(scope="module")
def url(asked: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    app = FastAPI()

    @app.post("/v1/{path:path}")
    async def answer(request: Request, path: str) -> Response:
        body = await request.json()
        asked.append((path, dict(request.headers), body))
        if path == "messages/count_tokens":
            return JSONResponse({"input_tokens": 42})
        if body["model"] == "refuses":
            error = {"type": "invalid_request_error", "message": "max_tokens: too large"}
            return JSONResponse({"type": "error", "error": error}, 400)
        if body.get("stream"):
            sent = events(whole=body["model"] != "cut")
            return Response(sent, media_type="text/event-stream")
        return JSONResponse(MESSAGE)

    folder: Path = tmp_path_factory.mktemp("anthropic")
    with serving(app) as upstream:
        main = {**provider(f"{upstream}/v1"), "kind": "anthropic"}
        content = {"providers": {"main": main}, "default_provider": "main"}
        with serving_models(gateway_config=str(routing_file(folder, content))) as url:
            yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


def test_a_chat_is_a_message_there_and_a_chat_again_here(client: openai.OpenAI, asked: list[Any]) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model="claude-x", messages=USER, tools=[TOOL], tool_choice="required", max_tokens=9, stop="x", temperature=0.5
    )
    path, headers, body = asked[-1]
    assert path == "messages" and headers["x-api-key"] == os.environ[PROVIDERS_VARIABLE]
    assert headers["anthropic-version"] and "authorization" not in headers
    assert body == {
        "model": "claude-x", "max_tokens": 9, "system": "Be brief.", "temperature": 0.5, "stop_sequences": ["x"],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Weather?"}]}],
        "tools": [{"name": "weather", "input_schema": {"type": "object", "properties": {}}}],
        "tool_choice": {"type": "any"},
    }  # fmt: skip
    chat = answer.parse()
    message = chat.choices[0].message
    assert (message.content, chat.choices[0].finish_reason, chat.model) == ("It is ", "tool_calls", "claude-x")
    assert message.tool_calls is not None and message.to_dict()["reasoning_content"] == "Hm."
    call: Any = message.tool_calls[0]
    assert (call.id, call.function.name, json.loads(call.function.arguments)) == (
        "toolu_1",
        "weather",
        {"city": "Köln"},
    )
    assert chat.usage is not None and (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (10, 5)
    assert (answer.headers["x-prompt-tokens"], answer.headers["x-completion-tokens"]) == ("10", "5")


def test_a_streamed_chat_says_the_same(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="claude-x", messages=USER, tools=[TOOL], stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == "It is "
    calls: list[Any] = [piece for delta in deltas for piece in delta.tool_calls or ()]
    assert (calls[0].id, calls[0].function.name) == ("toolu_1", "weather")
    assert json.loads("".join(piece.function.arguments for piece in calls)) == {"city": "Köln"}
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "tool_calls"
    assert last.usage is not None and (last.usage.prompt_tokens, last.usage.completion_tokens) == (10, 5)
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="cut", messages=USER, stream=True))


def test_responses_are_made_from_it_too(client: openai.OpenAI) -> None:
    response = client.responses.create(model="claude-x", input="Weather?")
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    *_, last = client.responses.create(model="claude-x", input="Weather?", stream=True)
    assert last.type == "response.completed" and last.response.output_text == "It is "


@pytest.mark.clients
def test_messages_pass_through_as_they_are(url: str, asked: list[Any]) -> None:
    anthropic = pytest.importorskip("anthropic")
    with anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0, timeout=60) as client:
        user: Any = [{"role": "user", "content": "Weather?"}]
        message = client.messages.create(model="claude-x", max_tokens=5, messages=user, thinking={"type": "disabled"})
        assert asked[-1][2]["thinking"] == {"type": "disabled"}
        assert message.to_dict() == MESSAGE
        with client.messages.stream(model="claude-x", max_tokens=5, messages=user) as stream:
            final = stream.get_final_message()
        assert final.stop_reason == "tool_use" and final.usage.output_tokens == 5
        assert client.messages.count_tokens(model="claude-x", messages=user).input_tokens == 42
        with pytest.raises(anthropic.BadRequestError, match="too large"):
            client.messages.create(model="refuses", max_tokens=5, messages=user)


def test_results_images_and_runs_of_turns_have_their_blocks() -> None:
    called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "see"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c", "content": "ok"},
        {"role": "user", "content": "and?"},
    ]
    made = messages_body({"model": "m", "messages": messages})["messages"]
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    assert made == [
        {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image", "source": source}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "ok"}]},
                {"type": "text", "text": "and?"},
            ],
        },
    ]


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"seed": 1}, "seed"), ({"n": 2}, "n"), ({"response_format": {"type": "json_object"}}, "response_format"),
     ({"messages": None}, "messages"), ({"max_tokens": 0}, "max_tokens"),
     ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content.0.type")],
)  # fmt: skip
def test_what_a_message_cannot_say_is_refused_by_its_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(AppError) as refused:
        messages_body({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields})
    assert refused.value.field == field
