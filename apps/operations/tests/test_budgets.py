"""Budgets on both databases: reserved before, settled once after, and never overspent by more than a call."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from apps.core.callers import Budget, Caller
from apps.core.calls import CANCELLED, DISCONNECTED, SHUT_DOWN, CallRecord, Usage
from apps.core.errors import Forbidden, RateLimitExceeded, StoreUnavailable
from apps.operations.budgets import Budgets, BudgetState
from apps.operations.database import Database
from apps.operations.ledger import Ledger
from apps.operations.ledger_rows import Charge, day_of, entry_of
from apps.operations.ledger_store import LedgerStatements
from apps.tests.support.accounts import BILLION, TEN, Meter, books, call, key, written


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    made = Ledger(database)
    await made.start()
    yield made
    await made.aclose()


@pytest.fixture
def held(database: Database, ledger: Ledger) -> Budgets:
    return Budgets(database, ledger)


@pytest.fixture
def meter(ledger: Ledger, held: Budgets) -> Meter:
    return Meter([ledger, held])


async def make(meter: Meter, record: CallRecord, cost: float | None = 1.0, seconds: float = 0) -> CallRecord:
    async with meter.call(record):
        await asyncio.sleep(seconds)
        record.usage = Usage(1, 1, cost=cost)
    return record


async def test_a_call_is_reserved_while_it_runs_and_settled_when_it_ends(
    meter: Meter, ledger: Ledger, database: Database
) -> None:
    record = call(estimated=3.0)
    async with meter.call(record):
        during = await books(database)
        record.usage = Usage(1, 1, cost=0.5)
    assert (during.rows, during.spent, during.reserved, during.reservations) == (0, 0, 3 * BILLION, 1)
    await written(ledger)
    after = await books(database)
    assert (after.rows, after.spent, after.reserved, after.reservations) == (1, BILLION // 2, 0, 0)


async def test_a_hundred_parallel_calls_on_a_budget_for_ten_are_ten(
    meter: Meter, ledger: Ledger, database: Database
) -> None:
    calls = [make(meter, call(), seconds=0.5) for _ in range(100)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {CallRecord, RateLimitExceeded}
    await written(ledger)
    after = await books(database)
    assert after.consistent
    assert after.spent == 10 * BILLION
    assert after.rows == 100


@pytest.mark.long
async def test_several_processes_hold_one_budget_together(url: str, tmp_path: Path) -> None:
    databases = [Database(url, tmp_path, 60.0) for _ in range(3)]
    ledgers = [Ledger(database) for database in databases]
    for database, ledger in zip(databases, ledgers, strict=True):
        await database.start()
        await ledger.start()
    assert all([await database.ready(90) for database in databases])
    meters = [Meter([ledger, Budgets(database, ledger)]) for database, ledger in zip(databases, ledgers, strict=True)]
    calls = [make(meters[i % 3], call(), seconds=0.3) for i in range(60)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    for ledger in ledgers:
        await ledger.aclose()
    after = await books(databases[0])
    assert [type(result) for result in results].count(CallRecord) == 10
    assert (after.consistent, after.spent, after.reserved) == (True, 10 * BILLION, 0)
    for database in databases:
        await database.aclose()


@pytest.mark.long
async def test_calls_that_begin_a_period_together_are_all_let_in(
    meter: Meter, ledger: Ledger, database: Database
) -> None:
    for i in range(10):
        caller = key(TEN, id=f"k{i}")
        results = await asyncio.gather(*(make(meter, call(caller)) for _ in range(8)), return_exceptions=True)
        assert [result for result in results if isinstance(result, BaseException)] == []


async def test_the_refusal_says_what_is_spent_and_when_to_come_back(meter: Meter, ledger: Ledger) -> None:
    for period, latest in (("day", 86_400), ("month", 31 * 86_400)):
        caller = key(Budget(1.5, period), id=period)  # type: ignore[arg-type]
        for _ in range(2):
            await make(meter, call(caller), cost=0.8)
        await written(ledger)
        with pytest.raises(RateLimitExceeded) as refused:
            await make(meter, call(caller))
        assert refused.value.details == {
            "source": "budget",
            "limit": 1.5,
            "spent": 1.6,
            "reserved": 0,
            "period": period,
        }
        assert refused.value.retry_after is not None
        assert 1 <= refused.value.retry_after <= latest


async def test_what_running_calls_have_reserved_is_worth_waiting_for(
    meter: Meter, ledger: Ledger, held: Budgets
) -> None:
    async with meter.call(call(estimated=12.0)):
        with pytest.raises(RateLimitExceeded) as refused:
            await make(meter, call())
        assert refused.value.details["reserved"] == 12
        assert refused.value.retry_after == 5
        # what was refused holds nothing
        assert (ledger.state().reservations, held.state()) == (1, BudgetState(exhausted=1, unavailable=0))
    await written(ledger)
    await make(meter, call())


async def test_where_its_period_is_over_a_refusal_is_for_a_second(meter: Meter, ledger: Ledger) -> None:
    yesterday = time.time() - 86_400
    for refused in (False, True):
        record = call()
        record.begun_at = yesterday
        if refused:
            with pytest.raises(RateLimitExceeded, match="The day's budget of this key is used up") as raised:
                await make(meter, record)
            assert raised.value.retry_after == 1
        else:
            await make(meter, record, cost=11.0)
            await written(ledger)


async def test_what_a_key_has_spent_and_reserved_in_its_period_is_its_standing(
    meter: Meter, ledger: Ledger, held: Budgets
) -> None:
    assert await held.standing(key()) == (0.0, 0.0)
    await make(meter, call(), cost=2.5)
    await make(meter, call(key(TEN, id="other")), cost=4.0)
    await written(ledger)
    async with meter.call(call(estimated=1.5)):
        assert await held.standing(key()) == (2.5, 1.5)
        # without a budget, and without a key, there is none
        assert await held.standing(key(None)) == (0.0, 0.0)
        assert await held.standing(Caller("t", budget=TEN)) == (0.0, 0.0)


async def test_where_rows_are_about_to_be_lost_nothing_is_spent(tmp_path: Path) -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none", tmp_path)
    ledger = Ledger(away, most_waiting=1)
    held = Budgets(away, ledger)
    ledger.closing(call())
    with pytest.raises(StoreUnavailable):
        await held.opening(call())
    assert held.state() == BudgetState(exhausted=0, unavailable=1)
    await held.opening(call(estimated=0.0))


async def test_a_caller_that_asks_one_after_the_other_never_meets_its_own_reservations(
    meter: Meter, ledger: Ledger
) -> None:
    caller = key(Budget(10, "day"), id="alone")
    for _ in range(8):
        # each is expected to cost all of the budget, and costs next to nothing
        await make(meter, call(caller, estimated=10.0), cost=0.01)
    await written(ledger)


@pytest.mark.parametrize(
    ("ending", "spent"),
    [
        ({"cost": 0.25}, 0.25),
        ({"cost": None}, 0.0),  # an error, say: nobody told of a cost
        ({"cost": None, "cache": "hit"}, 0.0),
        ({"cost": 4.0, "cache": "replay"}, 0.0),
    ],
)
async def test_however_a_call_ends_it_is_settled_once(
    ending: dict[str, object], spent: float, meter: Meter, ledger: Ledger, database: Database
) -> None:
    record = call(estimated=3.0)
    async with meter.call(record):
        for name, value in ending.items():
            if name != "cost":
                setattr(record, name, value)
            elif isinstance(value, float):
                record.usage = Usage(1, 1, cost=value)
    await written(ledger)
    after = await books(database)
    assert (after.consistent, after.spent, after.reserved, after.rows) == (True, round(spent * BILLION), 0, 1)


async def answer_never(meter: Meter, record: CallRecord, let_in: asyncio.Event) -> None:
    async with meter.call(record):
        let_in.set()
        await asyncio.Event().wait()


async def test_a_call_that_is_cut_off_before_anything_is_known_costs_what_was_reserved(
    meter: Meter, ledger: Ledger, database: Database
) -> None:
    cases = ((None, DISCONNECTED, 3.0), (0.5, DISCONNECTED, 3.5), (None, CANCELLED, 6.5), (None, SHUT_DOWN, 9.5))
    for cost, outcome, spent in cases:
        let_in = asyncio.Event()
        task = asyncio.create_task(answer_never(meter, call(estimated=3.0, cost=cost), let_in))
        await let_in.wait()
        task.cancel(outcome)
        await asyncio.wait({task})
        await written(ledger)
        assert (await books(database)).spent == round(spent * BILLION)


async def test_a_batch_that_is_written_twice_is_charged_once(database: Database) -> None:
    entries = [entry_of(call(cost=0.1)) for _ in range(5)] + [entry_of(call(key(None), cost=0.1)) for _ in range(5)]
    await database.write(lambda connection: _begin(connection))
    for _ in range(3):
        await database.write(lambda connection: LedgerStatements(connection).put(entries))
    after = await books(database)
    assert (after.rows, after.spent) == (10, BILLION // 2)


async def _begin(connection: AsyncConnection) -> None:
    charge = Charge("k", day_of(time.time()), 0)
    await LedgerStatements(connection).reserve("x", charge, BILLION, time.time() + 9)


@pytest.mark.long
async def test_what_a_key_has_cost_before_it_had_a_budget_counts(
    meter: Meter, ledger: Ledger, database: Database
) -> None:
    for _ in range(3):
        await make(meter, call(key(None)), cost=4.0)
    await written(ledger)
    with pytest.raises(RateLimitExceeded):
        await make(meter, call(key(TEN)))


async def test_what_costs_nothing_or_has_no_budget_never_asks_the_database(tmp_path: Path) -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none", tmp_path)
    budgets = Budgets(away, Ledger(away))
    await budgets.opening(call(key(None)))
    await budgets.opening(call(estimated=0.0))


async def test_without_a_database_a_budget_is_closed_at_once(tmp_path: Path) -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none", tmp_path)
    await away.start()
    ledger = Ledger(away)
    budgets = Budgets(away, ledger)
    with pytest.raises(StoreUnavailable):
        await budgets.opening(call())
    assert (budgets.state().unavailable, ledger.state().reservations) == (1, 0)
    await away.aclose()


async def test_a_model_without_a_price_is_not_for_a_key_with_a_budget(meter: Meter) -> None:
    with pytest.raises(Forbidden, match="price") as refused:
        await make(meter, call(estimated=None))
    assert (refused.value.field, refused.value.details) == ("model", {"model": "m"})
    await make(meter, call(key(None), estimated=None))


@pytest.mark.long
async def test_a_reservation_lives_as_long_as_its_call_and_no_longer_than_its_process(
    database: Database, url: str, tmp_path: Path
) -> None:
    dead_database = Database(url, tmp_path, 60.0)
    await dead_database.start()
    assert await dead_database.ready(90)
    dead, alive = Ledger(dead_database, lease=0.9), Ledger(database, lease=0.9)
    await alive.start()
    await Budgets(dead_database, dead).opening(call(estimated=2.0))  # nobody renews it: dead was never started
    running = call(estimated=3.0)
    async with Meter([alive, Budgets(database, alive)]).call(running):
        assert (await books(database)).reserved == 5 * BILLION
        await asyncio.sleep(2.2)
        during = await books(database)
        running.usage = Usage(1, 1, cost=1.0)
    assert (during.reserved, during.reservations) == (3 * BILLION, 1)
    await alive.aclose()
    after = await books(database)
    assert (after.consistent, after.spent, after.reserved) == (True, BILLION, 0)
    await dead_database.aclose()
