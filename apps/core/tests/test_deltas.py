"""Collecting a stream is the non-streamed answer: nothing lost, and a cut stream is no answer."""

from collections.abc import AsyncGenerator
from typing import cast

import pytest

from apps.core.calls import Usage
from apps.core.deltas import (
    Citation,
    Delta,
    PromptTokens,
    TokenLogprob,
    ToolCallDelta,
    begin,
    citations_json,
    collect,
)
from apps.core.errors import UpstreamError
from apps.core.messages import ToolCall


async def stream(*deltas: Delta) -> AsyncGenerator[Delta, None]:
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


async def test_all_that_comes_with_deltas_is_in_the_answer() -> None:
    first, second = TokenLogprob("a", b"a", -0.5), TokenLogprob("b", b"b", -1.0)
    prompt, citations = PromptTokens((1, 2)), (Citation(1, "d", "n", None, (), 0, 4, 0.5, "text"),)
    answer = await collect(
        stream(
            Delta("a", logprobs=(first,), tokens=(7,), prompt=prompt, citations=citations, reasoning="Let"),
            Delta("b", logprobs=(second,), tokens=(8, 9), reasoning=" me see"),
            Delta(finish_reason="stop", stopped_by=0),
        )
    )
    assert (answer.text, answer.reasoning, answer.logprobs) == ("ab", "Let me see", [first, second])
    assert (answer.tokens, answer.prompt, answer.citations) == ([7, 8, 9], prompt, citations)
    # a stop token may be the number 0
    assert answer.stopped_by == 0


async def test_no_citations_are_not_the_same_as_none_asked_for() -> None:
    empty = await collect(stream(Delta("a", citations=()), Delta(finish_reason="stop")))
    without = await collect(stream(Delta("a"), Delta(finish_reason="stop")))
    assert (empty.citations, without.citations, without.stopped_by) == ((), None, None)


async def test_a_tool_call_without_id_and_name_has_empty_ones() -> None:
    answer = await collect(stream(Delta(tool_calls=(ToolCallDelta(0),), finish_reason="tool_calls")))
    assert answer.tool_calls == [ToolCall("", "", "")]


async def test_the_first_delta_is_waited_for_and_the_rest_comes_behind_it() -> None:
    begun = await begin(stream(Delta("a"), Delta("b"), Delta(finish_reason="stop")))
    assert begun.first == Delta("a")
    assert [delta.text async for delta in begun.rest] == ["b", ""]


async def test_a_stream_without_any_delta_was_cut() -> None:
    with pytest.raises(UpstreamError, match="cut off"):
        await begin(stream())


async def test_what_fails_before_the_first_delta_is_raised_and_the_stream_is_closed() -> None:
    class Failing:
        """A stream whose first delta fails, though it is not over."""

        closed = False

        async def __anext__(self) -> Delta:
            raise KeyError("x")

        async def aclose(self) -> None:
            self.closed = True

    failing = Failing()
    with pytest.raises(KeyError):
        await begin(cast("AsyncGenerator[Delta, None]", failing))
    assert failing.closed


def test_citations_are_written_with_their_spans() -> None:
    plain = Citation(1, "d", "handbook.md", None, ("Handbook", "Leave"), 3, 9, 0.75, "thirty")
    supported = Citation(2, "e", "scan.pdf", 4, (), 0, 4, 0.5, "days", support=(1, 3))
    assert citations_json([plain, supported]) == [
        {
            "number": 1,
            "document": "d",
            "name": "handbook.md",
            "page": None,
            "heading": ["Handbook", "Leave"],
            "span": [3, 9],
            "score": 0.75,
            "quote": "thirty",
            "support": None,
        },
        {
            "number": 2,
            "document": "e",
            "name": "scan.pdf",
            "page": 4,
            "heading": [],
            "span": [0, 4],
            "score": 0.5,
            "quote": "days",
            "support": [1, 3],
        },
    ]
