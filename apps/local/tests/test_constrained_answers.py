"""Tools, JSON, seeds, stops and log probabilities from the real packaged model, on each engine."""

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from apps.core.deltas import Answer, collect
from apps.core.errors import InvalidValue
from apps.core.messages import ChatRequest, JsonObject, Message, ToolCall, user_message
from apps.core.settings import Settings
from apps.local.checkpoint import Report
from apps.local.loading import Loaded, load_local
from apps.local.model import LocalModel
from apps.local.tests.schemas import random_schema
from apps.tests.support.budgets import budgeted

pytestmark = pytest.mark.local

CALCULATOR: JsonObject = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Evaluates one arithmetic operation",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "number"},
                "operator": {"type": "string", "enum": ["+", "-", "*", "/"]},
                "b": {"type": "number"},
            },
            "required": ["a", "operator", "b"],
            "additionalProperties": False,
        },
    },
}
CLOCK: JsonObject = {"type": "function", "function": {"name": "clock", "description": "Tells the time"}}
QUESTION = user_message("What is 1234 * 5678?")
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=[pytest.param("plain", marks=pytest.mark.long), "batching"])
def model(request: pytest.FixtureRequest, packaged: Path) -> Iterator[LocalModel]:
    def load_plain(settings: Settings, report: Report) -> Loaded:
        from apps.local.engine.plain.engine import load_plain_engine
        from apps.local.tokenizer import HubTokenizer

        tokenizer = HubTokenizer(packaged)
        return Loaded("smol", load_plain_engine(packaged, tokenizer, "auto", settings.local_slots), tokenizer)

    async def started(model: LocalModel) -> LocalModel:
        await model.start()
        readiness = await model.settled()
        if readiness.details.get("batching_refused"):
            pytest.skip(f"the batching engine refuses this CPU: {readiness.details['batching_refused']}")
        assert readiness.state == "ready"
        return model

    settings = Settings(
        _env_file=None, local_model=str(packaged), local_slots=16, local_queue_size=300, local_queue_timeout=600
    )
    model = asyncio.run(started(LocalModel(settings, load_plain if request.param == "plain" else load_local)))
    yield model
    asyncio.run(model.aclose())


async def ask(model: LocalModel, messages: tuple[Message, ...] = QUESTION, **fields: Any) -> Answer:
    return await collect(model.stream(ChatRequest(messages, **{"max_tokens": 64, **fields})))


def schema_format(schema: JsonObject) -> JsonObject:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "calculator"}}])
async def test_a_required_call_is_a_call_with_valid_arguments(model: LocalModel, choice: str | JsonObject) -> None:
    answer = await ask(model, tools=(CALCULATOR,), tool_choice=choice, parallel_tool_calls=False)
    (call,) = answer.tool_calls
    assert (answer.finish_reason, answer.text, call.name) == ("tool_calls", "", "calculator")
    arguments = json.loads(call.arguments)
    Draft202012Validator(CALCULATOR["function"]["parameters"]).validate(arguments)
    assert arguments["operator"] == "*"


@pytest.mark.long
async def test_a_named_function_is_the_one_that_is_called(model: LocalModel) -> None:
    choice = {"type": "function", "function": {"name": "clock"}}
    answer = await ask(model, tools=(CALCULATOR, CLOCK), tool_choice=choice)
    assert {(call.name, call.arguments) for call in answer.tool_calls} == {("clock", "{}")}


@pytest.mark.long
async def test_parallel_calls_are_each_valid_and_bounded(model: LocalModel) -> None:
    answer = await ask(model, tools=(CALCULATOR,), tool_choice="required", max_tokens=300, temperature=1.0, seed=1)
    assert 1 <= len(answer.tool_calls) <= 4 and answer.finish_reason == "tool_calls"
    for call in answer.tool_calls:
        Draft202012Validator(CALCULATOR["function"]["parameters"]).validate(json.loads(call.arguments))


@pytest.mark.long
async def test_with_auto_the_answer_may_be_text_and_a_call_in_it_is_valid(model: LocalModel) -> None:
    text = await ask(model, user_message("Hello, who are you?"), tools=(CALCULATOR, CLOCK))
    assert text.text and (text.tool_calls or text.finish_reason in ("stop", "length"))
    drawn = [ask(model, tools=(CALCULATOR,), temperature=1.3, max_tokens=40, seed=seed) for seed in range(4)]
    for answer in await asyncio.gather(*drawn):
        assert "<tool_call>" not in answer.text
        if answer.finish_reason == "tool_calls":
            for call in answer.tool_calls:
                Draft202012Validator(CALCULATOR["function"]["parameters"]).validate(json.loads(call.arguments))


async def test_a_result_is_read_by_the_model(model: LocalModel) -> None:
    call = ToolCall("1", "calculator", '{"a": 1234, "operator": "*", "b": 5678}')
    result = Message("tool", "7006652", tool_call_id="1")
    conversation = (*QUESTION, Message("assistant", "", tool_calls=(call,)), result)
    answer = await ask(model, conversation, tools=(CALCULATOR,), tool_choice="none", max_tokens=30)
    assert "7006652" in answer.text


@pytest.mark.long
async def test_tools_and_a_response_format_leave_either(model: LocalModel) -> None:
    for choice in ("auto", "none"):
        answer = await ask(model, tools=(CLOCK,), tool_choice=choice, response_format=schema_format(PERSON))
        assert answer.tool_calls or Draft202012Validator(PERSON).is_valid(json.loads(answer.text))


@pytest.mark.parametrize("fields", [{}, {"temperature": 1.8, "top_p": 1.0, "seed": 4}])
@pytest.mark.long
async def test_json_object_is_an_object_within_every_budget(model: LocalModel, fields: dict[str, Any]) -> None:
    prompt = user_message("Write a very long JSON object about animals.")
    for budget in (3, 10, 33, 64):
        answer = await ask(model, prompt, response_format={"type": "json_object"}, max_tokens=budget, **fields)
        assert answer.finish_reason == "stop" and isinstance(json.loads(answer.text), dict)


async def test_a_budget_too_small_for_the_schema_is_a_length_and_no_forgery(model: LocalModel) -> None:
    answer = await ask(model, response_format=schema_format(PERSON), max_tokens=4)
    assert (answer.finish_reason, answer.usage and answer.usage.completion_tokens) == ("length", 4)
    assert answer.text.startswith('{"')


async def test_a_schema_that_cannot_be_honoured_is_refused_before_the_first_token(model: LocalModel) -> None:
    with pytest.raises(InvalidValue, match="not") as refused:
        await ask(model, response_format=schema_format({"type": "object", "not": {"required": ["a"]}}))
    assert refused.value.field == "response_format"
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "objekt"}}}
    with pytest.raises(InvalidValue, match="objekt") as refused:
        await ask(model, tools=(tool,))
    assert refused.value.field == "tools"
    assert model.admission.running == 0


@pytest.mark.long
async def test_random_schemas_are_valid_documents(model: LocalModel) -> None:
    # the plain engine takes turns at 20 tokens a second; it is here for the seam, not for the grammar
    count = budgeted(200, 60) if model.readiness().details["engine"] == "batching" else 5
    schemas = [random_schema(seed) for seed in range(count)]
    prompt = user_message("Write an example.")
    answers = await asyncio.gather(
        *(
            ask(model, prompt, response_format=schema_format(s), max_tokens=128, temperature=0.8, seed=1)
            for s in schemas
        )
    )
    for schema, answer in zip(schemas, answers, strict=True):
        assert answer.finish_reason == "stop", (schema, answer)
        Draft202012Validator(schema).validate(json.loads(answer.text))


@pytest.mark.long
async def test_a_seed_repeats_a_constrained_answer(model: LocalModel) -> None:
    form = schema_format(PERSON)
    texts = [(await ask(model, response_format=form, temperature=1.5, seed=seed)).text for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.long
async def test_stop_strings_cut_text_and_its_log_probabilities(model: LocalModel) -> None:
    prompt = user_message("What is Python?")
    whole = await ask(model, prompt, max_tokens=30, top_logprobs=0)
    assert "".join(entry.token for entry in whole.logprobs) == whole.text
    stop = ("level", "programming")
    cut = await ask(model, prompt, max_tokens=30, top_logprobs=0, stop=stop)
    assert cut.finish_reason == "stop" and not any(word in cut.text for word in stop)
    said = "".join(entry.token for entry in cut.logprobs)
    assert said.startswith(cut.text) and whole.text.startswith(cut.text)
    assert len(said) - len(cut.text) < len(cut.logprobs[-1].token)


@pytest.mark.long
async def test_log_probabilities_are_of_the_greedy_tokens_and_their_rivals(model: LocalModel) -> None:
    answer = await ask(model, user_message("What is Python?"), max_tokens=12, top_logprobs=5)
    assert len(answer.logprobs) == 12
    for entry in answer.logprobs:
        assert len(entry.top) == 5 and entry.top[0].raw == entry.raw
        values = [other.logprob for other in entry.top if other.logprob is not None]
        assert values == sorted(values, reverse=True) and values[0] == entry.logprob and values[0] <= 0
        assert sum(map(math.exp, values)) <= 1.0001
    assert b"".join(entry.raw for entry in answer.logprobs).decode() == answer.text
    plain = await ask(model, user_message("What is Python?"), max_tokens=12)
    assert (plain.text, plain.logprobs) == (answer.text, [])


async def test_log_probabilities_of_a_constrained_answer_are_the_models_own(model: LocalModel) -> None:
    form = {"type": "json_object"}
    answer = await ask(model, user_message("Say hello."), response_format=form, max_tokens=20, top_logprobs=1)
    # the model would rather have greeted: the brace is not its likeliest token
    assert answer.logprobs[0].raw.startswith(b"{")
    first, likeliest = answer.logprobs[0].logprob, answer.logprobs[0].top[0].logprob
    assert first is not None and likeliest is not None and first < likeliest
