"""Ollama's own Python client against our gateway: chats, texts, embeddings, and what there is to ask."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.core.errors import NotFound
from apps.models.scripted import ScriptedModel, calling
from apps.tests.support.serving import serving_models
from eval.mock_upstream import MockUpstream

ollama = pytest.importorskip("ollama")
pytestmark = pytest.mark.clients

USER: Any = [{"role": "user", "content": "What is the weather?"}]
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
SAID = [Delta("It is ", model="tiny"), Delta("sunny."), Delta(finish_reason="stop", usage=Usage(7, 3), model="tiny")]


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(lambda request: SAID, name="tiny")


@pytest.fixture
def base(mock: MockUpstream, model: ScriptedModel) -> Iterator[str]:
    with serving_models(local=model, openai_base_url=mock.base_url, retry_attempts=1, auth="off") as url:
        yield url


@pytest.fixture
def client(base: str) -> Iterator[Any]:
    with asking(base) as client:
        yield client


@contextmanager
def asking(url: str) -> Iterator[Any]:
    client = ollama.Client(host=url, trust_env=False)
    try:
        yield client
    finally:
        client._client.close()


def test_a_chat_is_streamed_and_whole(client: Any) -> None:
    chunks = list(client.chat(model="tiny:latest", messages=USER, stream=True))
    assert "".join(chunk.message.content for chunk in chunks) == "It is sunny."
    assert [chunk.done for chunk in chunks] == [False, False, True]
    whole = client.chat(model="tiny", messages=USER)
    for last in (whole, chunks[-1]):
        assert (last.done_reason, last.prompt_eval_count, last.eval_count) == ("stop", 7, 3)
        assert last.total_duration > 0 and last.eval_duration >= 0
    assert (whole.message.role, whole.message.content, whole.model) == ("assistant", "It is sunny.", "tiny")


def test_a_text_of_one_prompt(client: Any, model: ScriptedModel) -> None:
    whole = client.generate(model="tiny", prompt="Weather?", system="Be terse.", format={"type": "object"})
    assert whole.response == "It is sunny."
    assert "".join(chunk.response for chunk in client.generate(model="tiny", prompt="x", stream=True)) == whole.response
    assert [message.content for message in model.requests[0].messages] == ["Be terse.", "Weather?"]
    assert model.requests[0].response_format is not None
    client.generate(model="tiny", prompt="Once", raw=True)
    assert model.requests[-1].raw


def test_options_reach_the_model_and_what_is_about_the_engine_is_ignored(client: Any, model: ScriptedModel) -> None:
    options = {
        "temperature": 0.5, "top_k": 40, "min_p": 0.1, "repeat_penalty": 1.1, "seed": 3, "num_predict": 9,
        "stop": ["END"], "num_ctx": 4096, "num_thread": 2, "mirostat": 0, "repeat_last_n": 64,
    }  # fmt: skip
    client.chat(model="tiny", messages=USER, options=options, keep_alive="5m", think=False)
    request = model.requests[0]
    assert (request.temperature, request.top_k, request.min_p, request.repetition_penalty) == (0.5, 40, 0.1, 1.1)
    assert (request.seed, request.max_tokens, request.stop, request.fits) == (3, 9, ("END",), True)
    client.chat(model="tiny", messages=USER, options={"num_predict": -1})
    assert model.requests[1].max_tokens is None
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat(model="tiny", messages=USER, options={"mirostat": 2})
    assert caught.value.status_code == 400


def test_tools_are_called_and_their_results_are_sent_back(mock: MockUpstream) -> None:
    model = ScriptedModel(calling(("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})), name="tiny")
    with serving_models(local=model, auth="off") as url, asking(url) as client:
        whole = client.chat(model="tiny", messages=USER, tools=[TOOL])
        assert [call.function.arguments for call in whole.message.tool_calls] == [{"city": "Paris"}, {"city": "Rome"}]
        streamed = list(client.chat(model="tiny", messages=USER, tools=[TOOL], stream=True))
        assert len([call for chunk in streamed for call in chunk.message.tool_calls or []]) == 2
        results = [{"role": "tool", "tool_name": "weather", "content": text} for text in ("sunny", "rainy")]
        client.chat(model="tiny", messages=[*USER, whole.message, *results], tools=[TOOL])
    messages = model.requests[-1].messages
    assert [message.tool_call_id for message in messages[2:]] == [call.id for call in messages[1].tool_calls]
    assert [message.content for message in messages[2:]] == ["sunny", "rainy"]


def test_pictures_go_to_an_upstream(client: Any, mock: MockUpstream) -> None:
    client.chat(model="m", messages=[{"role": "user", "content": "What?", "images": ["iVBORw0KGgo="]}])
    part = mock.stats()["last_body"]["messages"][0]["content"][1]
    assert part["image_url"]["url"] == "data:image/png;base64,iVBORw0KGgo="


def test_what_there_is_to_ask(client: Any, base: str, http: httpx2.Client) -> None:
    assert "tiny" in [model.model for model in client.list().models]
    assert "completion" in client.show("tiny").capabilities
    assert [model.name for model in client.ps().models] == ["tiny"]
    assert http.get(f"{base}/api/version").json()["version"]
    assert client.chat(model="tiny", messages=[]).done_reason == "load"
    assert client.generate(model="tiny", keep_alive=0).done_reason == "unload"


def test_embeddings_come_from_an_upstream(client: Any) -> None:
    answer = client.embed(model="m", input=["one", "three"], truncate=False)
    assert len(answer.embeddings) == 2
    assert len(client.embeddings(model="m", prompt="one").embedding) > 0


def test_errors_are_ollamas(base: str, http: httpx2.Client) -> None:
    unknown = ScriptedModel(lambda request: [NotFound("no such model", field="model")], name="gone")
    with serving_models(local=unknown, auth="off", retry_attempts=1) as url, asking(url) as client:
        for stream in (False, True):
            with pytest.raises(ollama.ResponseError) as caught:
                list(client.chat(model="gone", messages=USER, stream=stream))
            assert (caught.value.status_code, caught.value.error) == (404, "no such model")
    for path, body in (("chat", "{"), ("chat", "{}"), ("generate", '{"model": 3}'), ("embed", '{"model": "m"}')):
        answer = http.post(f"{base}/api/{path}", content=body)
        assert answer.status_code == 400, body
        assert isinstance(answer.json()["error"], str)


def test_a_stream_that_fails_midway_ends_in_an_error(base: str, http: httpx2.Client) -> None:
    answer = http.post(f"{base}/api/chat", json={"model": "fault-error", "messages": USER})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert lines[0]["message"]["content"] and "error" in lines[-1]
