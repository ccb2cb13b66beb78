import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from apps.core.calls import Usage
from apps.core.deltas import Delta, PromptTokens, TokenLogprob, ToolCallDelta
from apps.core.errors import AppError, InvalidValue, NotFound, Overloaded, UpstreamError
from apps.core.messages import ChatRequest
from apps.gateway.openai_api.chat_completions import DONE, LocalWire
from apps.gateway.protocol import WireCall
from apps.models.scripted import ScriptedModel, Step, saying

BODY = {"model": "local", "messages": [{"role": "user", "content": "hi"}]}
LOGPROB = TokenLogprob("ü", "ü".encode(), -0.5, (TokenLogprob("\ufffd", b"\xc3", -1.0),))


def call(path: str = "/chat/completions", **fields: Any) -> WireCall:
    body = {**BODY, **fields}
    return WireCall(path, json.dumps(body).encode(), body, bool(fields.get("stream")))


async def whole(model: ScriptedModel, **fields: Any) -> dict[str, Any]:
    reply = await LocalWire(model).open(call(**fields), "local")
    assert (reply.content_type, reply.rest) == ("application/json", None)
    body: dict[str, Any] = json.loads(reply.body)
    return body


async def streamed(model: ScriptedModel, **fields: Any) -> list[dict[str, Any]]:
    reply = await LocalWire(model).open(call(stream=True, **fields), "local")
    assert reply.rest is not None
    body = reply.body + b"".join([block async for block in reply.rest])
    assert body.endswith(DONE)
    return [json.loads(event.removeprefix(b"data: ")) for event in body.removesuffix(DONE).split(b"\n\n") if event]


def counted(request: ChatRequest) -> Sequence[Step]:
    """The seed as text, in two pieces, with usage."""
    usage = Usage(5, 2, 1)
    return [Delta("seed ", model="m"), Delta(str(request.seed), model="m"), Delta(finish_reason="stop", usage=usage)]


def calling(request: ChatRequest) -> Sequence[Step]:
    first, second = ToolCallDelta(0, "call_1", "add"), ToolCallDelta(0, arguments='{"a": 1}')
    return [Delta(""), Delta(tool_calls=(first,)), Delta(tool_calls=(second,)), Delta(finish_reason="tool_calls")]


def texts(chunks: list[dict[str, Any]]) -> dict[int, str]:
    said: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            said[choice["index"]] = said.get(choice["index"], "") + (choice["delta"].get("content") or "")
    return said


async def test_choices_have_their_own_index_and_seed_and_the_prompt_counts_once() -> None:
    model = ScriptedModel(counted)
    body = await whole(model, n=3, seed=7)
    said = [(choice["index"], choice["message"]["content"], choice["finish_reason"]) for choice in body["choices"]]
    assert said == [(0, "seed 7", "stop"), (1, "seed 8", "stop"), (2, "seed 9", "stop")]
    assert body["usage"]["prompt_tokens"] == 5 and body["usage"]["completion_tokens"] == 6
    assert body["usage"]["total_tokens"] == 11 and model.open == 0


async def test_streamed_choices_each_begin_with_a_role_and_end_with_a_reason() -> None:
    chunks = await streamed(ScriptedModel(counted), n=4, seed=1, stream_options={"include_usage": True})
    assert texts(chunks) == {i: f"seed {i + 1}" for i in range(4)}
    for index in range(4):
        mine = [c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert [choice["finish_reason"] for choice in mine] == [None, None, None, "stop"]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["total_tokens"] == 13
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_each_chunk_is_written_as_the_first_whatever_the_text_and_the_models_name() -> None:
    said = ["a", '"', "\n\r\t", "é\u2028\x7f", '{"content": ""}', "\\", "data: [DONE]\n\n", "z"]
    model = ScriptedModel(
        lambda _: [*map(Delta, said), Delta(finish_reason="stop")], name='{"choices": [{"delta": {"content": ""}}]}'
    )
    for count in (1, 2):
        reply = await LocalWire(model).open(call(stream=True, n=count), "local")
        assert reply.rest is not None
        events = (reply.body + b"".join([block async for block in reply.rest])).removesuffix(DONE).split(b"\n\n")[:-1]
        chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
        assert texts(chunks) == dict.fromkeys(range(count), "".join(said))
        assert [b"data: " + json.dumps(chunk, ensure_ascii=False).encode() for chunk in chunks] == events
        first, *others = ({**chunk, "choices": []} for chunk in chunks)
        assert all(other == first for other in others)


async def test_without_the_option_no_chunk_speaks_of_usage() -> None:
    assert all("usage" not in chunk for chunk in await streamed(ScriptedModel(counted)))


async def test_a_tool_call_has_openais_shape_whole_and_in_pieces() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    choice = (await whole(ScriptedModel(calling), tools=tools))["choices"][0]
    function = {"name": "add", "arguments": '{"a": 1}'}
    assert choice["message"]["tool_calls"] == [{"id": "call_1", "type": "function", "function": function}]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")
    deltas = [chunk["choices"][0]["delta"] for chunk in await streamed(ScriptedModel(calling), tools=tools)]
    begun = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}}
    assert deltas == [
        {"role": "assistant", "content": None},
        {"tool_calls": [begun]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]},
        {},
    ]


async def test_log_probabilities_have_openais_shape_and_are_null_where_nobody_asked() -> None:
    def script(request: ChatRequest) -> Sequence[Step]:
        return [Delta("ü", logprobs=(LOGPROB,)), Delta(finish_reason="stop")]

    expected = {
        "content": [
            {
                "token": "ü",
                "logprob": -0.5,
                "bytes": [195, 188],
                "top_logprobs": [{"token": "\ufffd", "logprob": -1.0, "bytes": [195]}],
            }
        ],
        "refusal": None,
    }
    asked = {"logprobs": True, "top_logprobs": 1}
    assert (await whole(ScriptedModel(script), **asked))["choices"][0]["logprobs"] == expected
    chunks = await streamed(ScriptedModel(script), **asked)
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks] == [None, expected, None]
    assert (await whole(ScriptedModel(saying("x"))))["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_error_ends_the_other_choices(stream: bool) -> None:
    def script(request: ChatRequest) -> Sequence[Step]:
        return [Overloaded("full", retry_after=3)] if request.seed == 2 else [5.0, Delta("late", finish_reason="stop")]

    model = ScriptedModel(script)
    async with asyncio.timeout(2):
        with pytest.raises(Overloaded) as failed:
            await LocalWire(model).open(call(stream=stream, n=3, seed=0), "local")
    assert failed.value.retry_after == 3
    assert model.open == 0


async def test_an_error_after_the_first_delta_ends_a_stream_without_done() -> None:
    def script(request: ChatRequest) -> Sequence[Step]:
        return [Delta("x"), UpstreamError("broken")]

    model = ScriptedModel(script)
    reply = await LocalWire(model).open(call(stream=True, n=2), "local")
    assert reply.rest is not None
    with pytest.raises(UpstreamError, match="broken"):
        [block async for block in reply.rest]
    assert model.open == 0


async def test_a_choice_without_an_end_is_an_error() -> None:
    def script(request: ChatRequest) -> Sequence[Step]:
        return [Delta("x")] if request.seed == 1 else [Delta("x", finish_reason="stop")]

    reply = await LocalWire(ScriptedModel(script)).open(call(stream=True, n=2, seed=0), "local")
    assert reply.rest is not None
    with pytest.raises(UpstreamError, match="cut off"):
        [block async for block in reply.rest]


async def test_a_reader_that_leaves_ends_every_choice() -> None:
    def script(request: ChatRequest) -> Sequence[Step]:
        return [Delta("x"), 30.0, Delta("y", finish_reason="stop")]

    model = ScriptedModel(script)
    reply = await LocalWire(model).open(call(stream=True, n=4), "local")
    assert model.open == 4
    async with asyncio.timeout(1):
        await reply.close()
    assert model.open == 0


@pytest.mark.parametrize(
    ("path", "fields", "error"),
    [("/embeddings", {}, NotFound), ("/chat/completions", {"presence_penalty": 3}, InvalidValue)],
)
async def test_what_is_refused_is_refused_before_the_model_is_asked(
    path: str, fields: dict[str, Any], error: type[AppError]
) -> None:
    model = ScriptedModel(saying("x"))
    with pytest.raises(error):
        await LocalWire(model).open(call(path, **fields), "local")
    assert model.requests == []


def numbered(request: ChatRequest) -> Sequence[Step]:
    """Two tokens and an end token, with what was asked for."""
    prompt = None
    if request.token_ids or request.prompt_logprobs is not None:
        top = (TokenLogprob("b", b"b", -0.25, id=8),)
        prompt = PromptTokens((1, 7), (TokenLogprob("", b"", None, id=1), TokenLogprob("a", b"a", -2.0, top, 7, 5)))
    tokens: list[tuple[int, ...]] = [(5,), (6,), (2,)] if request.token_ids else [()] * 3
    logprobs: list[tuple[TokenLogprob, ...]] = [()] * 2
    if request.top_logprobs is not None:
        logprobs = [(TokenLogprob("x", b"x", -0.5, id=5),), (TokenLogprob("y", b"y", -0.5, id=6),)]
    usages = [Usage(2, count) if request.running_usage or count == 3 else None for count in (1, 2, 3)]
    return [
        Delta("x", usage=usages[0], logprobs=logprobs[0], tokens=tokens[0], prompt=prompt),
        Delta("y", usage=usages[1], logprobs=logprobs[1], tokens=tokens[1]),
        Delta(finish_reason="stop", usage=usages[2], tokens=tokens[2]),
    ]


async def test_tokens_are_told_by_their_numbers_whole_and_streamed() -> None:
    asked: dict[str, Any] = {"return_token_ids": True, "logprobs": True, "return_tokens_as_token_ids": True}
    answer = await whole(ScriptedModel(numbered), **asked)
    choice = answer["choices"][0]
    assert (answer["prompt_token_ids"], choice["token_ids"], answer["prompt_logprobs"]) == ([1, 7], [5, 6, 2], None)
    assert [token["token"] for token in choice["logprobs"]["content"]] == ["token_id:5", "token_id:6"]
    chunks = await streamed(ScriptedModel(numbered), **asked)
    assert [chunk.get("prompt_token_ids") for chunk in chunks] == [[1, 7], None, None, None]
    assert [chunk["choices"][0].get("token_ids") for chunk in chunks] == [None, [5], [6], [2]]
    plain = await whole(ScriptedModel(numbered))
    assert (plain["prompt_token_ids"], plain["choices"][0]["token_ids"]) == (None, None)


async def test_what_the_caller_stopped_an_answer_by_is_told() -> None:
    def stopped(request: ChatRequest) -> Sequence[Step]:
        return [Delta("x"), Delta(finish_reason="stop", stopped_by=request.stop[0] if request.stop else 0)]

    for stop, stopped_by in ((["END"], "END"), ([], 0)):
        assert (await whole(ScriptedModel(stopped), stop=stop))["choices"][0]["stop_reason"] == stopped_by
        chunks = await streamed(ScriptedModel(stopped), stop=stop)
        assert [chunk["choices"][0].get("stop_reason") for chunk in chunks] == [None, None, stopped_by]
    assert "stop_reason" not in (await whole(ScriptedModel(saying("x"))))["choices"][0]


async def test_a_prompts_log_probabilities_are_by_number_with_rank() -> None:
    answer = await whole(ScriptedModel(numbered), prompt_logprobs=1)
    assert answer["prompt_logprobs"] == [
        None,
        {
            "8": {"logprob": -0.25, "rank": 1, "decoded_token": "b"},
            "7": {"logprob": -2.0, "rank": 5, "decoded_token": "a"},
        },
    ]


async def test_usage_so_far_stands_in_each_chunk_where_it_is_asked_for() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await streamed(ScriptedModel(numbered), stream_options=options)
    assert [(c["usage"]["prompt_tokens"], c["usage"]["completion_tokens"]) for c in chunks] == [
        (2, 0),
        (2, 1),
        (2, 2),
        (2, 3),
        (2, 3),
    ]
    assert [bool(chunk["choices"]) for chunk in chunks] == [True] * 4 + [False]
