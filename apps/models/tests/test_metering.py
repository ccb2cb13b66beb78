"""Every call has one record, opened before it is made and closed once, with what became of it."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from apps.core.accounting import CallRecord
from apps.core.callers import ANONYMOUS
from apps.core.deltas import Delta, Usage, collect
from apps.core.errors import ModelUnavailable, RateLimitExceeded
from apps.core.messages import ChatRequest, user_message
from apps.models.metering import Meter, MeteredModel
from apps.models.scripted import ScriptedModel, Step

WHOLE: list[Step] = [Delta("a", model="m"), Delta(finish_reason="stop", usage=Usage(3, 1, 2, 0.5), model="m")]


class Book:
    """Notes what it is told; refuses the call where it is told to."""

    def __init__(self, refuses: Exception | None = None, fails: bool = False) -> None:
        self._refuses = refuses
        self._fails = fails
        self.opened: list[CallRecord] = []
        self.closed: list[CallRecord] = []

    async def opening(self, call: CallRecord) -> None:
        if self._refuses:
            raise self._refuses
        self.opened.append(call)

    def closing(self, call: CallRecord) -> None:
        self.closed.append(call)
        if self._fails:
            raise RuntimeError("disk full")


def metered(steps: list[Step], *books: Book) -> AsyncGenerator[Delta, None]:
    model = MeteredModel(ScriptedModel(lambda request: steps), Meter(books), "/generate")
    return model.stream(ChatRequest(user_message("a prompt of 20 char"), model="asked", max_tokens=7))


async def test_a_whole_answer_is_on_record_with_its_usage() -> None:
    book = Book()
    assert (await collect(metered(WHOLE, book))).text == "a"
    (record,) = book.closed
    assert record is book.opened[0]
    assert (record.route, record.asked, record.model, record.outcome) == ("/generate", "asked", "m", "ok")
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens, record.cost) == (3, 1, 2, 0.5)
    assert record.caller is ANONYMOUS
    assert record.estimated_tokens == 4 + 7
    assert record.first_token is not None
    assert record.duration >= record.first_token


async def test_a_failure_is_on_record_under_its_code() -> None:
    book = Book()
    with pytest.raises(ModelUnavailable):
        await collect(metered([ModelUnavailable("loading")], book))
    assert [record.outcome for record in book.closed] == ["MODEL_UNAVAILABLE"]


async def test_a_crash_is_on_record_as_internal_error() -> None:
    book = Book()
    with pytest.raises(ZeroDivisionError):
        await collect(metered([Delta("a"), ZeroDivisionError()], book))
    assert [record.outcome for record in book.closed] == ["INTERNAL_ERROR"]


async def test_a_caller_who_leaves_is_on_record_once() -> None:
    book = Book()
    deltas = metered([Delta("a"), *WHOLE], book)
    await anext(deltas)
    await deltas.aclose()
    assert [record.outcome for record in book.closed] == ["CLIENT_GONE"]


async def test_a_call_that_is_cancelled_is_on_record() -> None:
    book = Book()
    task = asyncio.ensure_future(collect(metered([10.0], book)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [record.outcome for record in book.closed] == ["CLIENT_GONE"]


async def test_who_leaves_with_the_last_delta_in_hand_had_a_whole_answer() -> None:
    book = Book()
    deltas = metered(WHOLE, book)
    while (await anext(deltas)).finish_reason is None:
        pass
    await deltas.aclose()
    assert [record.outcome for record in book.closed] == ["ok"]


async def test_what_one_bookkeeper_refuses_is_closed_for_those_who_opened_it_and_never_made() -> None:
    first, second = Book(), Book(refuses=RateLimitExceeded("no budget"))
    with pytest.raises(RateLimitExceeded):
        await collect(metered(WHOLE, first, second))
    assert [record.outcome for record in first.closed] == ["RATE_LIMIT_EXCEEDED"]
    assert second.closed == []


async def test_a_bookkeeper_that_fails_at_the_end_takes_nothing_from_caller_and_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, failing = Book(), Book(fails=True)
    assert (await collect(metered(WHOLE, first, failing))).text == "a"
    assert len(first.closed) == 1
    assert "Book" in caplog.text
