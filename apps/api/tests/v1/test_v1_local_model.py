"""The packaged models themselves behind /v1: real weights, the official client, no network."""

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from apps.local.encoders.embedder import MiniLM, missing_for_minilm
from apps.local.model import LocalModel
from apps.local.packaged import PACKAGED_NAME, PackagedModelError, packaged_gguf
from apps.tests.support.serving import serving_models, settings

TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def missing() -> str:
    try:
        packaged_gguf()
    except PackagedModelError as error:
        return str(error)
    return ", ".join(missing_for_minilm())


pytestmark = [
    pytest.mark.local,
    pytest.mark.skipif(bool(missing()), reason=f"needs requirements-local.txt: {missing()}"),
]


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    configured = settings(local_model=f"no-such-org/{PACKAGED_NAME}-of-tests", local_slots=2)
    local = LocalModel(configured)
    with (
        serving_models(local=local, embedder=MiniLM()) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=60) as client,
    ):
        for _ in range(600):
            if local.readiness().state != "loading":
                break
            time.sleep(0.1)
        assert local.readiness().state == "ready", local.readiness().reason
        yield client


def test_the_list_names_the_model_that_really_answers(client: openai.OpenAI) -> None:
    model = client.models.retrieve(PACKAGED_NAME)
    assert model.model_extra is not None
    assert model.model_extra["status"] == "ready"


def test_every_path_names_the_model_that_really_answers(client: openai.OpenAI) -> None:
    chat = client.chat.completions.with_raw_response.create(
        model=PACKAGED_NAME, messages=[{"role": "user", "content": "hi"}], max_tokens=1
    )
    response = client.responses.with_raw_response.create(model=PACKAGED_NAME, input="hi", max_output_tokens=1)
    vectors = client.embeddings.with_raw_response.create(model="all-MiniLM-L6-v2", input="hi")
    assert (chat.headers["x-model"], response.headers["x-model"]) == (PACKAGED_NAME, PACKAGED_NAME)
    assert vectors.headers["x-model"] == "all-MiniLM-L6-v2"


def test_a_bare_prompt_is_continued_and_not_answered(client: openai.OpenAI) -> None:
    prompt = "The days of the week are Monday, Tuesday, Wednesday,"
    whole = client.completions.create(model=PACKAGED_NAME, prompt=prompt, max_tokens=4, temperature=0)
    assert whole.choices[0].text.startswith(" Thursday, Friday")
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    # the words and commas of the prompt alone: a chat template would add dozens of tokens
    assert whole.usage.prompt_tokens < 20
    stream = client.completions.create(model=PACKAGED_NAME, prompt=prompt, max_tokens=4, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_a_prompt_over_the_context_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=PACKAGED_NAME, prompt="word " * 9000)
    assert caught.value.code == "context_length_exceeded"


def test_a_response_streams_the_text_that_a_chat_has(client: openai.OpenAI) -> None:
    asked = "What is the capital of France?"
    chat = client.chat.completions.create(
        model=PACKAGED_NAME, messages=[{"role": "user", "content": asked}], max_tokens=12, temperature=0
    )
    *_, last = client.responses.create(
        model=PACKAGED_NAME, input=asked, max_output_tokens=12, temperature=0, stream=True
    )
    assert last.type in ("response.completed", "response.incomplete")
    response = last.response
    assert response.output_text == chat.choices[0].message.content
    assert chat.usage is not None and response.usage is not None
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.status == ("incomplete" if chat.choices[0].finish_reason == "length" else "completed")


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_is_called_with_arguments_that_meet_its_schema(client: openai.OpenAI, stream: bool) -> None:
    asked: Any = {
        "model": PACKAGED_NAME,
        "input": "What is the weather in Paris?",
        "tools": [TOOL],
        "tool_choice": "required",
        "temperature": 0,
        "max_output_tokens": 60,
        "parallel_tool_calls": False,
    }
    if stream:
        with client.responses.stream(**asked) as events:
            response = events.get_final_response()
    else:
        response = client.responses.create(**asked)
    call: Any = response.output[0]
    assert (call.type, call.name) == ("function_call", "get_weather")
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    items: Any = [{"role": "user", "content": asked["input"]}, call.to_dict(), output]
    after = client.responses.create(model=PACKAGED_NAME, input=items, tools=[TOOL], max_output_tokens=30)
    assert after.output


def test_a_text_format_holds_the_answer_to_its_schema(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model=PACKAGED_NAME,
        input="Invent a person.",
        text={"format": {"type": "json_schema", "name": "person", "schema": SCHEMA, "strict": True}},
        max_output_tokens=60,
        temperature=0,
    )
    assert set(json.loads(response.output_text)) == {"name", "age"}


def test_embeddings_in_both_formats_say_the_same(client: openai.OpenAI) -> None:
    texts = ["A cat sleeps.", "The kitten is asleep."]
    model = "all-MiniLM-L6-v2"
    packed = client.embeddings.create(model=model, input=texts, dimensions=384)
    floats = client.embeddings.create(model=model, input=texts, encoding_format="float")
    assert [one.index for one in packed.data] == [0, 1]
    for one, other in zip(packed.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert packed.usage.prompt_tokens == 13


def test_a_text_that_is_too_long_to_embed_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="all-MiniLM-L6-v2", input=["fine", "word " * 300])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input.1")
    cut = client.embeddings.create(
        model="all-MiniLM-L6-v2", input=["fine", "word " * 300], extra_body={"truncation": True}
    )
    assert len(cut.data) == 2 and cut.usage.prompt_tokens == 3 + 256
