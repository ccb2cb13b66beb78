"""Bodies of responses with anything in any field: taken, or refused by an error that names the field."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.core.errors import AppError, UpstreamError
from apps.gateway.openai_api.responses import ResponsesOverChat
from apps.gateway.openai_api.responses_request import chat_body
from apps.gateway.protocol import WireCall, WireReply

FIELDS = [
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "text",
    "max_output_tokens",
    "reasoning",
    "store",
    "include",
    "metadata",
    "stream_options",
    "truncation",
    "previous_response_id",
    "anything",
]
WORDS = ["type", "role", "content", "name", "text", "format", "function", "message", "user", "call_id", "output"]
WORDS += ["tools", "namespace"]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.floats(allow_nan=False)
    | st.sampled_from([*WORDS, "input_text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)


class Chat:
    """A chat target that answers with these bytes."""

    def __init__(self, body: bytes, *blocks: bytes) -> None:
        self._body, self._blocks = body, blocks

    async def open(self, call: WireCall, model: str) -> WireReply:
        return WireReply("application/json", self._body, self._rest() if call.stream else None)

    async def _rest(self) -> AsyncGenerator[bytes, None]:
        for block in self._blocks:
            yield block

    async def aclose(self) -> None:
        """Nothing to end."""


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5))
async def test_any_body_is_taken_or_refused_with_a_field(body: dict[str, Any]) -> None:
    whole = {"input": "hi", **body, "model": "m"}
    try:
        chat = chat_body(whole)
    except AppError as error:
        assert error.status == 422
        assert error.field
        return
    assert chat["messages"]
    answer = {"model": "m", "choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}
    call = WireCall("/responses", json.dumps(whole).encode(), whole, False)
    reply = await ResponsesOverChat(Chat(json.dumps(answer).encode())).open(call, "m")
    assert json.loads(reply.body)["output"][0]["content"][0]["text"] == "hello"


@pytest.mark.parametrize(
    "nonsense",
    [
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [3]}',
        b'{"choices": [{"delta": {"tool_calls": [1]}}]}',
        b"no json",
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_chat_that_answers_nonsense_is_an_upstream_error(nonsense: bytes, stream: bool) -> None:
    body = {"model": "m", "input": "hi", "stream": stream}
    call = WireCall("/responses", b"", body, stream)
    with pytest.raises(UpstreamError):
        reply = await ResponsesOverChat(Chat(b"data: " + nonsense + b"\n\n" if stream else nonsense)).open(call, "m")
        assert reply.rest is not None
        async for _ in reply.rest:
            pass


def test_a_chats_own_words_are_passed_on_and_bookkeeping_is_left_out() -> None:
    samplers = {"top_k": 3, "min_p": 0.1, "seed": 7, "stop": ["x"], "repetition_penalty": 1.1, "logit_bias": {"5": -1}}
    samplers |= {"stop_token_ids": [3], "allowed_token_ids": [3, 4], "bad_words": ["no"]}
    samplers |= {"chat_template_kwargs": {"enable_thinking": False}, "thinking_token_budget": 5}
    chat = chat_body({"model": "m", "input": "hi", **samplers, "session_id": "s", "timings_per_token": True})
    assert chat == {"model": "m", "messages": [{"role": "user", "content": "hi"}], **samplers}


def test_what_asks_for_nothing_is_no_error() -> None:
    nothing: dict[str, Any] = {
        "n": None,
        "echo": False,
        "skip_special_tokens": True,
        "return_token_ids": False,
        "best_of": 1,
        "lora": [],
    }
    nothing |= {"include_stop_str_in_output": False, "thinking": {"type": "disabled"}, "conversation": None}
    assert chat_body({"model": "m", "input": "hi", **nothing}) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
    }
    asked: list[tuple[str, Any]] = [("echo", True), ("best_of", 2), ("truncation", "auto"), ("conversation", "c")]
    for name, value in asked:
        with pytest.raises(AppError) as refused:
            chat_body({"model": "m", "input": "hi", name: value})
        assert refused.value.field == name


def test_functions_of_a_namespace_are_functions_by_both_names() -> None:
    def named(name: str, **more: Any) -> dict[str, Any]:
        return {"type": "function", "name": name, "parameters": {"type": "object"}, **more}

    crm = {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [named("find"), named("add")]}
    crm["tools"][0]["description"] = "Finds one."  # type: ignore[index]
    shop = {"type": "namespace", "name": "shop", "tools": [named("find", strict=True)]}
    call = {"type": "function_call", "namespace": "crm", "name": "add", "call_id": "c", "arguments": "{}"}
    body = {"model": "m", "input": [call], "tools": [named("ping"), crm, shop]}
    chat = chat_body(body)
    assert [tool["function"] for tool in chat["tools"]] == [
        {"name": "ping", "parameters": {"type": "object"}},
        {"name": "crm__find", "description": "Customers.\nFinds one.", "parameters": {"type": "object"}},
        {"name": "crm__add", "description": "Customers.", "parameters": {"type": "object"}},
        {"name": "shop__find", "parameters": {"type": "object"}, "strict": True},
    ]
    assert chat["messages"][0]["tool_calls"][0]["function"] == {"name": "crm__add", "arguments": "{}"}
    for choice, name in (
        ("add", "crm__add"),
        ("shop__find", "shop__find"),
        ("ping", "ping"),
        ("none_such", "none_such"),
    ):
        chosen = chat_body({**body, "tool_choice": {"type": "function", "name": choice}})["tool_choice"]
        assert chosen == {"type": "function", "function": {"name": name}}
    with pytest.raises(AppError, match="one of crm__find, shop__find") as refused:
        chat_body({**body, "tool_choice": {"type": "function", "name": "find"}})
    assert refused.value.field == "tool_choice"


@pytest.mark.parametrize(
    ("tool", "field"),
    [
        ({"type": "namespace", "tools": []}, "tools.0.name"),
        ({"type": "namespace", "name": "a"}, "tools.0.tools"),
        ({"type": "namespace", "name": "a", "tools": [3]}, "tools.0.tools.0"),
        ({"type": "namespace", "name": "a", "tools": [{"type": "custom", "name": "b"}]}, "tools.0.tools.0.type"),
        ({"type": "namespace", "name": "a", "tools": [{"type": "function"}]}, "tools.0.tools.0.name"),
    ],
)
def test_what_a_namespace_lacks_is_named(tool: dict[str, Any], field: str) -> None:
    with pytest.raises(AppError) as refused:
        chat_body({"model": "m", "input": "hi", "tools": [tool]})
    assert refused.value.field == field
