"""Calls that join an execution under way: who has which answer, who pays, and what becomes of those that leave."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from apps.cache.response_cache import ResponseCache
from apps.cache.store import MemoryStore
from apps.cache.tests.cached_models import END, A, Books, cached_model, len_of, request, rig
from apps.core.callers import Budget, Caller
from apps.core.calls import DISCONNECTED, SHUT_DOWN, CallRecord, Price, Usage
from apps.core.deltas import Delta, collect
from apps.core.errors import AppError, Forbidden, UpstreamError
from apps.models.metering import Meter, MeteredModel
from apps.models.scripted import ScriptedModel


async def test_fifty_at_the_same_time_are_one_execution_and_each_has_the_whole_answer() -> None:
    made = rig()
    answers = await asyncio.gather(*(made.ask() for _ in range(50)))
    assert len(made.model.requests) == 1
    assert all(answer == answers[0] for answer in answers)
    assert sorted(record.cache for record in made.books.closed) == ["hit"] * 49 + ["miss"]
    assert sum(record.cost or 0 for record in made.books.closed) == 0.25
    assert made.cache.counts.joined == 49


async def test_what_is_saved_where_the_answer_tells_no_cost_is_what_its_execution_was_reckoned_at() -> None:
    end = Delta(finish_reason="stop", usage=Usage(1_000_000, 0), model="m")
    model, books = ScriptedModel(lambda request: [0.01, Delta("x"), end]), Books()
    metered = MeteredModel(model, Meter([books]), "/generate", lambda name: Price(input=3, output=0))
    cached = cached_model(metered, ResponseCache(MemoryStore(100_000), 60))
    await asyncio.gather(*(collect(cached.stream(request())) for _ in range(2)))
    await asyncio.sleep(0.01)
    await collect(cached.stream(request()))
    paid = [(record.cache, record.cost, record.saved) for record in books.closed]
    assert sorted(paid) == [("hit", 0.0, 3.0), ("hit", 0.0, 3.0), ("miss", 3.0, 0.0)]


@pytest.mark.parametrize("other", [Caller("b", "key-1"), replace(A, budget=Budget(1, "day"))])
async def test_neither_tenants_nor_budgets_join(other: Caller) -> None:
    made = rig()
    await asyncio.gather(made.ask(), made.ask(caller=other))
    assert len(made.model.requests) == 2


async def test_a_failure_is_everybodys_with_an_error_of_its_own() -> None:
    made = rig([0.01, UpstreamError("no", upstream_status=200)])
    errors = await asyncio.gather(*(made.ask() for _ in range(5)), return_exceptions=True)
    assert len(made.model.requests) == 1
    assert len({id(error) for error in errors}) == 5
    for error in errors:
        assert isinstance(error, AppError)
        assert (error.code, error.details) == ("UPSTREAM_ERROR", {"upstream_status": 200})
    assert {record.outcome for record in made.books.closed} == {"UPSTREAM_ERROR"}


async def test_when_the_first_leaves_it_goes_on_for_the_others_on_its_record() -> None:
    made = rig()
    first = asyncio.create_task(made.ask())
    await asyncio.sleep(0.005)
    second = asyncio.create_task(made.ask())
    await asyncio.sleep(0.005)
    first.cancel()
    assert await second == [Delta("one", model="m"), Delta(" two\r\n", model="m"), END]
    assert len(made.model.requests) == 1
    assert sorted((record.cache, record.outcome, record.cost) for record in made.books.closed) == [
        ("hit", "ok", 0.0),
        ("miss", "ok", 0.25),
    ]


class Deliberate(Books):
    """Takes its time before a free call may begin; ``refuses`` them in the end."""

    refuses = False

    async def opening(self, call: CallRecord) -> None:
        if call.cache == "hit":
            await asyncio.sleep(0.03)
            if self.refuses:
                raise Forbidden("no")


async def test_who_waits_for_his_record_to_be_opened_does_not_lose_the_answer_to_who_leaves() -> None:
    made = rig([0.01, Delta("one"), 0.05, END], books=Deliberate())
    first = asyncio.create_task(made.ask())
    await asyncio.sleep(0.005)
    second = asyncio.create_task(made.ask())
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second)[-1] == END


async def test_who_is_refused_has_left() -> None:
    books = Deliberate()
    books.refuses = True
    made = rig([Delta("one"), 30.0, END], books=books)
    first = asyncio.create_task(made.ask())
    await asyncio.sleep(0.005)
    with pytest.raises(Forbidden):
        await made.ask()
    first.cancel()
    await asyncio.sleep(0.01)
    assert made.model.open == 0


@pytest.mark.parametrize("outcome", [DISCONNECTED, SHUT_DOWN])
async def test_when_all_have_left_it_is_cancelled_and_not_kept(outcome: str) -> None:
    made = rig([Delta("one"), 30.0, END])
    tasks = [asyncio.create_task(made.ask()) for _ in range(3)]
    await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel(outcome)
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert (made.model.open, len_of(made.cache)) == (0, 0)
    assert [record.outcome for record in made.books.closed] == [outcome] * 3


async def test_a_reader_that_stops_early_leaves_as_well() -> None:
    made = rig([Delta("one"), 30.0, END])
    async with aclosing(made.cached.stream(request())) as deltas:
        assert (await anext(deltas)).text == "one"
    await asyncio.sleep(0.01)
    assert made.model.open == 0
