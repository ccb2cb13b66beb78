"""POST /v1/completions of the local model: the bare prompt goes in, the text that follows comes out."""

from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pytest

from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.core.messages import ChatRequest, Message
from apps.models.scripted import ScriptedModel, Step
from apps.tests.support.serving import serving_models


def continuing(request: ChatRequest) -> Sequence[Step]:
    usage = Usage(4, 3)
    said = "Once" if request.echo else ""
    return [Delta(f"{said} upon", model="tiny"), Delta(" a time"), Delta("", (), "length", usage, "tiny")]


@pytest.fixture(scope="module")
def model() -> ScriptedModel:
    return ScriptedModel(continuing, name="tiny")


@pytest.fixture
def local(model: ScriptedModel) -> ScriptedModel:
    """The model of the service, which has not been called yet."""
    model.requests.clear()
    return model


@pytest.fixture(scope="module")
def client(model: ScriptedModel) -> Iterator[openai.OpenAI]:
    with serving_models(local=model) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        yield client


def test_the_prompt_reaches_the_model_bare_and_the_answer_is_a_text_completion(
    client: openai.OpenAI, local: ScriptedModel
) -> None:
    answer = client.completions.create(
        model="tiny", prompt="Once", max_tokens=3, temperature=0.5, top_p=0.25, seed=7, stop=["\n"]
    )
    assert (answer.object, answer.model) == ("text_completion", "tiny")
    assert answer.id.startswith("cmpl-")
    choice = answer.choices[0]
    assert (choice.text, choice.index, choice.finish_reason, choice.logprobs) == (" upon a time", 0, "length", None)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 3, 7)
    request = local.requests[0]
    assert request.raw
    assert request.messages == (Message("user", "Once"),)
    assert (request.max_tokens, request.temperature, request.top_p, request.seed) == (3, 0.5, 0.25, 7)
    assert request.stop == ("\n",)


def test_max_tokens_is_openais_sixteen_where_the_caller_says_nothing(
    client: openai.OpenAI, local: ScriptedModel
) -> None:
    client.completions.create(model="tiny", prompt=["Once"])
    assert local.requests[0].max_tokens == 16


def test_echo_repeats_the_prompt_once(client: openai.OpenAI) -> None:
    assert client.completions.create(model="tiny", prompt="Once", echo=True).choices[0].text == "Once upon a time"
    chunks = client.completions.create(model="tiny", prompt="Once", echo=True, stream=True)
    assert [chunk.choices[0].text for chunk in chunks] == ["Once upon", " a time", ""]


def test_a_stream_ends_with_its_reason_and_its_usage_where_that_was_asked_for(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "Once", "stream": True}
    *texts, last, usage = client.completions.create(**asked, stream_options={"include_usage": True})
    assert [chunk.choices[0].text for chunk in texts] == [" upon", " a time"]
    assert {chunk.object for chunk in (*texts, last, usage)} == {"text_completion"}
    assert last.choices[0].finish_reason == "length"
    assert usage.choices == []
    assert usage.usage.total_tokens == 7
    assert all(chunk.usage is None for chunk in client.completions.create(**asked))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["one", ""]}, "prompt.1"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["x"] * 257}, "prompt"),
        ({"n": 5}, "n"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 3, "stream": True}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"logprobs": 21}, "logprobs"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"extra_body": {"typical_p": 0.5}}, "typical_p"),
    ],
)
def test_what_the_local_model_cannot_honour_is_refused_by_name(
    client: openai.OpenAI, local: ScriptedModel, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": "tiny", "prompt": "Once", **fields})
    assert (caught.value.code, caught.value.param) == ("invalid_value", field)
    assert not local.requests


def test_a_missing_prompt_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt=None)
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "prompt")
