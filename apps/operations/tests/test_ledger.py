"""The ledger on both databases: a row a call, whatever becomes of the database, and none twice."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from apps.core.calls import CallRecord, Usage
from apps.core.errors import StoreUnavailable
from apps.operations.budgets import Budgets
from apps.operations.database import Database
from apps.operations.ledger import Ledger
from apps.operations.ledger_rows import Entry, entry_of
from apps.operations.ledger_store import LedgerStatements, _insert_many
from apps.operations.tables import calls
from apps.tests.support.accounts import books, call, key, written
from apps.tests.support.migrated import create_migrated
from apps.tests.support.postgres_server import PostgresServer, needs_postgres

FREE = key(None)


async def started(database: Database, most_waiting: int = 100) -> Ledger:
    ledger = Ledger(database, most_waiting=most_waiting)
    await ledger.start()
    return ledger


async def row(database: Database) -> dict[str, object]:
    async def read(connection: AsyncConnection) -> dict[str, object]:
        return dict((await connection.execute(select(calls))).mappings().one())

    return await database.read(read)


async def test_a_row_says_what_the_record_says(database: Database) -> None:
    ledger = await started(database)
    record = CallRecord(FREE, "/v1/chat/completions", "asked\0" * 100, streamed=True, model="m", provider="p")
    record.usage, record.duration, record.first_token = Usage(10**12, 3, 2, 0.1), 1.5, 0.5
    ledger.closing(record)
    await ledger.aclose()
    found = await row(database)
    assert (found["id"], found["tenant"], found["key_id"], found["route"]) == (record.id, "t", "k", record.route)
    assert (found["prompt_tokens"], found["completion_tokens"], found["cached_tokens"]) == (10**12, 3, 2)
    assert (found["cost"], found["saved"], found["duration"], found["first_token"]) == (10**8, 0, 1.5, 0.5)
    assert str(found["asked"]).startswith("askedasked")


async def test_a_row_of_a_reused_answer_costs_nothing_and_says_what_it_saved(database: Database) -> None:
    ledger = await started(database)
    record = CallRecord(FREE, "/v1/chat/completions", "m", usage=Usage(1, 1, cost=1e-9))
    record.reuse("hit", 3.0)
    ledger.closing(record)
    await ledger.aclose()
    found = await row(database)
    assert (found["cache"], found["cost"], found["saved"]) == ("hit", 0, 1)


async def test_closing_down_loses_nothing(database: Database) -> None:
    ledger = await started(database, most_waiting=10_000)
    for _ in range(3_500):
        ledger.closing(call(FREE))
    await ledger.aclose()
    assert (await books(database)).rows == 3_500
    assert (ledger.state().waiting, ledger.state().written, ledger.state().lost) == (0, 3_500, 0)


async def test_what_comes_after_the_end_is_counted_as_lost(database: Database) -> None:
    ledger = await started(database)
    await ledger.aclose()
    ledger.closing(call(FREE))
    assert ledger.state().lost == 1


async def test_a_row_that_the_database_refuses_takes_no_other_with_it(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = await started(database)
    bad = call(FREE)
    bad.route = None  # type: ignore[assignment]
    for record in (call(FREE), bad, call(cost=0.0), call(FREE)):
        ledger.closing(record)
    await ledger.aclose()
    assert (await books(database)).rows == 3
    assert ledger.state().lost == 1
    assert "cannot write a call" in caplog.text


async def test_a_full_ledger_loses_and_counts_what_has_no_budget_and_refuses_what_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none", tmp_path)
    ledger = await started(away, most_waiting=10)
    running = call()
    for _ in range(15):
        ledger.closing(call(FREE))
    ledger.closing(running)  # was let in before: its row is kept
    assert (ledger.state().waiting, ledger.state().lost) == (11, 5)
    with pytest.raises(StoreUnavailable):
        await Budgets(away, ledger).opening(call())
    await Budgets(away, ledger).opening(call(FREE))
    await ledger.aclose(within=0.2)
    assert caplog.text.count("takes no more rows") == 1
    assert "11 calls are not in the ledger" in caplog.text


@needs_postgres
@pytest.mark.long
async def test_rows_wait_for_a_database_that_is_away(postgres: PostgresServer, tmp_path: Path) -> None:
    database = Database(create_migrated(postgres, "waiting"), tmp_path)
    await database.start()
    assert await database.ready(20)
    ledger = await started(database)
    try:
        postgres.stop()
        for _ in range(20):
            ledger.closing(call(FREE))
        await asyncio.sleep(0.5)
        assert ledger.state().waiting == 20
    finally:
        postgres.start()
    await written(ledger)
    postgres.freeze()
    try:
        ledger.closing(call(FREE))
        await asyncio.sleep(2.5)  # a batch under way is given up, and written again
    finally:
        postgres.resume()
    await written(ledger)
    await ledger.aclose()
    assert (await books(database)).rows == 21
    await database.aclose()


async def test_a_call_of_which_no_row_can_be_made_stops_no_other(database: Database) -> None:
    ledger = await started(database)
    odd = call(FREE)
    odd.usage = Usage(1, 1, cost=float("inf"))
    for one in (call(FREE), odd, call(FREE)):
        ledger.closing(one)
    await ledger.aclose()
    assert (await books(database)).rows == 2
    assert (ledger.state().waiting, ledger.state().written, ledger.state().lost) == (0, 2, 1)


async def put_down(database: Database, rows: list[Entry]) -> None:
    async def work(connection: AsyncConnection) -> None:
        await LedgerStatements(connection).put(rows)

    await database.write(work)


@pytest.mark.parametrize("count", [1, 2, 3, 511, 513, 1_027])
@pytest.mark.long
async def test_a_batch_of_any_size_is_written_whole_and_once(count: int, database: Database) -> None:
    rows = [entry_of(call(FREE)) for _ in range(count)]
    for _ in range(2):  # a batch that may have been written is written again
        await put_down(database, rows)
    assert (await books(database)).rows == count


@pytest.mark.long
async def test_batches_of_many_sizes_share_few_statements(database: Database) -> None:
    """A connection to SQLite keeps each of them prepared, and one for 500 rows takes much memory."""
    _insert_many.cache_clear()
    for count in range(1, 600, 7):
        await put_down(database, [entry_of(call(FREE)) for _ in range(count)])
    assert _insert_many.cache_info().misses <= 10
