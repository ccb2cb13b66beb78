"""Ollama's bodies as chats: options by their other names, results by the names of their calls, and what is refused."""

from typing import Any

import httpx2
import pytest

from apps.api.src.ollama.request import chat_body, embeddings_body, generate_body, model_of, raw_body
from apps.core.errors import AppError
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.serving import serving_models

USER: Any = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> dict[str, Any]:
    return chat_body({"model": "tiny", "messages": USER, **fields})


def test_options_have_the_names_of_a_chat_and_those_of_an_engine_are_left_out() -> None:
    options = {"num_predict": 5, "repeat_penalty": 1.1, "stop": [], "num_ctx": 2048, "low_vram": True, "seed": None}
    made = chat(options=options, think="high", logprobs=True, top_logprobs=2, format="json", tools=[{"a": 1}])
    assert made == {
        "model": "tiny",
        "messages": USER,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "repetition_penalty": 1.1,
        "logprobs": True,
        "top_logprobs": 2,
        "reasoning_effort": "high",
        "response_format": {"type": "json_object"},
        "tools": [{"a": 1}],
    }
    assert "max_tokens" not in chat(options={"num_predict": -1})
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    assert chat(format={"type": "object"}, stream=False)["response_format"] == form


def call(name: str, **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": {"at": "Ü"}}, **more}


def test_results_find_their_calls_by_id_by_name_and_by_order() -> None:
    made = chat(
        messages=[
            {"role": "assistant", "thinking": "Hm", "tool_calls": [call("a"), call("b", id="x"), call("c"), call("d")]},
            {"role": "tool", "content": "of c", "tool_name": "c"},
            {"role": "tool", "content": "of x", "tool_call_id": "x"},
            {"role": "tool", "content": "of the first"},
            {"role": "tool", "content": "of d", "name": "d"},
        ]
    )["messages"]
    assert [turn["tool_call_id"] for turn in made[1:]] == ["call_0_2", "x", "call_0_0", "call_0_3"]
    assert made[0]["reasoning_content"] == "Hm"
    function = {"name": "b", "arguments": '{"at": "Ü"}'}
    assert made[0]["tool_calls"][1] == {"id": "x", "type": "function", "function": function}


def test_pictures_are_known_by_their_first_bytes() -> None:
    images = ["/9j/AA", "data:image/gif;base64,R0", "unknown"]
    parts = chat(messages=[{"role": "user", "content": "see", "images": images}])["messages"][0]["content"]
    assert parts[0] == {"type": "text", "text": "see"}
    urls = [part["image_url"]["url"] for part in parts[1:]]
    assert urls == ["data:image/jpeg;base64,/9j/AA", "data:image/gif;base64,R0", "data:image/png;base64,unknown"]


def test_a_prompt_is_one_question_and_a_raw_one_is_completed_as_it_is() -> None:
    made = generate_body({"model": "tiny:latest", "prompt": "hi", "system": "Be kind.", "stream": False})
    assert made["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]
    assert (made["model"], made["stream"]) == ("tiny", False)
    raw = raw_body({"model": "tiny", "prompt": "hi", "raw": True, "options": {"num_predict": 3}, "logprobs": True})
    assert (raw["prompt"], raw["max_tokens"]) == ("hi", 3) and "logprobs" not in raw


def test_texts_to_embed_are_cut_unless_that_is_forbidden() -> None:
    asked = {"model": "e", "input": ["a"], "dimensions": 8}
    made = {"model": "e", "input": ["a"], "encoding_format": "float", "dimensions": 8}
    assert embeddings_body(asked) == made | {"truncation": True}
    assert embeddings_body({**asked, "truncate": False}) == made


def turn(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi", **fields}]}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": 1}, "model"),
    ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages.0"),
    (turn(role="judge"), "messages.0.role"),
    (turn(content=1), "messages.0.content"),
    (turn(images="x"), "messages.0.images"),
    (turn(role="assistant", tool_calls=1), "messages.0.tool_calls"),
    (turn(role="assistant", tool_calls=[{"function": {}}]), "messages.0.tool_calls.0"),
    (turn(role="tool"), "messages.0.tool_name"),
    ({"stream": "yes"}, "stream"),
    ({"options": 1}, "options"),
    ({"options": {"mirostat": 1}}, "options.mirostat"),
    ({"format": 1}, "format"),
    ({"template": "x"}, "template"),
]


@pytest.mark.parametrize(("fields", "field"), WRONG)
def test_what_a_chat_cannot_say_is_refused_by_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(AppError) as refused:
        chat(**fields)
    assert refused.value.field == field


def test_every_refusal_is_the_callers_fault_over_http(http: httpx2.Client) -> None:
    with serving_models(local=ScriptedModel(saying("hi"), name="tiny"), auth="off") as url:
        for fields, field in WRONG:
            answer = http.post(f"{url}/api/chat", json={"model": "tiny", "messages": USER, **fields})
            assert (answer.status_code, answer.json()["field"]) == (400, field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": "hi"}, "model"),
        ({"model": "m", "prompt": 1}, "prompt"),
        ({"model": "m", "prompt": "hi", "system": "x"}, "system"),
    ],
)
def test_a_raw_prompt_has_a_model_and_is_a_text_alone(body: dict[str, Any], field: str) -> None:
    with pytest.raises(AppError) as refused:
        raw_body(body)
    assert refused.value.field == field


def test_a_model_has_two_names_for_its_field() -> None:
    assert model_of({"name": "tiny:latest"}) == "tiny"
    with pytest.raises(AppError):
        embeddings_body({"model": "e"})
