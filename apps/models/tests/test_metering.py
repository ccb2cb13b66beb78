"""Every call has one record, opened before it is made and closed once, with what became of it."""

import asyncio
from collections.abc import AsyncGenerator

import anyio
import pytest

from apps.core.callers import ANONYMOUS, Budget, Caller
from apps.core.calls import CANCELLED, CUT_OFF, SHUT_DOWN, CallRecord, Price, Usage
from apps.core.deltas import Delta, collect
from apps.core.errors import ModelUnavailable, RateLimitExceeded
from apps.core.messages import ChatRequest, user_message
from apps.models.metering import Meter, MeteredModel, cut_off_with
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
    assert (record.route, record.requested_model, record.model, record.outcome) == ("/generate", "asked", "m", "ok")
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens, record.cost) == (3, 1, 2, 0.5)
    assert record.caller is ANONYMOUS
    assert record.estimated_tokens == 4 + 7
    assert record.first_token is not None
    assert record.duration >= record.first_token


@pytest.mark.parametrize("streamed", [True, False])
async def test_how_the_caller_wanted_the_answer_is_on_record(streamed: bool) -> None:
    book = Book()
    model = MeteredModel(ScriptedModel(lambda request: WHOLE), Meter([book]), "/generate")
    await collect(model.stream(ChatRequest(user_message("hi"), streamed=streamed)))
    assert [record.streamed for record in book.closed] == [streamed]


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


@pytest.mark.parametrize(
    ("message", "outcome"),
    [(None, "CLIENT_GONE"), ("of another", "CLIENT_GONE"), *((each, each) for each in sorted(CUT_OFF))],
)
async def test_a_call_that_is_cancelled_is_on_record_with_who_did_it(message: str | None, outcome: str) -> None:
    book = Book()
    task = asyncio.ensure_future(collect(metered([10.0], book)))
    await asyncio.sleep(0.01)
    task.cancel(message)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [record.outcome for record in book.closed] == [outcome]


async def test_a_call_that_is_cut_off_before_it_comes_to_a_model_is_estimated_to_cost_nothing() -> None:
    class Waiting(Book):
        async def opening(self, call: CallRecord) -> None:
            begun.set()
            await asyncio.Event().wait()

    begun, book = asyncio.Event(), Book()
    record = CallRecord(ANONYMOUS, "/generate", "m", estimated_cost=3.0)

    async def ask() -> None:
        async with Meter([book, Waiting()]).call(record):
            raise AssertionError("it was opened")

    task = asyncio.create_task(ask())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert book.closed == [record]
    assert (record.outcome, record.estimated_cost) == ("CLIENT_GONE", 0.0)


async def test_work_under_a_cancel_scope_is_cut_off_once_with_its_outcome_and_cleans_up() -> None:
    ends = list[object]()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            ends.extend(error.args)
            for _ in range(5):
                await asyncio.sleep(0)
            ends.append("clean")
            raise

    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_soon(scope.cancel)
        await cut_off_with(work(), lambda _: SHUT_DOWN)
    assert scope.cancelled_caught
    assert ends == [SHUT_DOWN, "clean"]


async def test_work_that_ignores_one_cancellation_is_ended_by_the_next() -> None:
    ignored = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ignored.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(cut_off_with(work(), lambda _: CANCELLED))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await ignored.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


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


def priced(steps: list[Step], caller: Caller, *books: Book, price: Price | None) -> AsyncGenerator[Delta, None]:
    model = MeteredModel(ScriptedModel(lambda request: steps), Meter(books), "/generate", lambda _: price)
    return model.stream(ChatRequest(user_message("a prompt of 20 char"), max_tokens=7, caller=caller))


PRICE = Price(input=1, output=2)
SPENDER = Caller("t", "k", budget=Budget(1, "day"))


async def test_a_call_of_a_key_with_a_budget_says_what_it_may_cost() -> None:
    book = Book()
    await collect(priced(WHOLE, SPENDER, book, price=PRICE))
    await collect(priced(WHOLE, SPENDER, book, price=None))
    await collect(priced(WHOLE, ANONYMOUS, book, price=PRICE))
    assert [record.estimated_cost for record in book.closed] == [(4 * 1 + 7 * 2) / 1e6, None, 0]


async def test_a_cost_that_nobody_told_is_the_prices() -> None:
    book = Book()
    told: list[Step] = [Delta("a"), Delta(finish_reason="stop", usage=Usage(3, 1))]
    await collect(priced(told, ANONYMOUS, book, price=PRICE))
    assert [record.cost for record in book.closed] == [5e-6]
    assert not book.closed[0].estimated


async def test_who_leaves_in_the_middle_has_used_the_prompt_and_the_pieces_that_came() -> None:
    book = Book()
    deltas = priced([Delta("a"), Delta("b"), *WHOLE], ANONYMOUS, book, price=PRICE)
    await anext(deltas)
    await anext(deltas)
    await deltas.aclose()
    (record,) = book.closed
    assert (record.prompt_tokens, record.completion_tokens, record.estimated) == (4, 2, True)
    assert record.cost == 8e-6
