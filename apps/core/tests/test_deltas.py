"""Collecting a stream is the non-streamed answer: nothing lost, and a cut stream is no answer."""

from collections.abc import AsyncIterator

import pytest

from apps.core.calls import Usage
from apps.core.deltas import Delta, ToolCallDelta, collect
from apps.core.errors import UpstreamError
from apps.core.messages import ToolCall


async def stream(*deltas: Delta) -> AsyncIterator[Delta]:
    for delta in deltas:
        yield delta


async def test_texts_are_joined_and_the_last_word_counts() -> None:
    usage = Usage(3, 2, 1)
    answer = await collect(
        stream(Delta("a", model="m"), Delta(" b"), Delta(finish_reason="length", usage=usage, model="really"))
    )
    assert (answer.text, answer.finish_reason, answer.model, answer.usage) == ("a b", "length", "really", usage)
    assert answer.usage is not None
    assert answer.usage.total_tokens == 5


async def test_pieces_of_tool_calls_are_joined_by_their_index() -> None:
    answer = await collect(
        stream(
            Delta(tool_calls=(ToolCallDelta(1, "b", "g", "{}"),)),
            Delta(tool_calls=(ToolCallDelta(0, "a", "f", '{"x"'), ToolCallDelta(0, None, None, ": 1}"))),
            Delta(finish_reason="tool_calls"),
        )
    )
    assert answer.tool_calls == [ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "g", "{}")]


@pytest.mark.parametrize("deltas", [[], [Delta("half an answer")]])
async def test_a_stream_without_a_finish_reason_was_cut(deltas: list[Delta]) -> None:
    with pytest.raises(UpstreamError, match="cut off"):
        await collect(stream(*deltas))
