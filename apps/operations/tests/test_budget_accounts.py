"""What spends bit by bit looks at its budget between: on both databases, from several tasks and processes at once."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from apps.core.callers import Budget
from apps.core.calls import ACCOUNT, CUT_OFF, Account, CallRecord, Usage
from apps.core.errors import RateLimitExceeded, StoreUnavailable
from apps.operations.budgets import Budgets
from apps.operations.database import Database
from apps.operations.ledger import Ledger
from apps.operations.ledger_store import LedgerStatements
from apps.tests.support.accounts import BILLION, Meter, books, call, key, written


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    made = Ledger(database)
    await made.start()
    yield made
    await made.aclose()


@pytest.fixture
def budgets(database: Database, ledger: Ledger) -> Budgets:
    return Budgets(database, ledger)


@pytest.fixture
def meter(ledger: Ledger, budgets: Budgets) -> Meter:
    return Meter([ledger, budgets])


def account() -> Account:
    found = ACCOUNT.get()
    assert found is not None
    return found


async def test_it_ends_when_the_call_itself_has_used_up_the_budget(
    meter: Meter, ledger: Ledger, budgets: Budgets, database: Database
) -> None:
    record = call(estimated=20.0)
    with pytest.raises(RateLimitExceeded, match="is used up") as raised:
        async with meter.call(record):
            for _ in range(9):
                account().spent(1.0)
                await account().check()
            account().spent(1.5)
            await account().check()
    assert (raised.value.details["source"], raised.value.details["spent"]) == ("budget", 10.5)
    assert (raised.value.details["reserved"], budgets.state().exhausted) == (0.0, 1)
    await written(ledger)
    after = await books(database)
    assert (after.spent, after.cost, after.reserved, after.reservations) == (10.5 * BILLION, 10.5 * BILLION, 0, 0)


async def test_it_ends_when_others_have_used_up_the_budget(meter: Meter, ledger: Ledger) -> None:
    with pytest.raises(RateLimitExceeded, match="is used up"):
        async with meter.call(call(estimated=1.0)):
            mine = account()
            mine.spent(0.5)
            async with meter.call(call(cost=9.5)):
                await mine.check()  # what others have but reserved is theirs, and what this one reserved is its own
            await written(ledger)
            await mine.check()


async def test_what_goes_beyond_its_reservation_is_seen_by_others(meter: Meter, database: Database) -> None:
    async with meter.call(call(estimated=1.0)) as _:
        mine = account()
        mine.spent(8.0)
        await mine.check()
        assert (await books(database)).reserved == 8 * BILLION
        async with meter.call(call(estimated=2.0)):
            mine.spent(0.5)
            with pytest.raises(RateLimitExceeded, match="reserved by calls under way") as raised:
                await mine.check()
            assert raised.value.details["reserved"] == 2.0
            with pytest.raises(RateLimitExceeded):
                async with meter.call(call()):
                    raise AssertionError("let in")
            assert (await books(database)).consistent


@pytest.mark.long
async def test_twenty_at_once_overspend_by_their_last_steps_alone(
    meter: Meter, ledger: Ledger, database: Database
) -> None:
    async def run() -> None:
        async with meter.call(call(estimated=0.01)):
            for _ in range(100):
                await asyncio.sleep(0)
                account().spent(0.1)
                await account().check()

    results = await asyncio.gather(*(run() for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {RateLimitExceeded}
    await written(ledger)
    after = await books(database)
    assert after.consistent
    assert 9 * BILLION < after.spent <= (10 + 20 * 0.1) * BILLION


async def test_a_reservation_that_was_given_back_meanwhile_is_made_again(
    meter: Meter, ledger: Ledger, database: Database
) -> None:
    async with meter.call(call(estimated=1.0)):
        id = next(iter(ledger._held))
        await database.write(lambda connection: LedgerStatements(connection).renew([id], 1.0))
        assert await database.write(lambda connection: LedgerStatements(connection).forget_expired()) == 1
        account().spent(2.0)
        await account().check()
        held = await books(database)
        assert (held.reserved, held.reservations, held.consistent) == (2 * BILLION, 1, True)
    await written(ledger)
    after = await books(database)
    assert (after.spent, after.reserved, after.reservations) == (2 * BILLION, 0, 0)


@pytest.mark.parametrize("outcome", sorted(CUT_OFF))
async def test_a_call_that_is_cut_off_costs_what_was_reserved_or_what_its_parts_have_cost_if_that_is_more(
    meter: Meter, ledger: Ledger, database: Database, outcome: str
) -> None:
    async def leave(estimated: float, cost: float) -> None:
        async with meter.call(call(key(Budget(100, "day")), estimated=estimated)):
            account().spent(cost)
            raise asyncio.CancelledError(outcome)

    for estimated, cost, paid in ((3.0, 5.0, 5.0), (3.0, 1.0, 5.0 + 3.0), (0.0, 0.5, 8.0 + 0.5)):
        await asyncio.wait({asyncio.create_task(leave(estimated, cost))})
        await written(ledger)
        assert (await books(database)).spent == paid * BILLION


async def test_what_was_expected_to_cost_nothing_and_does_cost_is_looked_at(meter: Meter) -> None:
    async with meter.call(call(estimated=0.0)):
        await account().check()
        account().spent(11.0)
        with pytest.raises(RateLimitExceeded, match="is used up"):
            await account().check()


async def test_without_an_answer_from_the_database_nothing_more_is_spent(
    meter: Meter, budgets: Budgets, database: Database
) -> None:
    with pytest.raises(StoreUnavailable):
        async with meter.call(call()):
            account().spent(0.1)
            await database.aclose()
            await account().check()
    assert budgets.state().unavailable == 1


@pytest.mark.long
async def test_calls_that_cost_nothing_and_keys_without_a_budget_ask_no_database(
    meter: Meter, database: Database
) -> None:
    async with meter.call(call(estimated=0.0)):
        await database.aclose()
        await account().check()
    ACCOUNT.set(None)
    async with meter.call(call(key(None))):
        assert ACCOUNT.get() is None


@pytest.mark.parametrize(
    ("told", "estimated", "cost"),
    [(None, False, 0.3), (0.2, True, 0.3), (0.2, False, 0.2), (0.4, False, 0.4)],
)
@pytest.mark.long
async def test_a_record_that_was_told_no_cost_has_that_of_its_parts(
    told: float | None, estimated: bool, cost: float, meter: Meter
) -> None:
    record: CallRecord = call(key(Budget(10, "day")))
    async with meter.call(record):
        account().spent(0.1)
        account().spent(0.2)
        record.usage = Usage(1, 1, cost=told, estimated=estimated)
    assert record.cost == pytest.approx(cost)
