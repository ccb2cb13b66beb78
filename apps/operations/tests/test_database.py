"""The database on both kinds: transactions, times, migrations up and down, and its absence."""

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

from apps.core.errors import StoreUnavailable
from apps.operations.database import Database
from apps.operations.engines import FOLDER, is_up_to_date, latest_revision, migrate, open_engine
from apps.operations.tables import key_changes, metadata
from apps.tests.support.postgres_server import PostgresServer
from apps.tests.support.waiting import HANG_SECONDS


async def number(connection: AsyncConnection) -> int:
    return int((await connection.execute(select(key_changes.c.number))).scalar_one())


async def raise_by_one(connection: AsyncConnection) -> None:
    """Reads, waits and writes: two of these at the same time must not lose one."""
    before = await number(connection)
    await asyncio.sleep(0.001)
    await connection.execute(update(key_changes).values(number=before + 1))


async def test_what_is_written_is_read(database: Database) -> None:
    await database.write(raise_by_one)
    assert await database.read(number) == 1


async def test_what_is_read_together_is_of_one_moment(database: Database) -> None:
    async def twice(connection: AsyncConnection) -> tuple[int, int]:
        before = await number(connection)
        await database.write(raise_by_one)
        return before, await number(connection)

    before, after = await database.read(twice)
    assert before == after
    assert await database.read(number) == before + 1


async def test_what_fails_is_not_written(database: Database) -> None:
    async def fail(connection: AsyncConnection) -> None:
        await raise_by_one(connection)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(fail)
    assert await database.read(number) == 0


async def test_a_violated_constraint_is_not_taken_for_an_outage(database: Database) -> None:
    async def twice(connection: AsyncConnection) -> None:
        await connection.execute(key_changes.insert().values(id=1, number=5))

    with pytest.raises(IntegrityError):
        await database.write(twice)


async def test_writers_that_read_first_lose_nothing_on_sqlite(tmp_path: Path) -> None:
    first, second = Database("", tmp_path, 60.0), Database("", tmp_path, 60.0)
    for database in (first, second):
        await database.start()
        assert await database.ready(90)
    try:
        await asyncio.gather(*(database.write(raise_by_one) for database in (first, second) for _ in range(30)))
        assert await first.read(number) == 60
    finally:
        await first.aclose()
        await second.aclose()


async def test_what_takes_too_long_is_unavailable_in_time(tmp_path: Path) -> None:
    never = asyncio.Event()

    async def slow(connection: AsyncConnection) -> None:
        await never.wait()

    database = Database("", tmp_path, 0.5)
    await database.start()
    assert await database.ready(60)
    with pytest.raises(StoreUnavailable):
        await database.read(slow)
    assert await database.read(number) == 0
    await database.aclose()


async def test_a_busy_event_loop_is_not_taken_for_a_silent_database(tmp_path: Path) -> None:
    database = Database("", tmp_path, seconds=0.05)
    await database.start()
    assert await database.ready(90)
    turns = 0

    async def other_calls() -> None:
        nonlocal turns
        while True:
            time.sleep(0.01)  # noqa: ASYNC251 - the turns of a loop that serves many calls
            turns += 1
            await asyncio.sleep(0)

    busy = asyncio.create_task(other_calls())
    try:
        assert await database.read(number) == 0
    finally:
        busy.cancel()
    assert turns > 1, "the answer came within the first turn, and shows nothing"
    await database.aclose()


async def test_a_cancelled_write_is_rolled_back_and_leaves_its_connection(database: Database) -> None:
    async def slow(connection: AsyncConnection) -> None:
        await raise_by_one(connection)
        await asyncio.sleep(5)

    for _ in range(20):
        task = asyncio.create_task(database.write(slow))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.sleep(0.1)
    assert await database.read(number) == 0


async def test_whenever_it_is_closed_it_leaves_nothing_running(tmp_path: Path) -> None:
    """What is left would be cancelled a second time with the loop, and aiosqlite would never end."""
    for number in range(20):
        database = Database("", tmp_path)
        await database.start()
        assert await database.ready(90)
        asked = asyncio.create_task(database.write(raise_by_one))
        await asyncio.sleep(number * 0.0002)
        asked.cancel()
        await asyncio.wait({asked})
        await database.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_cancelled_writer_does_not_keep_the_lock_of_sqlite(tmp_path: Path) -> None:
    """Wherever it was cancelled; another process must not have to wait for this one's garbage collector."""
    first, second = Database("", tmp_path, 60.0), Database("", tmp_path, 60.0)
    for database in (first, second):
        await database.start()
        assert await database.ready(90)
    gc.disable()
    try:
        kept = []
        for number in range(30):
            kept.append(asyncio.create_task(first.write(raise_by_one)))
            await asyncio.sleep(number * 0.0001)
            kept[-1].cancel()
            await second.write(raise_by_one)
    finally:
        gc.enable()
        await first.aclose()
        await second.aclose()


async def test_a_migration_can_go_down_and_up_again(empty_url: str, tmp_path: Path) -> None:
    engine = open_engine(empty_url, tmp_path, 60.0, patient=True)

    async def tables() -> set[str]:
        async with engine.connect() as connection:
            return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))

    try:
        for _ in range(2):
            await migrate(engine)
            assert await tables() == {*metadata.tables, "alembic_version"}
            async with engine.connect() as connection:
                assert await is_up_to_date(connection)
            await migrate(engine, "base")
            assert await tables() == {"alembic_version"}
    finally:
        await engine.dispose()


async def test_the_migrations_make_the_tables_that_the_code_knows(empty_url: str, tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def differences(connection: Any) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    engine = open_engine(empty_url, tmp_path, 60.0, patient=True)
    try:
        await migrate(engine)
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
    finally:
        await engine.dispose()


def test_the_latest_revision_is_alembics_head() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [latest_revision()]


async def test_many_that_start_at_once_migrate_once(empty_url: str, tmp_path: Path) -> None:
    databases = [Database(empty_url, tmp_path, 60.0) for _ in range(6)]
    for database in databases:
        await database.start()
    try:
        assert all(await asyncio.gather(*(database.ready(90) for database in databases)))
        assert await databases[0].read(number) == 0
    finally:
        for database in databases:
            await database.aclose()


async def test_a_database_that_is_not_there_is_waited_for(postgres: PostgresServer, tmp_path: Path) -> None:
    database = Database(postgres.url_of("later"), tmp_path)
    await database.start()
    try:
        with pytest.raises(StoreUnavailable) as refused:
            await database.read(number)
        assert refused.value.status == 503
        assert refused.value.retry_after == 1
        postgres.create("later")
        assert await database.ready(90)
        assert await database.read(number) == 0
    finally:
        await database.aclose()


@pytest.mark.long
async def test_it_comes_back_after_a_stop_and_after_silence(postgres: PostgresServer, tmp_path: Path) -> None:
    database = Database(postgres.create("outage"), tmp_path)
    await database.start()
    assert await database.ready(90)
    try:
        for begin, end in ((postgres.stop, postgres.start), (postgres.freeze, postgres.resume)):
            await asyncio.to_thread(begin)
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await database.read(number)
            await asyncio.to_thread(end)
            async with asyncio.timeout(HANG_SECONDS):
                await answers(database)
    finally:
        await database.aclose()


async def answers(database: Database) -> None:
    """Wait until it does."""
    while True:
        try:
            await database.read(number)
        except StoreUnavailable:
            await asyncio.sleep(0.01)
        else:
            return


async def test_a_mistake_in_sql_is_a_mistake_and_holds_no_values(database: Database) -> None:
    async def wrong(connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT nothing FROM key_changes WHERE number = :it"), {"it": 4711})

    with pytest.raises((ProgrammingError, OperationalError)) as caught:
        await database.read(wrong)
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize("value", ["a\0b", "x" * 40])
async def test_a_value_that_the_database_does_not_take_is_no_outage(value: str, database: Database) -> None:
    async def odd(connection: AsyncConnection) -> None:
        await connection.execute(text("INSERT INTO daily_usage (day) VALUES (:day)"), {"day": value})

    # SQLite takes the value, and refuses the row for what it lacks
    with pytest.raises(DBAPIError):
        await database.write(odd)
    assert await database.read(number) == 0
