"""The legacy completions of a ChatModel: prompts of every form, choices, log probabilities, and how a stream ends."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from apps.core.calls import Usage
from apps.core.deltas import Delta, PromptTokens, TokenLogprob
from apps.core.errors import AppError, UpstreamError
from apps.core.messages import ChatRequest
from apps.gateway.openai_api.chat_completions import DONE
from apps.gateway.openai_api.completions import LocalCompletions
from apps.gateway.protocol import WireCall, WireReply
from apps.models.scripted import ScriptedModel, Step, saying


async def streamed(model: ScriptedModel) -> WireReply:
    body = {"model": "local", "prompt": "hi", "stream": True}
    return await LocalCompletions(model).open(WireCall("/completions", json.dumps(body).encode(), body, True), "local")


@pytest.mark.parametrize("said", [["half"], ["half", " of it"]])
async def test_a_stream_without_a_finish_reason_is_an_error_and_never_done(said: list[str]) -> None:
    def script(request: ChatRequest) -> Sequence[Step]:
        return [Delta(text, model="m") for text in said]

    model = ScriptedModel(script)
    reply = await streamed(model)
    assert reply.rest is not None
    sent = reply.body
    with pytest.raises(UpstreamError, match="cut off"):
        async for block in reply.rest:
            sent += block
    assert all(text.encode() in sent for text in said) and DONE not in sent
    assert model.open == 0


async def test_a_stream_with_a_finish_reason_is_done() -> None:
    reply = await streamed(ScriptedModel(saying("whole", finish_reason="length")))
    assert reply.rest is not None
    blocks = [reply.body, *[block async for block in reply.rest]]
    assert b'"finish_reason": "length"' in b"".join(blocks) and blocks[-1].endswith(DONE)


def counting(request: ChatRequest) -> Sequence[Step]:
    """The prompt's length and the seed as text; a prompt of n tokens has n, and each answer two."""
    prompt = request.prompt_tokens or tuple(map(ord, str(request.messages[0].content)))
    said = f"{len(prompt)}/{request.seed}"
    return [Delta(said, model="m"), Delta("", finish_reason="stop", usage=Usage(len(prompt), 2))]


async def whole(model: ScriptedModel, **fields: Any) -> dict[str, Any]:
    body = {"model": "local", **fields}
    reply = await LocalCompletions(model).open(
        WireCall("/completions", json.dumps(body).encode(), body, False), "local"
    )
    answer: dict[str, Any] = json.loads(reply.body)
    return answer


async def events(model: ScriptedModel, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "local", "stream": True, **fields}
    reply = await LocalCompletions(model).open(WireCall("/completions", json.dumps(body).encode(), body, True), "local")
    assert reply.rest is not None
    sent = reply.body + b"".join([block async for block in reply.rest])
    return [json.loads(event.removeprefix(b"data: ")) for event in sent.removesuffix(DONE).split(b"\n\n") if event]


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("hello", ["5/None"]),
        (["hello"], ["5/None"]),
        (["a", "bc", "def"], ["1/None", "2/None", "3/None"]),
        ([7, 8, 9], ["3/None"]),
        ([[7], [8, 9]], ["1/None", "2/None"]),
    ],
)
async def test_prompts_are_texts_or_tokens_one_or_several(prompt: Any, texts: list[str]) -> None:
    answer = await whole(ScriptedModel(counting), prompt=prompt)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [*enumerate(texts)]
    prompts = sum(int(text.partition("/")[0]) for text in texts)
    assert answer["usage"]["prompt_tokens"] == prompts and answer["usage"]["completion_tokens"] == 2 * len(texts)


async def test_choices_of_several_prompts_stand_in_order_and_a_prompt_counts_once() -> None:
    asked: dict[str, Any] = {"prompt": ["a", "bcd"], "n": 2, "seed": 5}
    answer = await whole(ScriptedModel(counting), **asked)
    texts = ["1/5", "1/6", "3/5", "3/6"]
    assert [choice["text"] for choice in answer["choices"]] == texts
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (4, 8)
    streamed = await events(ScriptedModel(counting), **asked, stream_options={"include_usage": True})
    said = {choice["index"]: choice["text"] for event in streamed for choice in event["choices"] if choice["text"]}
    assert [said[index] for index in range(4)] == texts
    assert streamed[-1]["choices"] == [] and streamed[-1]["usage"] == answer["usage"]
    assert streamed[0]["system_fingerprint"] == answer["system_fingerprint"] and answer["system_fingerprint"]


async def test_many_prompts_are_asked_a_few_at_a_time() -> None:
    running: list[int] = []

    def script(request: ChatRequest) -> Sequence[Step]:
        running.append(model.open)
        return [0.0, Delta("x"), Delta(finish_reason="stop", usage=Usage(1, 1))]

    model = ScriptedModel(script)
    answer = await whole(model, prompt=["p"] * 40)
    assert len(answer["choices"]) == 40 and max(running) <= 4 and model.open == 0


def scored(request: ChatRequest) -> Sequence[Step]:
    """The likelier the answer, the higher the seed; half of an umlaut in it."""
    lower = -2.0 / ((request.seed or 0) + 1)
    first = TokenLogprob("Hi", b"Hi", lower, (TokenLogprob("Hi", b"Hi", lower), TokenLogprob(" x", b" x", -3.0)))
    halves = tuple(TokenLogprob("\ufffd", raw, lower) for raw in (b"\xc3", b"\xbc"))
    end = Delta(finish_reason="stop", usage=Usage(1, 3))
    begun = (TokenLogprob("<s>", b"<s>", None), TokenLogprob(" A", b" A", -1.0)) if request.echo else ()
    prompt = [Delta("A", logprobs=begun)] if request.echo else []
    logprobs = (first, *halves) if request.top_logprobs is not None else ()
    return [*prompt, Delta("Hi\u00fc", logprobs=logprobs), end]


async def test_log_probabilities_have_the_legacy_shape() -> None:
    choice = (await whole(ScriptedModel(scored), prompt="A", logprobs=1, echo=True))["choices"][0]
    assert choice["text"] == "AHi\u00fc"
    assert choice["logprobs"] == {
        "tokens": ["<s>", " A", "Hi", "bytes:\\xc3", "bytes:\\xbc"],
        "token_logprobs": [None, -1.0, -2.0, -2.0, -2.0],
        "top_logprobs": [None, {" A": -1.0}, {"Hi": -2.0, " x": -3.0}, {"bytes:\\xc3": -2.0}, {"bytes:\\xbc": -2.0}],
        "text_offset": [0, 0, 1, 3, 3],
    }
    streamed = await events(ScriptedModel(scored), prompt="A", logprobs=1, echo=True)
    pieces = [choice["logprobs"] for event in streamed for choice in event["choices"] if choice["logprobs"]]
    for name, expected in choice["logprobs"].items():
        assert [value for piece in pieces for value in piece[name]] == expected
    assert (await whole(ScriptedModel(scored), prompt="A"))["choices"][0]["logprobs"] is None


async def test_the_best_of_several_answers_is_the_likeliest_and_all_are_paid() -> None:
    model = ScriptedModel(scored)
    answer = await whole(model, prompt="A", best_of=3, n=1, seed=0, logprobs=0)
    assert len(model.requests) == 3 and answer["usage"]["completion_tokens"] == 9
    assert answer["choices"][0]["logprobs"]["token_logprobs"][0] == pytest.approx(-2 / 3)
    unscored = await whole(ScriptedModel(scored), prompt="A", best_of=2, seed=0)
    assert unscored["choices"][0]["logprobs"] is None


async def test_a_prompt_is_scored_without_an_answer() -> None:
    model = ScriptedModel(scored)
    await whole(model, prompt="A", max_tokens=0, echo=True, logprobs=5)
    assert (model.requests[0].max_tokens, model.requests[0].echo, model.requests[0].top_logprobs) == (0, True, 5)


async def test_samplers_and_forms_reach_the_model() -> None:
    model = ScriptedModel(counting)
    await whole(model, prompt="A", top_k=3, logit_bias={"5": 2}, guided_regex="a+", presence_penalty=1)
    request = model.requests[0]
    assert (request.top_k, request.logit_bias, request.answer_regex) == (3, {5: 2}, "a+")
    assert request.presence_penalty == 1 and request.raw


@pytest.mark.parametrize(
    ("prompt", "field"),
    [([1, "a"], "prompt"), ([[1, True]], "prompt.0"), ([None], "prompt.0"), ([1.5], "prompt"), (3, "prompt")],
)
async def test_a_prompt_that_is_neither_text_nor_tokens_is_named(prompt: Any, field: str) -> None:
    model = ScriptedModel(counting)
    with pytest.raises(AppError) as refused:
        await whole(model, prompt=prompt)
    assert refused.value.field == field and not model.requests


async def test_tokens_and_a_prompts_log_probabilities_stand_in_their_choice() -> None:
    def script(request: ChatRequest) -> Sequence[Step]:
        prompt = PromptTokens((7,), (TokenLogprob("a", b"a", None, id=7),))
        usage = Usage(1, 1) if request.running_usage else None
        entry = (TokenLogprob("x", b"x", -0.5, (TokenLogprob("x", b"x", -0.5, id=5),), 5),)
        return [
            Delta("x", usage=usage, logprobs=entry, tokens=(5,), prompt=prompt),
            Delta(finish_reason="stop", usage=Usage(1, 2), tokens=(2,), stopped_by=2),
        ]

    asked: dict[str, Any] = {"return_token_ids": True, "return_tokens_as_token_ids": True, "logprobs": 1}
    choice = (await whole(ScriptedModel(script), prompt="a", prompt_logprobs=0, **asked))["choices"][0]
    assert (choice["prompt_token_ids"], choice["token_ids"], choice["prompt_logprobs"]) == ([7], [5, 2], [None])
    assert choice["logprobs"]["tokens"] == ["token_id:5"] and choice["stop_reason"] == 2
    assert choice["logprobs"]["top_logprobs"] == [{"token_id:5": -0.5}]
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await events(ScriptedModel(script), prompt="a", stream_options=options, **asked)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 2]
    assert [choice.get("token_ids") for chunk in chunks for choice in chunk["choices"]] == [[5], [2]]
    assert [choice.get("stop_reason") for chunk in chunks for choice in chunk["choices"]] == [None, 2]
    assert chunks[0]["choices"][0]["prompt_token_ids"] == [7]
