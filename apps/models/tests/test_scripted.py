"""The scripted model keeps the port's promises, since so many tests rest on it."""

import asyncio

import pytest

from apps.core.deltas import Delta, collect
from apps.core.errors import UpstreamError
from apps.core.messages import ChatRequest, Message, ToolCall, user_message
from apps.models.scripted import ScriptedModel, calling, in_turns, saying

REQUEST = ChatRequest(user_message("hi"))


async def test_says_what_it_is_told() -> None:
    model = ScriptedModel(saying("a", "b", finish_reason="length"))
    answer = await collect(model.stream(REQUEST))
    assert (answer.text, answer.finish_reason, answer.model) == ("ab", "length", "scripted")
    assert model.requests == [REQUEST]


async def test_raises_what_it_is_told_and_ends() -> None:
    model = ScriptedModel(lambda _: [Delta("a"), UpstreamError("no")])
    with pytest.raises(UpstreamError, match="no"):
        await collect(model.stream(REQUEST))
    assert model.open == 0


async def test_cancelling_ends_its_work() -> None:
    model = ScriptedModel(lambda _: [60.0])
    task = asyncio.ensure_future(collect(model.stream(REQUEST)))
    await asyncio.sleep(0)
    assert model.open == 1
    task.cancel()
    await asyncio.wait({task})
    assert model.open == 0


async def test_calls_of_tools_come_as_a_model_would_ask_for_them() -> None:
    model = ScriptedModel(calling(("one", {"a": 1}), ("two", "no json"), text="hm"))
    answer = await collect(model.stream(ChatRequest(user_message("hi"))))
    assert (answer.text, answer.finish_reason) == ("hm", "tool_calls")
    assert answer.tool_calls == [ToolCall("call_0_0", "one", '{"a": 1}'), ToolCall("call_0_1", "two", "no json")]


async def test_each_turn_of_a_conversation_has_its_own_script() -> None:
    model = ScriptedModel(in_turns(saying("first"), saying("then")))
    question, told = user_message("hi"), Message("assistant", "first")
    for messages, text in (
        (question, "first"),
        ((*question, told), "then"),
        ((*question, told, told, told), "then"),
        ((*question, told, *question), "first"),
    ):
        assert (await collect(model.stream(ChatRequest(messages)))).text == text
