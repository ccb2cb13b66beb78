"""The scripted model keeps the port's promises, since so many tests rest on it."""

import asyncio

import pytest

from apps.core.deltas import Delta, collect
from apps.core.errors import UpstreamError
from apps.core.messages import ChatRequest, user_message
from apps.models.scripted import ScriptedModel, saying

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
