"""Old rows become sums of their day: usage and budgets say the same before, meanwhile and after, whatever happens."""

import asyncio
import time
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from apps.core.callers import Budget
from apps.core.errors import RateLimitExceeded
from apps.operations.budgets import Budgets
from apps.operations.database import Database
from apps.operations.ledger import Ledger, Retention, usage
from apps.operations.ledger_rows import DAY, GROUPS, UsageQuestion, day_of
from apps.operations.ledger_store import LedgerStatements
from apps.operations.tests.aged_calls import KEEPING, NOW, everything, fill, old_calls, rows, told
from apps.tests.support.accounts import call, key


def retention(database: Database, batch: int = 50) -> Retention:
    return Retention(database, KEEPING, batch=batch, pause=0.01, rest=0.01, clock=lambda: NOW)


async def until_done(kept: Retention) -> int:
    """Turns until nothing is left to do."""
    turns = 1
    while await kept.turn():
        turns += 1
    return turns


@pytest.mark.long
async def test_usage_says_the_same_before_meanwhile_and_after(database: Database) -> None:
    await fill(database, old_calls(600))
    before, (total, _, _) = await everything(database), await rows(database)
    kept = retention(database)
    while await kept.turn():
        assert await everything(database) == before
    assert await everything(database) == before
    left, sums, oldest = await rows(database)
    assert oldest == day_of(NOW - KEEPING * DAY)
    assert left + kept.folded == total
    assert 0 < sums < kept.folded


async def test_pages_of_rows_and_sums_follow_each_other(database: Database) -> None:
    await fill(database, old_calls(200))
    await until_done(retention(database))
    whole = await told(database, *GROUPS)
    first, last = day_of(NOW - 30 * DAY), day_of(NOW + DAY)
    seen: list[object] = []
    while page := (await usage(database, UsageQuestion(first, last, GROUPS, {}, 7, len(seen)))).rows:
        seen += page
    assert seen == whole.rows


@pytest.mark.long
async def test_a_turn_is_bounded_and_one_more_changes_nothing(database: Database) -> None:
    await fill(database, [record for record in old_calls(400) if record.begun_at < NOW - 10 * DAY])
    total, _, _ = await rows(database)
    kept = retention(database, batch=30)
    assert await kept.turn()
    assert kept.folded == 30
    assert await until_done(kept) == (total - 30) // 30 + 1
    after = await everything(database), await rows(database)
    assert not await kept.turn()
    assert not await retention(database, batch=30).turn()
    assert (await everything(database), await rows(database)) == after


async def test_rows_that_come_late_are_added_to_the_sums_of_their_day(database: Database) -> None:
    early, late = old_calls(100, seed=1), old_calls(100, seed=2)
    await fill(database, early)
    await until_done(retention(database))
    await fill(database, late)
    expected = await everything(database)
    await until_done(retention(database))
    assert await everything(database) == expected
    assert (await told(database)).total["calls"] == 200


async def test_a_turn_that_fails_has_changed_nothing(database: Database) -> None:
    await fill(database, old_calls(200))
    before = await everything(database), await rows(database)

    async def fail(connection: AsyncConnection) -> None:
        assert await LedgerStatements(connection).fold(day_of(NOW), 100) == 100
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(fail)
    assert (await everything(database), await rows(database)) == before


@pytest.mark.long
async def test_several_processes_at_once_count_every_row_once(url: str, tmp_path: Path) -> None:
    opened = [Database(url, tmp_path, 60.0) for _ in range(3)]
    for database in opened:
        await database.start()
        assert await database.ready(60)
    try:
        await fill(opened[0], old_calls(1_500))
        before, (total, _, _) = await everything(opened[0]), await rows(opened[0])
        kept = [retention(database, batch=20) for database in opened]
        for one in kept:
            await one.start()
        async with asyncio.timeout(60):
            while (await rows(opened[0]))[2] < day_of(NOW - KEEPING * DAY):
                assert await told(opened[0]) == await told(opened[1])
        await asyncio.sleep(0.2)  # the last turns hear of their end
        for one in kept:
            await one.aclose()
        assert await everything(opened[0]) == before
        assert sum(one.folded for one in kept) == total - (await rows(opened[0]))[0]
        assert sum(one.folded > 0 for one in kept) > 1
    finally:
        for database in opened:
            await database.aclose()


@pytest.mark.long
async def test_the_ledger_and_budgets_go_on_beside_it(database: Database) -> None:
    await fill(database, old_calls(1_000))
    ledger = Ledger(database)
    kept = retention(database, batch=20)
    await ledger.start()
    await kept.start()
    budgets = Budgets(database, ledger)
    for _ in range(50):
        record = call(key(Budget(1e6, "month")), cost=1.0)
        await budgets.opening(record)
        ledger.closing(record)
    await ledger.aclose()
    await kept.aclose()
    assert (ledger.state().written, ledger.state().lost) == (50, 0)
    assert kept.folded > 0


async def test_a_budget_that_begins_counts_what_has_become_a_sum(database: Database) -> None:
    paying, spent = key(Budget(10, "month"), id="k1"), call(key(None, id="k1"), cost=10.0)
    now = time.time()
    spent.begun_at = now
    await fill(database, [spent])
    # a clock that is ahead: in truth rows of the current month are as old as the month at the most
    kept = Retention(database, 1, clock=lambda: now + 3 * DAY)
    await kept.turn()
    assert (kept.folded, (await rows(database))[0]) == (1, 0)
    ledger = Ledger(database)
    with pytest.raises(RateLimitExceeded) as refused:
        await Budgets(database, ledger).opening(call(paying))
    assert refused.value.details["spent"] == 10
    await Budgets(database, ledger).opening(call(key(Budget(10, "month"), id="k2")))


async def test_a_day_that_is_not_over_keeps_its_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not over"):
        Retention(Database("", tmp_path), 0)
