"""OpenAI's chat: requests become bodies, chunks become deltas, and no shape of an answer crashes the reader."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apps.core.calls import Usage
from apps.core.deltas import Delta, TokenLogprob, ToolCallDelta
from apps.core.errors import AppError, UpstreamError
from apps.core.messages import ChatRequest, Message, ToolCall, user_message
from apps.models.openai_chat import chat_body
from apps.models.openai_chat import deltas_of as read_deltas

REQUEST = ChatRequest(user_message("hi"))


def piece(content: str | None = None, *, finish: str | None = None, **more: Any) -> str:
    delta = {} if content is None else {"content": content}
    return json.dumps({"choices": [{"index": 0, "delta": {**delta, **more}, "finish_reason": finish}], "model": "up"})


async def deltas_of(*chunks: str) -> list[Delta]:
    async def parsed() -> AsyncGenerator[dict[str, Any], None]:
        for chunk in chunks:
            yield json.loads(chunk)

    return [delta async for delta in read_deltas(parsed(), "gpt-4o-mini")]


async def test_chunks_become_deltas_and_the_last_one_says_how_it_ended() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    deltas = await deltas_of(
        piece("", role="assistant"),
        piece("Py"),
        piece("thon"),
        piece(finish="length"),
        json.dumps({"choices": [], "usage": usage}),
    )
    assert deltas == [
        Delta("Py", model="up"),
        Delta("thon", model="up"),
        Delta("", finish_reason="length", usage=Usage(9, 2, 4), model="up"),
    ]


async def test_usage_and_model_may_be_missing() -> None:
    deltas = await deltas_of('{"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}')
    assert deltas == [Delta("a", model="gpt-4o-mini"), Delta("", finish_reason="stop", model="gpt-4o-mini")]


@pytest.mark.parametrize(
    "usage",
    [
        *(
            "null",
            "{}",
            "[]",
            '"x"',
            '{"prompt_tokens": "9"}',
            '{"prompt_tokens_details": 3}',
            '{"prompt_tokens": 1.5}',
        ),
        '{"prompt_tokens": 9, "completion_tokens": -1}',
        '{"prompt_tokens": 9223372036854775807, "completion_tokens": 1}',
    ],
)
async def test_nonsense_in_the_usage_is_no_usage(usage: str) -> None:
    deltas = await deltas_of(piece("a", finish="stop"), '{"choices": [], "usage": ' + usage + "}")
    assert (deltas[-1].finish_reason, deltas[-1].usage) == ("stop", None)


async def test_lone_surrogates_split_across_chunks_are_one_character() -> None:
    deltas = await deltas_of(piece("a\ud83d"), piece("\ude00b"), piece(finish="stop"))
    assert "".join(delta.text for delta in deltas) == "a😀b"


async def test_a_surrogate_that_stays_alone_is_the_replacement_character() -> None:
    deltas = await deltas_of(piece("a\ud83d"), piece(finish="stop"))
    assert "".join(delta.text for delta in deltas) == "a\ufffd"


async def test_pieces_of_tool_calls_are_handed_on() -> None:
    first = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": "{}"}}
    deltas = await deltas_of(piece(tool_calls=[first]), piece(tool_calls=[rest]), piece(finish="tool_calls"))
    assert [delta.tool_calls for delta in deltas[:2]] == [
        (ToolCallDelta(0, "c", "f", ""),),
        (ToolCallDelta(0, None, None, "{}"),),
    ]
    assert deltas[-1].finish_reason == "tool_calls"


async def test_log_probabilities_are_handed_on() -> None:
    rivals: list[dict[str, Any]] = [
        {"token": "Py", "bytes": [80, 121], "logprob": -0.5},
        {"token": "ü", "bytes": None, "logprob": -1},
    ]
    logprobs = {"content": [{**rivals[0], "top_logprobs": rivals}]}
    chunk = {"choices": [{"index": 0, "delta": {"content": "Py"}, "logprobs": logprobs}], "model": "up"}
    deltas = await deltas_of(json.dumps(chunk), piece(finish="stop"))
    top = (TokenLogprob("Py", b"Py", -0.5), TokenLogprob("ü", "ü".encode(), -1.0))
    assert deltas[0] == Delta("Py", model="up", logprobs=(TokenLogprob("Py", b"Py", -0.5, top),))


async def test_an_end_without_a_finish_reason_is_a_cut_answer() -> None:
    with pytest.raises(UpstreamError, match="cut off"):
        await deltas_of(piece("a"))


async def test_an_empty_stream_is_a_cut_answer() -> None:
    with pytest.raises(UpstreamError, match="cut off"):
        await deltas_of()


async def test_a_whole_message_is_read_too() -> None:
    body = {"model": "up", "choices": [{"message": {"content": "all"}, "finish_reason": "stop"}]}
    assert [delta.text for delta in await deltas_of(json.dumps(body))] == ["all", ""]


async def test_thinking_parts_are_no_text() -> None:
    thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]
    deltas = await deltas_of(
        json.dumps({"choices": [{"delta": {"content": thinking}}]}), piece("b", reasoning_content="x", finish="stop")
    )
    assert "".join(delta.text for delta in deltas) == "ab"


KEYS = ["choices", "delta", "message", "content", "tool_calls", "function", "name", "id", "arguments", "index"]
KEYS += ["logprobs", "token", "logprob", "bytes", "top_logprobs"]
KEYS += ["finish_reason", "model", "usage", "prompt_tokens", "completion_tokens", "prompt_tokens_details"]
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=12,
)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["choices", "usage", "model", "error"]), ODD, max_size=4))
@pytest.mark.long
async def test_no_shape_of_a_chunk_raises_anything_but_our_errors(chunk: dict[str, Any]) -> None:
    try:
        deltas = await deltas_of(json.dumps(chunk))
    except AppError as error:
        assert error.code == "UPSTREAM_ERROR"
    else:
        assert [type(delta.text) for delta in deltas] == [str] * len(deltas)
        assert isinstance(deltas[-1].finish_reason, str)
        assert {type(call.index) for delta in deltas for call in delta.tool_calls} <= {int, bool}


def test_the_body_holds_what_was_given_and_nothing_else() -> None:
    assert chat_body(REQUEST, "m") == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    full = ChatRequest(
        (
            Message("user", [{"type": "text", "text": "hi"}]),
            Message("assistant", "", tool_calls=(ToolCall("c", "f", "{}"),)),
            Message("tool", "42", tool_call_id="c"),
        ),
        model="other",
        temperature=0.0,
        top_p=0.0,
        max_tokens=1,
        stop=("x",),
        seed=0,
        tools=({"type": "function"},),
        tool_choice="auto",
        parallel_tool_calls=False,
        response_format={"type": "json_object"},
        top_logprobs=2,
    )
    assert chat_body(full, "m") == {
        "model": "other",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "42", "tool_call_id": "c"},
        ],
        "temperature": 0.0,
        "top_p": 0.0,
        "max_tokens": 1,
        "stop": ["x"],
        "seed": 0,
        "tools": [{"type": "function"}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_object"},
        "logprobs": True,
        "top_logprobs": 2,
    }
